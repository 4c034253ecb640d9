"""Writes a model folder of Stable Diffusion 1.5's sizes with random weights, 2 GB in fp16.

    python benchmarks/full_size.py /tmp/sd15-random

Times and memory are those of the real model; what it sees in an image is not. The tokenizer is
that of the synthetic data sets, and the text encoder has embeddings for its tokens alone: 0.15 GB
less than for CLIP's 49 408 in fp32, out of 4 GB.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import tadp_d2.synthetic
from tadp_d2.files import new_folder

TOKENIZER = Path(tadp_d2.synthetic.__file__).parent / "stable_diffusion" / "tokenizer"


def make_vae(
    widths: Sequence[int] = (128, 256, 512, 512), latent_channels: int = 4
) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths,
        layers_per_block=2,
        latent_channels=latent_channels,
        sample_size=512,
    )


def make_text_encoder(vocab_size: int = 49408) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            hidden_act="quick_gelu",
        )
    )


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768)


def write(folder: Path, device: str = "cpu") -> None:
    """
    Args:
        folder: new or empty.
        device: where the random numbers are drawn; a GPU is quicker, and draws others.
    """
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    # In this order: that of the random numbers.
    with torch.device(device):
        vae, text_encoder, unet = make_vae(), make_text_encoder(len(tokenizer)), make_unet()
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with new_folder(folder) as temporary:
        pipeline.to(torch.float16).save_pretrained(temporary)
        shutil.copytree(TOKENIZER, temporary / "tokenizer", dirs_exist_ok=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="new or empty folder")
    write(parser.parse_args().folder)
