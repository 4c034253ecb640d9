"""The loss is diffusion's, and the fixed set is fixed."""

import copy
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler

from tadp_d2.diffusion.stable_diffusion import LatentEncoder
from tadp_d2.personalization.latents import LatentSource
from tadp_d2.personalization.objective import denoising_loss, draw_noise, held_out_loss
from tadp_d2.personalization.training_images import Crops, TrainingImage


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_target_is_the_noise_or_the_velocity(prediction):
    scheduler = DDPMScheduler(prediction_type=prediction)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(6, 4, 2, 2, generator=generator)
    noise, times = draw_noise(latents, scheduler, generator)
    # By the definition in "Progressive Distillation", appendix D.
    alpha = scheduler.alphas_cumprod[times].reshape(-1, 1, 1, 1)
    target = noise if prediction == "epsilon" else alpha**0.5 * noise - (1 - alpha) ** 0.5 * latents
    noisy = alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise

    def unet(given, given_times, encoder_hidden_states):
        torch.testing.assert_close(given, noisy)
        assert torch.equal(given_times, times)
        return SimpleNamespace(sample=torch.full_like(given, 0.25))

    model = SimpleNamespace(unet=unet, scheduler=scheduler)
    loss = denoising_loss(model, latents, torch.zeros(6, 1, 1), noise, times)
    torch.testing.assert_close(loss, ((target - 0.25) ** 2).mean())


def test_the_fixed_set_is_fixed_by_its_seed_alone(model):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    prompts = ["a dog", "a watercolor style painting of a dog"]
    torch.manual_seed(1)
    first = held_out_loss(model, images, prompts, seed=3)
    state = torch.get_rng_state()
    assert held_out_loss(model, images, prompts, seed=3) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert held_out_loss(model, images, prompts, seed=4) != first
    assert held_out_loss(model, images, prompts[::-1], seed=3) != first
    in_one = held_out_loss(model, images, prompts, seed=3, batch=8)
    assert in_one == pytest.approx(first, rel=1e-5)


def test_the_fixed_set_covers_all_noise_levels(model, monkeypatch):
    seen = []

    def record(model, latents, context, noise, times):
        seen.extend(times.tolist())
        return torch.zeros(())

    monkeypatch.setattr("tadp_d2.personalization.objective.denoising_loss", record)
    held_out_loss(model, torch.zeros(2, 3, 64, 64), ["", ""], draws=5)
    assert sorted(seen) == list(range(50, 1000, 100))


def test_latents_are_those_of_the_backbone_and_each_crop_is_encoded_once(
    model, untouched, monkeypatch
):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=generator)
    source = LatentSource(model, Crops([TrainingImage(None, "", pixels)], 64))
    encoded = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda images: encoded.append(1) or encode(images))
    latents = source.draw(20, generator)
    assert len(encoded) == 2
    image = (pixels.float() / 127.5 - 1)[None]
    expected = LatentEncoder(copy.deepcopy(untouched.vae))(torch.cat([image, image.flip(-1)]))
    for crop, latent in zip(source.last, latents, strict=True):
        torch.testing.assert_close(latent, expected[int(crop.flip)])
