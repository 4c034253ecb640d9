"""What is counted as saved for a backward pass, and what fits."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

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
    step = memory.Step(frozen=10, trained=100, optimizer=200, fixed=5, each=40)
    assert [step.peak(n) for n in (1, 2, 3)] == [410, 410, 435]
    assert [step.fitting(size) for size in (409, 410, 434, 435, 475)] == [0, 2, 2, 3, 4]


def test_under_a_gpus_autocast_copies_of_weights_are_saved_and_norms_are_in_fp32(memory):
    with FakeTensorMode(), torch.device("cuda"):
        layers = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 64))
        x = torch.empty(3, 64)
        sizes = {}
        for precision in ("fp32", "bf16"):
            with memory.passes(precision):
                sizes[precision] = memory.saved_bytes(layers, lambda: [layers(x)])
    activations, means = 3 * 64, 2 * 3
    assert sizes["fp32"] == 4 * (3 * activations + means)
    # Two inputs and the second weight's copy in bf16; the norm's input and means in fp32. The first
    # weight is needed for no gradient, as nothing is trained before it.
    assert sizes["bf16"] == 2 * (2 * activations + 64 * 64) + 4 * (activations + means)


def test_fused_attention_saves_no_products(memory):
    with FakeTensorMode(), memory.passes("bf16"):
        query = torch.empty(2, 8, 4096, 40, device="cuda", requires_grad=True)
        saved = memory.saved_bytes(
            nn.Identity(), lambda: [F.scaled_dot_product_attention(query, query, query)]
        )
    size = 2 * 8 * 4096
    assert saved == 4 * 2 * size * 40 + 4 * size
