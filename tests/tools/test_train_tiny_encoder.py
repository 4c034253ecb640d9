"""A small encoder is taught the latents of a VAE, and a model takes it."""

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tadp_d2.conditioning.conditioner import open_model_of
from tadp_d2.diffusion.tiny_encoder import check_tiny_encoder

TOOL = Path(__file__).parents[2] / "tools" / "train_tiny_encoder.py"


def teach(world: Path, output: Path, steps: int, seed: int = 0) -> float:
    """What it says of the latents of images that it has not seen."""
    images = world / "VOC2012" / "JPEGImages"
    model = world / "stable-diffusion-tiny"
    command = [sys.executable, str(TOOL), *map(str, (model, images, output)), "--steps", str(steps)]
    options = ["--batch", "2", "--seed", str(seed), "--held-out", "2"]
    done = subprocess.run(command + options, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


@pytest.mark.exhaustive
def test_it_comes_nearer_to_the_vae_and_fits_it(world, make_config, tmp_path):
    first, more = teach(world, tmp_path / "first", 40), teach(world, tmp_path / "more", 120)
    assert more < first < 1
    check_tiny_encoder(tmp_path / "more", open_model_of(make_config()).latents)
    teach(world, tmp_path / "again", 40)
    file = "diffusion_pytorch_model.safetensors"
    a, b = (load_file(tmp_path / name / file) for name in ("first", "again"))
    assert all(a[key].equal(b[key]) for key in a)
