#!/usr/bin/env python
"""Teaches a small encoder (diffusers' AutoencoderTiny) to make the latents of a model's VAE.

It learns from crops of a folder's images: mean squared error to the mean latents in the scale that
the UNet reads. What it writes is for `MODEL.DIFFUSION.TINY_ENCODER`. Its decoder is not taught and
stays random. For Stable Diffusion there are such encoders to download (TAESD); this one is for
the tiny model, five minutes of one core.

    python tools/train_tiny_encoder.py demo/data/stable-diffusion-tiny \\
        demo/data/VOC2012/JPEGImages output/tiny_encoder
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from tiny_images import to_input
from torch import Tensor
from torch.nn import functional as F
from train_tiny_vae import random_crops

from tadp_d2.data.images import decode
from tadp_d2.diffusion.model_part import VAE
from tadp_d2.diffusion.stable_diffusion import LatentEncoder
from tadp_d2.files import new_folder
from tadp_d2.progress import hide_library_bars, progress_line


def make_encoder(latent_channels: int, stride: int) -> AutoencoderTiny:
    """A quarter as wide as TAESD."""
    levels = stride.bit_length()
    return AutoencoderTiny(
        encoder_block_out_channels=(16,) * levels,
        decoder_block_out_channels=(16,) * levels,
        num_encoder_blocks=(1, *[2] * (levels - 1)),
        num_decoder_blocks=(1,) * levels,
        latent_channels=latent_channels,
    )


@torch.no_grad()
def error(encoder: AutoencoderTiny, vae: LatentEncoder, images: list[Tensor]) -> float:
    """Root of the mean square of the difference, divided by that of the right latents."""
    right = [vae(image[None]) for image in images]
    found = [encoder.encode(image[None]).latents for image in images]
    wrong = sum((a - b).square().mean() for a, b in zip(found, right, strict=True))
    return float((wrong / sum(b.square().mean() for b in right)).sqrt())


def train(
    encoder: AutoencoderTiny,
    vae: LatentEncoder,
    images: list[Tensor],
    steps: int,
    batch: int,
    rate: float,
) -> None:
    optimizer = torch.optim.AdamW(encoder.encoder.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.05)
    show = progress_line("steps")
    for step in range(steps):
        crops = random_crops(images, batch)
        loss = F.mse_loss(encoder.encode(crops).latents, vae(crops))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        show(step + 1, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of a diffusion model")
    parser.add_argument("images", type=Path, help="folder of JPEG files of 128 pixels or more")
    parser.add_argument("output", type=Path, help="new or empty folder")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--held-out", type=int, default=60, help="images, for the error at the end")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    hide_library_bars()
    torch.manual_seed(args.seed)
    images = [to_input(decode(path)) for path in sorted(args.images.glob("*.jpg"))]
    module = VAE.load(args.model / "vae").eval().requires_grad_(False)
    vae = LatentEncoder(module)
    encoder = make_encoder(module.config.latent_channels, vae.stride)
    train(encoder, vae, images[: -args.held_out], args.steps, args.batch, args.rate)
    wrong = error(encoder, vae, images[-args.held_out :])
    print(f"relative error of the latents of other images: {wrong:.3f}")
    with new_folder(args.output) as folder:
        encoder.save_pretrained(folder)


if __name__ == "__main__":
    main()
