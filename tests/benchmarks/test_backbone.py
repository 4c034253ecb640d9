"""The benchmark's slow side is what it says it is, and the benchmark runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, safe_open

ROOT = Path(__file__).parents[2]
GOLDEN = Path(
    os.environ.get("GOLDEN_DIR") or ROOT / "tests" / "golden", "vpd_unet_features.safetensors"
)


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


@pytest.mark.exhaustive
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


def test_fused_attention_is_counted_as_the_work_that_it_does(scripts):
    from scale import Model, forward

    from tadp_d2.config.load import load_config

    model = Model(load_config(str(ROOT / "configs" / "cityscapes2darkzurich_simple.yaml")))
    counted = model.unet_pass(forward)
    # Stable Diffusion 1.5's self-attention at stride 8: five layers, two products each.
    attention = 5 * 2 * 2 * 4096**2 * 320
    assert 0.6e12 + attention < counted < 0.7e12 + attention


def test_hours_are_products_traffic_and_exchange_over_their_rates(scripts):
    from scale import Card, Work

    card = Card("a card", bf16=100.0, fp32=10.0, memory=1000.0, link=100.0)
    step = dict(operations=5e12, traffic=1e11, gradients=1e11)
    # 5 TFLOP at half of 100 TFLOP/s, and 100 GB at 1000 GB/s.
    assert Work("", 3600, **step).hours(card, 0.5) == pytest.approx(0.1 + 0.1)
    # On four, 1.5 times 100 GB at 100 GB/s besides.
    assert Work("", 3600, **step).hours(card, 0.5, gpus=4) == pytest.approx(0.425)
    assert Work("", 3600, 5e12, fp32=5e12).hours(card, 0.5) == pytest.approx(1.0)
    assert Work("", 3600, 6e12, fp32=1e12).hours(card, 0.5) == pytest.approx(0.1 + 0.2)


@pytest.mark.exhaustive
def test_inference_is_measured_on_the_first_images(scripts, world):
    script = str(ROOT / "benchmarks" / "inference.py")
    command = [sys.executable, script, "--data", str(world), "--tasks", "detection"]
    command += ["--images", "2", "--repeats", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines() if "| detection" in line]
    assert [row[2].strip() for row in rows] == [
        "prompts encoded anew",
        "prompts cached",
        "prompts cached, bf16",
        "prompts and latents cached",
        "prompts and latents cached, bf16",
    ]
    # The same prompts give the same metrics.
    assert float(rows[1][5]) == 0


def test_parts_of_a_model_are_all_it_holds(scripts, make_config):
    from detectron2.modeling import build_model
    from loading import parts

    model = build_model(make_config())
    tensors = [*model.parameters(), *model.buffers()]
    assert sum(parts(model).values()) == sum(tensor.nbytes for tensor in tensors)
    assert set(parts(model)) == {"UNet", "VAE, encoding half", "text encoder", "FPN", "heads"}
