"""The benchmark's slow side is what it says it is, and the benchmark runs."""

import json
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, safe_open

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "vpd_unet_features.safetensors"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_the_reference_returns_what_the_original_wrapper_did(scripts):
    from reference import ReferenceFeatures

    tensors = load_file(GOLDEN)
    with safe_open(GOLDEN, "pt") as file:
        unet = UNet2DConditionModel(**json.loads(file.metadata()["unet_config"]))
    named = {k.removeprefix("unet."): v for k, v in tensors.items() if k.startswith("unet.")}
    unet.load_state_dict({k: v.float() for k, v in named.items()})
    features = ReferenceFeatures(unet)
    timestep = tensors["timesteps"][0].item()
    outputs = features(tensors["latents"], tensors["context"], timestep)
    for level, stride in {"s3": 8, "s4": 16, "s5": 32, "s6": 64}.items():
        expected = tensors[f"features.stride{stride}"].float()
        error = (outputs[level] - expected).norm() / expected.norm()
        assert error < 2e-6


def test_both_sides_agree_and_results_say_on_what_they_were_measured(scripts, monkeypatch, capsys):
    import backbone

    torch.manual_seed(0)
    arguments = ["backbone.py", "--repeats", "1", "--dtypes", "fp32"]
    monkeypatch.setattr(sys, "argv", arguments)
    backbone.main()
    text = capsys.readouterr().out
    assert "Features and gradients agree" in text
    assert f"torch {torch.__version__.split('+')[0]}" in text
    rows = [line for line in text.splitlines() if line.startswith("| forward")]
    assert len(rows) == 3
