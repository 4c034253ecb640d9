"""What is counted as saved for a backward pass, and what fits."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import memory

    yield memory
    sys.modules.pop("memory")


def test_each_storage_counts_once_and_weights_do_not(memory):
    layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    # Of the first layer its input, of the second its input, which is the ReLU's output, too.
    saved = memory.saved_bytes(layers, lambda: [layers(torch.zeros(3, 8))])
    assert saved == 4 * (3 * 8 + 3 * 16)


def test_the_peak_is_weights_moments_and_the_larger_of_saved_and_gradients(memory):
    step = memory.Step(frozen=10, trained=100, fixed=5, each=40)
    assert [step.peak(n) for n in (1, 2, 3)] == [410, 410, 435]
    assert [step.fitting(size) for size in (409, 410, 434, 435, 475)] == [0, 2, 2, 3, 4]
