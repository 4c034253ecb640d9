#!/usr/bin/env python
"""Makes `tadp_d2/synthetic/vae`: the VAE of the built-in world's tiny Stable Diffusion model.

It is trained as an autoencoder on pictures of the world in all its styles, about ten minutes on two
cores, and shipped in half precision, because a random encoder loses what tells a cat from a dog.
Nobody needs to run this to use the project; it is here so that the file can be made again.

    python tools/train_tiny_vae.py
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from tadp_d2.files import new_folder
from tadp_d2.progress import hide_library_bars, progress_line
from tadp_d2.synthetic.scenes import sample_scene
from tadp_d2.synthetic.styles import STYLES, render

FOLDER = Path(__file__).parents[1] / "tadp_d2" / "synthetic" / "vae"
SIZE, CROP = 256, 128
# Keeps latents near a Gaussian without costing sharpness, as in Stable Diffusion.
KL_WEIGHT = 1e-6


def make_vae() -> AutoencoderKL:
    """Stable Diffusion's topology: stride 8, 4 latent channels; a thousandth of its weights."""
    channels = (16, 16, 32, 32)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
    )


def make_pictures(count: int, seed: int) -> Tensor:
    """Pictures of the world, its styles in turn: count x 3 x 256 x 256, uint8."""
    pictures = []
    show = progress_line("pictures")
    for index in range(count):
        # Apart from the seeds of the world itself, which are (seed, split, index).
        rng = np.random.default_rng((seed, 1_000_000 + index))
        image, _ = render(sample_scene(rng), list(STYLES)[index % len(STYLES)], rng)
        pictures.append(torch.from_numpy(np.array(image.resize((SIZE, SIZE)))))
        show(index + 1, count)
    return torch.stack(pictures).permute(0, 3, 1, 2)


def to_input(pictures: Tensor) -> Tensor:
    return pictures.float() / 127.5 - 1


def random_crops(pictures: Tensor, batch: int) -> Tensor:
    """batch x 3 x 128 x 128 in [-1, 1]."""
    crops = []
    for index in torch.randint(len(pictures), (batch,)).tolist():
        top, left = torch.randint(SIZE - CROP + 1, (2,)).tolist()
        crops.append(pictures[index, :, top : top + CROP, left : left + CROP])
    return to_input(torch.stack(crops))


def train(vae: AutoencoderKL, pictures: Tensor, steps: int, batch: int, rate: float) -> None:
    optimizer = torch.optim.AdamW(vae.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.05)
    show = progress_line("steps")
    for step in range(steps):
        images = random_crops(pictures, batch)
        posterior = vae.encode(images).latent_dist
        output = vae.decode(posterior.sample()).sample
        loss = F.mse_loss(output, images) + 0.5 * F.l1_loss(output, images)
        optimizer.zero_grad()
        (loss + KL_WEIGHT * posterior.kl().mean()).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, steps // 20) == 0:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)
        show(step + 1, steps)


@torch.no_grad()
def measure(vae: AutoencoderKL, pictures: Tensor) -> float:
    """Sets the scaling factor that gives latents unit variance; returns the PSNR in dB."""
    images = to_input(pictures)
    latents = vae.encode(images).latent_dist.mode()
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    # Pixels span 2, from -1 to 1.
    return 10 * torch.log10(4 / F.mse_loss(vae.decode(latents).sample, images)).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=FOLDER, help="new or empty folder")
    args = parser.parse_args()
    hide_library_bars()
    torch.manual_seed(args.seed)
    pictures = make_pictures(args.pictures + 60, args.seed)
    vae = make_vae()
    train(vae, pictures[:-60], args.steps, args.batch, args.rate)
    print(f"PSNR on 60 other pictures: {measure(vae.eval(), pictures[-60:]):.1f} dB")
    with new_folder(args.output) as folder:
        vae.half().save_pretrained(folder)


if __name__ == "__main__":
    main()
