"""Where a command computes, and what it does with memory."""

import ctypes
import subprocess
import sys

import pytest
import torch

from tadp_d2.device import find_device
from tadp_d2.errors import UserError

# Page faults of 30 tensors of 64 MiB, one after the other, after another 30.
FAULTS = """
import resource, torch
from tadp_d2.device import keep_freed_memory

keep_freed_memory("cpu")
counts = []
for _ in range(2):
    for _ in range(30):
        torch.ones(2**24)
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(counts[1] - counts[0])
"""


def test_an_unknown_device_is_an_error():
    assert find_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="--device tpu99: cannot be used"):
        find_device("tpu99")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_memory_that_was_freed_is_used_again_without_asking_the_system():
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    )
    # Given back, each would be 16384 pages, or 32 large ones, asked for anew.
    assert int(done.stdout) < 30 * 32
