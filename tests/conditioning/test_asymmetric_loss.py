"""The asymmetric loss: values and gradients of the golden file, and what follows by hand."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F

from tadp_d2.conditioning.asymmetric_loss import asymmetric_loss

FOLDER = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parents[1] / "golden")
GOLDEN = FOLDER / "asymmetric_loss.safetensors"


@pytest.fixture(scope="module")
def golden():
    with safe_open(GOLDEN, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def close(found, expected):
    assert found.shape == expected.shape
    assert ((found - expected).abs() / (1 + expected.abs())).max() < 2e-6


def test_values_and_gradients_agree_with_timm_and_asl(golden):
    tensors, metadata = golden
    cases = json.loads(metadata["cases"])
    assert cases
    for name, case in cases.items():
        assert case["eps"] == 1e-8
        options = (case["gamma_neg"], case["gamma_pos"], case["clip"])
        for suffix, detached in (("", False), (".focus_detached", True)):
            logits = tensors["logits"].clone().requires_grad_()
            terms = asymmetric_loss(logits, tensors["targets"], *options, detached)
            terms.sum().backward()
            close(logits.grad, tensors[f"{name}.grad{suffix}"])
        close(terms, tensors[f"{name}.per_element"])
        close(terms.sum().reshape(1), tensors[f"{name}.sum"])
        close((terms.sum() / len(terms)).reshape(1), tensors[f"{name}.batchmean"])
        close(terms.mean().reshape(1), tensors[f"{name}.mean"])


def test_without_focus_and_margin_it_is_cross_entropy():
    logits = torch.linspace(-4, 4, 9).expand(2, -1)
    targets = torch.stack([torch.zeros(9), torch.ones(9)])
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    torch.testing.assert_close(asymmetric_loss(logits, targets, 0, 0, 0), expected)


def test_half_precision_logits_are_taken_in_full(golden):
    logits = golden[0]["logits"].bfloat16()
    found = asymmetric_loss(logits, golden[0]["targets"])
    assert found.dtype == torch.float32
    assert torch.equal(found, asymmetric_loss(logits.float(), golden[0]["targets"]))
