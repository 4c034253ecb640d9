"""The tiny Stable Diffusion that comes with the package, with the topology of Stable Diffusion 1.5.

Its weights lie beside this file in diffusers' format, half precision, 10 MB, with `recipe.json`.
They were trained on images of `training_samples` by `tools/train_tiny_vae.py` and
`tools/train_tiny_diffusion.py`; the text encoder is the tiny CLIP's.
"""

import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

SHIPPED = Path(__file__).parent / "stable_diffusion"


def write_tiny_diffusion(folder: Path) -> None:
    """Writes the folder of the model, `unet/ vae/ text_encoder/ ...`, in single precision."""
    pipeline = StableDiffusionPipeline.from_pretrained(SHIPPED, dtype=torch.float32)
    pipeline.save_pretrained(folder)
    # As Stable Diffusion 1.5 comes, without the tokenizer.json that transformers adds.
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(SHIPPED / "tokenizer", folder / "tokenizer")
