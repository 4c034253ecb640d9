"""A diffusion model with what was learned: tokens, and a fine-tuned UNet."""

from collections.abc import Sequence
from pathlib import Path

import torch

from tadp_d2.diffusion.stable_diffusion import check_unet_goes_with, load_unet
from tadp_d2.diffusion.tokens import ONLY, read_tokens, teach_tokens
from tadp_d2.diffusion.unet_features import unet_fingerprint
from tadp_d2.frozen import fingerprint
from tadp_d2.personalization.model import TrainableDiffusion
from tadp_d2.records.artifacts import check_base, token_metadata_path, unet_metadata_path


def load_learned(
    weights: str, tokens: Sequence[Path], unet: Path | None, device: torch.device
) -> TrainableDiffusion:
    """
    Args:
        weights: of the base model, a folder in diffusers' format or a hub id.
        tokens: files of learned tokens.
        unet: folder of a fine-tuned UNet; None for the model's own.

    Raises:
        UserError: there is no such model or file, or one was learned for another base model.
    """
    model = TrainableDiffusion.load(weights)
    base = model.fingerprints()
    for file in tokens:
        own = {token: fingerprint(vectors) for token, vectors in read_tokens(file).items()}
        check_base(file, token_metadata_path(file), base, own)
        teach_tokens([file], {ONLY: (model.tokenizer, model.text_encoder)})
    if unet:
        model.unet = load_unet(unet).eval().requires_grad_(False)
        check_unet_goes_with(
            model.unet.config,
            model.vae.config.latent_channels,
            model.text_encoder.config.hidden_size,
            str(unet),
        )
        del base["unet"]
        check_base(unet, unet_metadata_path(unet), base, {"unet": unet_fingerprint(model.unet)})
    return model.to(device)
