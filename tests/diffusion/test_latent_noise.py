"""Noise on latents: as much as the model's schedule says, the same for an image in testing."""

import json
import shutil

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from tadp_d2.diffusion.latent_noise import LatentNoise, kept_variance
from tadp_d2.engine.checks import check_inputs
from tadp_d2.errors import UserError
from tadp_d2.modeling.backbone import find_diffusion_backbone

TIMESTEP = 100


def kept_by_the_schedule(model_folder):
    """Of Stable Diffusion's schedule: betas whose roots are evenly spaced."""
    config = json.loads((model_folder / "scheduler" / "scheduler_config.json").read_text())
    ends = config["beta_start"] ** 0.5, config["beta_end"] ** 0.5
    assert config["beta_schedule"] == "scaled_linear"
    betas = np.linspace(*ends, config["num_train_timesteps"]) ** 2
    return float(np.prod(1 - betas[: TIMESTEP + 1]))


def test_the_unet_reads_latents_with_the_noise_of_the_time_step(make_config, model_folder):
    kept = kept_by_the_schedule(model_folder)
    assert kept_variance(model_folder, TIMESTEP) == pytest.approx(kept, rel=1e-5)
    model = build_model(make_config("MODEL.DIFFUSION.NOISE_TIMESTEP", TIMESTEP))
    backbone = find_diffusion_backbone(model)
    read = []
    backbone.unet.register_forward_pre_hook(lambda _, arguments: read.append(arguments[0]))
    generator = torch.Generator().manual_seed(0)
    inputs = [
        {
            "image": torch.randint(0, 256, (3, 128, 128), generator=generator, dtype=torch.uint8),
            "caption": "a dog",
            **({"image_id": name} if name else {}),
        }
        for name in ("a", "b", "", "")
    ]

    def noise(*own):
        """What was added to the images of a pass, B x C x h x w of unit variance."""
        images = torch.stack([i["image"] for i in own]).float() / 127.5 - 1
        with torch.no_grad():
            clean = backbone.latent_encoder(images)
            with model._condition_on(list(own)):
                backbone(images)
        return (read.pop() - kept**0.5 * clean) / (1 - kept) ** 0.5

    model.eval()
    first = noise(*inputs)
    assert (abs(first.mean()) < 0.1, abs(first.std() - 1) < 0.1) == (True, True)
    pairs = [(i, j) for i in range(4) for j in range(i)]
    # Every image has its own, also those without an id, whatever else is in the batch.
    assert all(not torch.allclose(first[i], first[j], atol=0.1) for i, j in pairs)
    again = noise(inputs[3], inputs[1])
    torch.testing.assert_close(again, first[[3, 1]], rtol=1e-3, atol=1e-3)
    # That of an id does not depend on what the image shows.
    other = noise({**inputs[0], "image": inputs[1]["image"]})
    torch.testing.assert_close(other[0], first[0], rtol=1e-3, atol=1e-3)
    assert not torch.equal(*(LatentNoise(0.5, s).add(first[:1], None, False) for s in (0, 1)))

    model.train()
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(noise(inputs[0]))
    torch.testing.assert_close(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2], atol=0.1)
    assert LatentNoise(kept=1).add(first, None, True) is first


def test_a_model_without_its_schedule_is_refused_before_a_run(make_config, model_folder, tmp_path):
    with pytest.raises(UserError, match="NOISE_TIMESTEP is 1000: .* time steps 0 to 999"):
        kept_variance(model_folder, 1000)
    copy = tmp_path / "model"
    shutil.copytree(model_folder, copy, ignore=shutil.ignore_patterns("scheduler"))
    options = ("MODEL.DIFFUSION.WEIGHTS", str(copy), "MODEL.DIFFUSION.NOISE_TIMESTEP", 10)
    with pytest.raises(UserError, match="lacks scheduler/scheduler_config.json"):
        check_inputs(make_config(*options), evaluation=False, resume=False)
