"""Randomness that depends on what is drawn and not on what was drawn before.

A seed is derived from a purpose and numbers, such as the run's seed, iteration and process. So
nothing of a generator's state has to be kept to continue a run, and the number of data-loading
workers does not matter.
"""

import contextlib
import random
import zlib
from collections.abc import Iterator

import numpy as np
import torch


def derive_seed(purpose: str, *numbers: int) -> int:
    """A seed of 64 bits.

    Args:
        purpose: keeps the draws of different parts of the program apart.
        numbers: 0 or more each.
    """
    key = (zlib.crc32(purpose.encode()), *numbers)
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


@contextlib.contextmanager
def seeded(purpose: str, *numbers: int) -> Iterator[None]:
    """Seeds the global generators of Python, NumPy and PyTorch (CPU); restores them afterwards."""
    seed = derive_seed(purpose, *numbers)
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
