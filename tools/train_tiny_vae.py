#!/usr/bin/env python
"""Trains the VAE of the tiny Stable Diffusion that comes with the package.

It is trained as an autoencoder on synthetic images in all styles, a quarter of an hour on
two cores, and shipped in half precision: a random encoder loses what tells a cat from a dog.
Nobody needs to run this to use the project; it is here so that the file can be made again.

    python tools/train_tiny_vae.py output/tiny_vae
"""

import argparse
from collections import defaultdict
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from tiny_images import make_samples, to_input
from torch import Tensor
from torch.nn import functional as F

from tadp_d2.files import new_folder
from tadp_d2.progress import hide_library_bars, progress_line
from tadp_d2.synthetic.training_samples import STYLE_TEMPLATES, Sample

CROP = 128
# Keeps latents near a Gaussian without costing sharpness, as in Stable Diffusion.
KL_WEIGHT = 1e-6


def make_vae() -> AutoencoderKL:
    """Stable Diffusion's topology: stride 8, 4 latent channels; a hundredth of its weights."""
    channels = (16, 32, 64, 64)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=192,
    )


def random_crops(images: list[Tensor], batch: int) -> Tensor:
    """batch x 3 x 128 x 128."""
    crops = []
    for index in torch.randint(len(images), (batch,)).tolist():
        image = images[index]
        top = int(torch.randint(image.shape[1] - CROP + 1, ()))
        left = int(torch.randint(image.shape[2] - CROP + 1, ()))
        crops.append(image[:, top : top + CROP, left : left + CROP])
    return torch.stack(crops)


def train(vae: AutoencoderKL, images: list[Tensor], steps: int, batch: int, rate: float) -> None:
    optimizer = torch.optim.AdamW(vae.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.05)
    show = progress_line("steps")
    for step in range(steps):
        crops = random_crops(images, batch)
        posterior = vae.encode(crops).latent_dist
        output = vae.decode(posterior.sample()).sample
        loss = F.mse_loss(output, crops) + 0.5 * F.l1_loss(output, crops)
        optimizer.zero_grad()
        (loss + KL_WEIGHT * posterior.kl().mean()).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, steps // 20) == 0:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)
        show(step + 1, steps)


@torch.no_grad()
def measure(vae: AutoencoderKL, samples: list[Sample]) -> dict[str, float]:
    """Sets the scaling factor that gives latents unit variance; returns the PSNR in dB by style."""
    latents, errors = [], defaultdict(list)
    for sample in samples:
        images = to_input(sample.image)[None]
        latents.append(vae.encode(images).latent_dist.mode())
        errors[sample.style].append(F.mse_loss(vae.decode(latents[-1]).sample, images))
    variance = torch.stack([latent.square().mean() for latent in latents]).mean()
    vae.register_to_config(scaling_factor=round(variance.rsqrt().item(), 5))
    # Pixels span 2, from -1 to 1.
    return {
        style: 10 * torch.log10(4 / torch.stack(values).mean()).item()
        for style, values in errors.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="new or empty folder")
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    hide_library_bars()
    torch.manual_seed(args.seed)
    samples = make_samples(args.images + 60, args.seed, tuple(STYLE_TEMPLATES))
    images = [to_input(sample.image) for sample in samples[:-60]]
    vae = make_vae()
    train(vae, images, args.steps, args.batch, args.rate)
    for style, decibels in measure(vae.eval(), samples[-60:]).items():
        print(f"PSNR on other images, {style}: {decibels:.1f} dB")
    with new_folder(args.output) as folder:
        vae.half().save_pretrained(folder)


if __name__ == "__main__":
    main()
