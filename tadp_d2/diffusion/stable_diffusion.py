"""Stable Diffusion 1.x and 2.x: a folder in diffusers' format, and those parts that are used."""

import contextlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTokenizer

from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.diffusion.clip_tokenizer import load_tokenizer
from tadp_d2.diffusion.diffusion_model import DiffusionModel, MapOptions
from tadp_d2.diffusion.model_folder import UNET_FOLDER, loading
from tadp_d2.diffusion.model_part import UNET, VAE
from tadp_d2.diffusion.unet_features import UNetFeatures
from tadp_d2.errors import UserError


class StableDiffusion(DiffusionModel):
    """A folder with `tokenizer/`, `text_encoder/`, `vae/` and `unet/`."""

    @classmethod
    def opens(cls, folder: Path) -> bool:
        # What `find_weights` returns has its parts, and each part is checked when it is loaded.
        return True

    @cached_property
    def _text(self) -> CLIPTextConfig:
        with loading(self.folder / "text_encoder"):
            return CLIPTextConfig.from_pretrained(self.folder / "text_encoder")

    @property
    def text_length(self) -> int:
        return self._text.max_position_embeddings

    @property
    def context_width(self) -> int:
        return self._text.hidden_size

    def load_latent_encoder(self, scaled: bool = True) -> "LatentEncoder":
        return LatentEncoder(load_vae(self.folder), scaled)

    def load_tokenizer(self) -> CLIPTokenizer:
        return load_tokenizer(self.folder)

    def load_text_encoder(
        self, token_files: Sequence[str | Path] = (), **options: Any
    ) -> TextEncoder:
        return TextEncoder.from_pretrained(self.folder, token_files, **options)

    def load_features(
        self, latent_encoder: nn.Module, maps: MapOptions, gradient_checkpointing: bool = False
    ) -> UNetFeatures:
        unet = load_unet(self.unet_folder)
        where = f"{self.unet_folder}, used with {self.folder}"
        check_unet_goes_with(unet, latent_encoder.vae, self.context_width, where)
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        return UNetFeatures(unet, latent_encoder.stride, maps)


class LatentEncoder(nn.Module):
    """The encoding half of a VAE: image -> mean latent, never a sample, so it is deterministic."""

    def __init__(self, vae: AutoencoderKL, scale_latents: bool = True):
        """
        Args:
            vae: its decoder is dropped.
            scale_latents: multiply by the VAE's scaling factor (TADP, "latent scaling").
        """
        super().__init__()
        vae.decoder = vae.post_quant_conv = None
        self.vae = vae
        self.factor = vae.config.scaling_factor if scale_latents else 1.0
        self.options = VAE.options(vae.config)
        self.stride = 2 ** (len(vae.config.block_out_channels) - 1)

    def forward(self, images: Tensor) -> Tensor:
        """
        Args:
            images: B x 3 x H x W, in [-1, 1] with Stable Diffusion's normalization.

        Returns:
            B x 4 x H/stride x W/stride.
        """
        with _no_fp16(images.device.type):
            return self.vae.encode(images).latent_dist.mode() * self.factor


def _no_fp16(device: str) -> contextlib.AbstractContextManager:
    """The VAE of Stable Diffusion 1.5 overflows in fp16; bf16 and fp32 are safe."""
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16:
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()


def load_unet(folder: Path) -> UNet2DConditionModel:
    """Loads a UNet folder in diffusers' format, in fp32.

    Raises:
        UserError: the folder does not hold a UNet, or one that asks for more than is computed here,
            or its files are damaged.
    """
    check_unet_folder(folder)
    return UNET.load(folder)


def check_unet_folder(folder: Path) -> None:
    """
    Raises:
        UserError: the folder is none of a UNet.
    """
    UNET_FOLDER.check(folder)


def check_unet_goes_with(
    unet: UNet2DConditionModel, vae: AutoencoderKL, context_width: int, where: str
) -> None:
    """
    Args:
        context_width: of the text encoder.
        where: their folders, for messages.

    Raises:
        UserError: the UNet reads other latents or contexts than there are.
    """
    read, written = unet.config.in_channels, vae.config.latent_channels
    if read != written:
        hint = "; one of 9 is for inpainting" if read == 9 else ""
        raise UserError(
            f"{where}: the UNet reads latents of {read} channels, but the VAE writes "
            f"{written}{hint}"
        )
    if unet.config.cross_attention_dim != context_width:
        raise UserError(
            f"{where}: the UNet reads contexts of width {unet.config.cross_attention_dim}, but the "
            f"text encoder writes {context_width}: they are of different base models"
        )


def load_vae(folder: Path) -> AutoencoderKL:
    """Loads `vae/` of a Stable Diffusion folder, in fp32.

    Raises:
        UserError: it is another kind of VAE, or its files are damaged.
    """
    return VAE.load(folder / "vae")
