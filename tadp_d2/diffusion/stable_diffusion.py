"""Stable Diffusion 1.x and 2.x: a folder in diffusers' format, and those parts that are used."""

import contextlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTokenizer

from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.diffusion.clip_tokenizer import load_tokenizer
from tadp_d2.diffusion.diffusion_model import DiffusionModel, Latents, MapOptions, level_strides
from tadp_d2.diffusion.lora_file import LoraFile
from tadp_d2.diffusion.model_folder import (
    STABLE_DIFFUSION,
    TEACHABLE,
    UNET_FOLDER,
    Pipeline,
    read_pipeline,
)
from tadp_d2.diffusion.model_part import TEXT_ENCODER, UNET, VAE, Part
from tadp_d2.diffusion.tiny_encoder import TinyLatentEncoder, check_tiny_encoder
from tadp_d2.diffusion.tokens import ONLY, read_fitting
from tadp_d2.diffusion.unet_features import UNetFeatures
from tadp_d2.errors import UserError

_ADVICE = "use a text-to-image model, such as the one that it was made from"
# Channels that the UNet of another purpose reads -> what they hold besides the noisy latent.
_PURPOSES = {
    5: "a depth map",
    7: "the image to enlarge",
    8: "the image to edit",
    9: "a mask and the rest of the image, for inpainting",
}
# The same of a pipeline's name, which is known before its UNet is fetched.
_PURPOSE_NAMES = {"Depth2Img": 5, "Upscale": 7, "InstructPix2Pix": 8, "Inpaint": 9}


class StableDiffusion(DiffusionModel):
    """A folder with `tokenizer/`, `text_encoder/`, `vae/` and `unet/`."""

    what = "Stable Diffusion 1.x and 2.x"
    format = STABLE_DIFFUSION
    teachable = TEACHABLE
    unet_part: ClassVar[Part] = UNET
    _lora: LoraFile | None = None
    _tiny_encoder: Path | None = None

    @classmethod
    def opens(cls, folder: Path) -> bool:
        pipeline = read_pipeline(folder)
        if pipeline is None:
            # Its parts are looked for next, and each is checked.
            return True
        parts = pipeline.parts
        kinds = (parts.get("text_encoder"), parts.get("unet"))
        if kinds != ("CLIPTextModel", "UNet2DConditionModel") or "text_encoder_2" in parts:
            return False
        check_purpose(folder, pipeline)
        return True

    def check(self) -> None:
        if self.unet_folder != self.folder / "unet":
            check_unet_folder(self.unet_folder)
        where = f"{self.unet_folder}, used with {self.folder}"
        check_unet_goes_with(self._unet, self.latents.channels, self.context_width, where)

    def add_lora(self, lora: LoraFile) -> None:
        lora.check(self._without_weights())
        self._lora = lora

    def use_tiny_encoder(self, folder: Path) -> None:
        check_tiny_encoder(folder, self.latents)
        self._tiny_encoder = folder

    def check_tokens(self, token_files: Sequence[str | Path]) -> None:
        for file in token_files:
            read_fitting(file, self._token_widths)

    @property
    def _token_widths(self) -> dict[str, int]:
        return {ONLY: self._text["hidden_size"]}

    def _without_weights(self) -> dict[str, nn.Module]:
        """What updates may be for, by their folders."""
        return {
            "unet": self.unet_part.without_weights(self._unet),
            "text_encoder": TEXT_ENCODER.without_weights(self._text),
        }

    @cached_property
    def _unet(self) -> dict[str, Any]:
        return self.unet_part.read_config(self.unet_folder)

    @cached_property
    def _text(self) -> dict[str, Any]:
        return TEXT_ENCODER.read_config(self.folder / "text_encoder")

    @cached_property
    def _vae(self) -> dict[str, Any]:
        return VAE.read_config(self.folder / "vae")

    @property
    def latents(self) -> Latents:
        return vae_latents(self._vae)

    @property
    def strides(self) -> dict[str, int]:
        return level_strides(self.latents.stride, len(self._unet["block_out_channels"]))

    @property
    def text_length(self) -> int:
        return self._text["max_position_embeddings"]

    @property
    def context_width(self) -> int:
        return self._text["hidden_size"]

    def load_latent_encoder(self, scaled: bool = True) -> "LatentEncoder | TinyLatentEncoder":
        if self._tiny_encoder:
            return TinyLatentEncoder(self._tiny_encoder, self._vae, scaled)
        return LatentEncoder(load_vae(self.folder), scaled)

    def load_tokenizer(self) -> CLIPTokenizer:
        return load_tokenizer(self.folder)

    def load_text_encoder(
        self, token_files: Sequence[str | Path] = (), **options: Any
    ) -> TextEncoder:
        return TextEncoder.from_pretrained(self.folder, token_files, self._lora, **options)

    def load_features(
        self,
        latent_encoder: nn.Module,
        maps: MapOptions,
        gradient_checkpointing: bool = False,
        taps: Sequence[int] = (),
    ) -> UNetFeatures:
        unet = load_unet(self.unet_folder)
        where = f"{self.unet_folder}, used with {self.folder}"
        check_unet_goes_with(unet.config, self.latents.channels, self.context_width, where)
        if self._lora:
            self._lora.merge("unet", unet)
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        return UNetFeatures(unet, latent_encoder.stride, maps, taps)


def vae_latents(config: Mapping[str, Any]) -> Latents:
    """Of a VAE's config: each of its levels but the last halves the image."""
    return Latents(config["latent_channels"], 2 ** (len(config["block_out_channels"]) - 1))


def noise_schedule(prediction_type: str = "epsilon") -> DDIMScheduler:
    """That of Stable Diffusion 1.x and 2.x.

    Args:
        prediction_type: what the UNet predicts, as diffusers names it.
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def check_purpose(folder: Path, pipeline: Pipeline) -> None:
    """
    Raises:
        UserError: a pipeline is not for text alone.
    """
    for name, channels in _PURPOSE_NAMES.items():
        if name in pipeline.name:
            raise UserError(
                f"{folder}: is of a {pipeline.name}, whose UNet reads {_PURPOSES[channels]} "
                f"besides the noisy latent: {_ADVICE}"
            )


class LatentEncoder(nn.Module):
    """The encoding half of a VAE: image -> mean latent, never a sample, so it is deterministic."""

    def __init__(self, vae: AutoencoderKL, scale_latents: bool = True, part: Part = VAE):
        """
        Args:
            vae: its decoder is dropped.
            scale_latents: multiply by the VAE's scaling factor (TADP, "latent scaling"), once its
                shift is taken away, if it has one.
            part: what may be in its config.
        """
        super().__init__()
        vae.decoder = vae.post_quant_conv = None
        self.vae = vae
        self.factor = vae.config.scaling_factor if scale_latents else 1.0
        self.shift = (vae.config.shift_factor or 0.0) if scale_latents else 0.0
        self.options = part.options(vae.config)
        self.stride = 2 ** (len(vae.config.block_out_channels) - 1)

    def forward(self, images: Tensor) -> Tensor:
        """
        Args:
            images: B x 3 x H x W, in [-1, 1] with Stable Diffusion's normalization.

        Returns:
            B x C x H/stride x W/stride.
        """
        with _no_fp16(images.device.type):
            return (self.vae.encode(images).latent_dist.mode() - self.shift) * self.factor


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
    unet: Mapping[str, Any], latent_channels: int, context_width: int, where: str
) -> None:
    """
    Args:
        unet: its config.
        latent_channels: that the VAE writes.
        context_width: of the text encoder.
        where: their folders, for messages.

    Raises:
        UserError: the UNet reads other latents or contexts than there are.
    """
    read = unet["in_channels"]
    if read != latent_channels:
        purpose = _PURPOSES.get(read) if latent_channels == 4 else None
        hint = f"; one of {read} reads {purpose}, besides the noisy latent" if purpose else ""
        raise UserError(
            f"{where}: the UNet reads latents of {read} channels, but the VAE writes "
            f"{latent_channels}{hint}: {_ADVICE}"
        )
    width = unet["cross_attention_dim"]
    if width != context_width:
        raise UserError(
            f"{where}: the UNet reads contexts of width {width}, but the text encoder writes "
            f"{context_width}: they are of different base models"
        )


def load_vae(folder: Path) -> AutoencoderKL:
    """Loads `vae/` of a Stable Diffusion folder, in fp32.

    Raises:
        UserError: it is another kind of VAE, or its files are damaged.
    """
    return VAE.load(folder / "vae")
