"""A tiny CLIP image encoder in transformers' format, of random weights.

Its patches and embeddings differ from image to image and mean nothing: what reads them has to learn
what they show.
"""

from pathlib import Path

import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection


def write_tiny_image_encoder(folder: Path, seed: int = 0) -> None:
    """Writes `config.json` and `model.safetensors`: 64 patches of 16 x 16 pixels, width 64.

    The same seed gives the same bytes.
    """
    config = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=128,
        patch_size=16,
        projection_dim=64,
        # CLIP's own, 0.02, would make all images look alike.
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        CLIPVisionModelWithProjection(config).save_pretrained(folder)
