"""A small encoder that was taught to make a VAE's latents (diffusers' AutoencoderTiny)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tadp_d2.diffusion.diffusion_model import Latents
from tadp_d2.diffusion.model_folder import UNET_FOLDER
from tadp_d2.diffusion.model_part import TINY_VAE
from tadp_d2.errors import UserError

_FOLDER = replace(
    UNET_FOLDER,
    what="small autoencoder",
    advice="MODEL.DIFFUSION.TINY_ENCODER must name the folder of an AutoencoderTiny in diffusers' "
    "format",
)


def check_tiny_encoder(folder: Path, latents: Latents) -> None:
    """Checks its config; reads no weights.

    Args:
        latents: of the VAE in whose place it is.

    Raises:
        UserError: it is none, or makes latents of another form.
    """
    _FOLDER.check(folder)
    config = TINY_VAE.read_config(folder)
    own = _latents(config)
    if own != latents:
        raise UserError(
            f"{folder}: makes latents of {own.channels} channels at stride {own.stride}, the VAE "
            f"{latents.channels} at {latents.stride}: use one that was made for this model"
        )


def _latents(config: Mapping[str, Any]) -> Latents:
    stride = 2 ** (len(config["encoder_block_out_channels"]) - 1)
    return Latents(config["latent_channels"], stride)


class TinyLatentEncoder(nn.Module):
    """Image -> latent. What it was taught is the mean latent in the scale that the UNet reads."""

    def __init__(self, folder: Path, vae: Mapping[str, Any], scale_latents: bool = True):
        """
        Args:
            vae: config of the VAE in whose place it is.
            scale_latents: leave its latents scaled by the VAE's factor.

        Raises:
            UserError: its files are damaged.
        """
        super().__init__()
        self.vae = TINY_VAE.load(folder)
        self.vae.decoder = None
        own = self.vae.config
        self.factor = own.scaling_factor / (1.0 if scale_latents else vae["scaling_factor"])
        self.options = TINY_VAE.options(own)
        self.stride = _latents(own).stride

    def forward(self, images: Tensor) -> Tensor:
        """
        Args:
            images: B x 3 x H x W, in [-1, 1].

        Returns:
            B x C x H/stride x W/stride.
        """
        return self.vae.encode(images).latents * self.factor
