"""Stable Diffusion XL: two text encoders, a pooled embedding, and a UNet that reads sizes."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tadp_d2.diffusion.clip_text import PromptEncoder, at_ends
from tadp_d2.diffusion.clip_tokenizer import (
    check_goes_with,
    load_tokenizer,
    tokenizer_fingerprint,
)
from tadp_d2.diffusion.diffusion_model import Context, MapOptions
from tadp_d2.diffusion.lora_file import LoraFile
from tadp_d2.diffusion.model_folder import STABLE_DIFFUSION_XL, read_pipeline
from tadp_d2.diffusion.model_part import PROJECTED_TEXT_ENCODER, TEXT_ENCODER, UNET_XL, Part
from tadp_d2.diffusion.stable_diffusion import StableDiffusion, check_purpose
from tadp_d2.diffusion.tokens import PAIR, teach_tokens
from tadp_d2.diffusion.unet_features import UNetFeatures
from tadp_d2.errors import UserError
from tadp_d2.frozen import Frozen, fingerprint
from tadp_d2.precision import autocast


class StableDiffusionXL(StableDiffusion):
    """As Stable Diffusion, with `tokenizer_2/` and `text_encoder_2/` besides."""

    what = "Stable Diffusion XL"
    format = STABLE_DIFFUSION_XL
    teachable = None
    unet_part: ClassVar[Part] = UNET_XL
    reads_prompts_only = True

    @classmethod
    def opens(cls, folder: Path) -> bool:
        pipeline = read_pipeline(folder)
        if pipeline is None:
            return (folder / "text_encoder_2").is_dir() and (folder / "unet").is_dir()
        kinds = [pipeline.parts.get(part) for part in ("text_encoder", "text_encoder_2", "unet")]
        if kinds != ["CLIPTextModel", "CLIPTextModelWithProjection", "UNet2DConditionModel"]:
            return False
        check_purpose(folder, pipeline)
        return True

    def check(self) -> None:
        super().check()
        pooled_width = self._second_text["projection_dim"]
        _check_reads_pooled(
            self._unet, pooled_width, f"{self.unet_folder}, used with {self.folder}"
        )

    @cached_property
    def _second_text(self) -> dict[str, Any]:
        return PROJECTED_TEXT_ENCODER.read_config(self.folder / "text_encoder_2")

    @property
    def context_width(self) -> int:
        return self._text["hidden_size"] + self._second_text["hidden_size"]

    @property
    def _token_widths(self) -> dict[str, int]:
        texts = (self._text, self._second_text)
        return dict(zip(PAIR, (text["hidden_size"] for text in texts), strict=True))

    def load_text_encoder(
        self, token_files: Sequence[str | Path] = (), **options: Any
    ) -> "PairedTextEncoder":
        return PairedTextEncoder.from_pretrained(self.folder, token_files, self._lora, **options)

    def _without_weights(self) -> dict[str, nn.Module]:
        second = PROJECTED_TEXT_ENCODER.without_weights(self._second_text)
        return {**super()._without_weights(), "text_encoder_2": second}

    def load_features(
        self,
        latent_encoder: nn.Module,
        maps: MapOptions,
        gradient_checkpointing: bool = False,
        taps: Sequence[int] = (),
    ) -> "XLFeatures":
        self.check()
        unet = UNET_XL.load(self.unet_folder)
        if self._lora:
            self._lora.merge("unet", unet)
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        return XLFeatures(unet, latent_encoder.stride, maps, taps)


def _check_reads_pooled(unet: Mapping[str, Any], pooled_width: int, where: str) -> None:
    """
    Args:
        unet: its config.

    Raises:
        UserError: the UNet reads another pooled embedding and other sizes than there are.
    """
    found, size = unet["projection_class_embeddings_input_dim"], unet["addition_time_embed_dim"]
    expected = pooled_width + _SIZES * (size or 0)
    if found != expected:
        raise UserError(
            f"{where}: the UNet's projection_class_embeddings_input_dim is {found}, but a pooled "
            f"embedding of width {pooled_width} and {_SIZES} sizes of {size} are "
            f"{expected}: it is of a refiner or of another base model"
        )


# Height and width of the original image, top and left of the crop, height and width of the target.
_SIZES = 6


class XLFeatures(UNetFeatures):
    """`UNetFeatures` of a UNet that reads a pooled embedding and sizes besides the time step.

    The image is its own original and its own target, and is not cropped, as in diffusers' pipeline
    without arguments: the sizes are those of the image as the backbone gets it.
    """

    part: ClassVar[Part] = UNET_XL

    def _embed_time(self, latents: Tensor, context: Context, timestep: float) -> Tensor:
        time = super()._embed_time(latents, context, timestep)
        stride = next(iter(self.strides.values()))
        height, width = (stride * side for side in latents.shape[-2:])
        # Filled there: a copy from the CPU cannot be part of a CUDA graph.
        sizes = torch.cat(
            [
                torch.full((1,), side, dtype=torch.float32, device=latents.device)
                for side in (height, width, 0, 0, height, width)
            ]
        )
        embedded = self.unet.add_time_proj(sizes).flatten().expand(latents.shape[0], -1)
        added = torch.cat([context.pooled, embedded.to(context.pooled)], dim=1)
        return time + self.unet.add_embedding(added.to(time))


class TextEncoderPair(nn.Module):
    """Tokens -> penultimate hidden states, joined, and the pooled embedding of the second."""

    def __init__(self, first: CLIPTextModel, second: CLIPTextModelWithProjection, end: int):
        """
        Args:
            end: id of the second one's end-of-text token.
        """
        super().__init__()
        self.first, self.second, self.end = first, second, end

    def forward(self, first_ids: Tensor, second_ids: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            first_ids, second_ids: B x N, of each one's tokenizer.

        Returns:
            B x N x D, and B x P.
        """
        first = self.first(first_ids, output_hidden_states=True)
        second = self.second(second_ids, output_hidden_states=True)
        # Without the last layer and the final layer norm.
        states = first.hidden_states[-2], second.hidden_states[-2]
        # Not `text_embeds`: where a config says `"eos_token_id": 2`, transformers takes the highest
        # id for the end, and learned tokens have higher ones.
        pooled = at_ends(second.last_hidden_state, second_ids, self.end)
        return torch.cat(states, dim=-1), self.second.text_projection(pooled)


class PairedTextEncoder(PromptEncoder):
    """The two text encoders of Stable Diffusion XL, which both read the same prompt.

    Context: 77 x 2048, and a pooled embedding of 1280, as diffusers' `encode_prompt` makes them.
    """

    def __init__(
        self,
        tokenizers: Sequence[CLIPTokenizer],
        pair: TextEncoderPair,
        token_files: Sequence[str | Path] = (),
        **options: Any,
    ):
        """
        Args:
            tokenizers: of the first and the second; they differ in what they pad with.
            token_files: learned tokens, added to both tokenizers and both text encoders.
            options: as for `PromptEncoder`.
        """
        super().__init__(tokenizers[0], **options)
        self.tokenizers = tuple(tokenizers)
        self.base_fingerprint = fingerprint(pair)
        self.options = {
            "text_encoder": TEXT_ENCODER.options(pair.first.config.to_dict()),
            "text_encoder_2": PROJECTED_TEXT_ENCODER.options(pair.second.config.to_dict()),
        }
        readers = zip(tokenizers, (pair.first, pair.second), strict=True)
        self.token_fingerprints = teach_tokens(token_files, dict(zip(PAIR, readers, strict=True)))
        self.text_encoder = Frozen(pair)

    @classmethod
    def from_pretrained(
        cls,
        folder: Path,
        token_files: Sequence[str | Path] = (),
        lora: LoraFile | None = None,
        **options: Any,
    ) -> "PairedTextEncoder":
        """Loads the two tokenizers and text encoders of a folder.

        Args:
            lora: low-rank updates of their weights, which were checked.
            options: as for the class.

        Raises:
            UserError: one of them is of another kind or damaged, or they do not belong together.
        """
        tokenizers, encoders = [], []
        for suffix, part in (("", TEXT_ENCODER), ("_2", PROJECTED_TEXT_ENCODER)):
            tokenizers.append(load_tokenizer(folder, f"tokenizer{suffix}"))
            encoders.append(part.load(folder / f"text_encoder{suffix}"))
            check_goes_with(tokenizers[-1], encoders[-1], folder, suffix)
            if lora:
                lora.merge(f"text_encoder{suffix}", encoders[-1])
        check_read_alike(*tokenizers, folder)
        base = join_fingerprints(map(tokenizer_fingerprint, tokenizers))
        pair = TextEncoderPair(*encoders, tokenizers[1].eos_token_id)
        text = cls(tokenizers, pair, token_files, **options)
        text.tokenizer_fingerprint = base
        return text

    @property
    def length(self) -> int:
        """N, the number of tokens of a context."""
        return self.text_encoder.module.first.config.max_position_embeddings

    def _encode(self, prompt: str, device: torch.device) -> Context:
        ids = (
            tokenizer(
                prompt, padding="max_length", max_length=self.length, return_tensors="pt"
            ).input_ids.to(device)
            for tokenizer in self.tokenizers
        )
        with autocast(device.type, "fp32"):
            embeddings, pooled = self.text_encoder(*ids)
        return Context(embeddings[0], pooled=pooled[0])


def check_read_alike(first: CLIPTokenizer, second: CLIPTokenizer, folder: Path) -> None:
    """
    Raises:
        UserError: two tokenizers make other tokens of a text, or of another number.
    """
    if first.get_vocab() != second.get_vocab() or first.model_max_length != second.model_max_length:
        raise UserError(
            f"{folder}: tokenizer/ and tokenizer_2/ are not of one vocabulary and one length; take "
            "both from one model"
        )


def join_fingerprints(fingerprints: Sequence[str]) -> str:
    """One of several, in their order."""
    return hashlib.sha256(" ".join(fingerprints).encode()).hexdigest()
