"""Stable Diffusion 3: a transformer over patches of the latent and tokens of three text encoders.

T5, the third, is optional, as in diffusers: without it its tokens are zeros.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoTokenizer,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerBase,
    T5EncoderModel,
)

from tadp_d2.diffusion.clip_text import PromptEncoder
from tadp_d2.diffusion.clip_tokenizer import (
    check_goes_with,
    load_tokenizer,
    tokenizer_fingerprint,
)
from tadp_d2.diffusion.diffusion_model import (
    Context,
    DiffusionModel,
    Latents,
    MapOptions,
    level_strides,
)
from tadp_d2.diffusion.model_folder import (
    STABLE_DIFFUSION_3,
    UNET_FOLDER,
    loading,
    read_pipeline,
)
from tadp_d2.diffusion.model_part import (
    PROJECTED_TEXT_ENCODER,
    T5_ENCODER,
    TRANSFORMER_3,
    VAE_3,
)
from tadp_d2.diffusion.stable_diffusion import LatentEncoder, vae_latents
from tadp_d2.diffusion.stable_diffusion_xl import (
    check_read_alike,
    join_fingerprints,
)
from tadp_d2.errors import UserError
from tadp_d2.frozen import Frozen, fingerprint
from tadp_d2.precision import autocast
from tadp_d2.pyramid import Pyramid

# Tokens that T5 reads, as in diffusers' pipeline; further ones are cut.
T5_LENGTH = 256
_OUTPUT_LAYERS = ("norm_out", "proj_out")
_NUMBER_OF_LEVELS = 4


class StableDiffusion3(DiffusionModel):
    """A folder with `transformer/`, `vae/`, two CLIP text encoders, and T5 or not."""

    what = "Stable Diffusion 3"
    format = STABLE_DIFFUSION_3
    reads_prompts_only = True

    def __init__(self, folder: Path, unet_folder: Path | None = None):
        super().__init__(folder, unet_folder or folder / "transformer")

    @classmethod
    def opens(cls, folder: Path) -> bool:
        pipeline = read_pipeline(folder)
        if pipeline is None:
            path = folder / "transformer" / "config.json"
            return path.is_file() and "SD3Transformer2DModel" in path.read_text("utf-8")
        return pipeline.name == "StableDiffusion3Pipeline"

    @cached_property
    def _transformer(self) -> dict[str, Any]:
        return TRANSFORMER_3.read_config(self.unet_folder)

    @cached_property
    def _texts(self) -> list[dict[str, Any]]:
        return [
            PROJECTED_TEXT_ENCODER.read_config(self.folder / part)
            for part in ("text_encoder", "text_encoder_2")
        ]

    @property
    def _has_t5(self) -> bool:
        return (self.folder / "text_encoder_3").is_dir()

    def check(self) -> None:
        UNET_FOLDER.check(self.unet_folder)
        pipeline = read_pipeline(self.folder)
        if pipeline and "text_encoder_3" in pipeline.parts and not self._has_t5:
            raise UserError(
                f"{self.folder}: lacks text_encoder_3/, T5, which model_index.json names; to do "
                'without, write "text_encoder_3": [null, null] there'
            )
        own, where = self._transformer, f"{self.unet_folder}, used with {self.folder}"
        for what, found, expected in (
            ("latents of channels", own["in_channels"], self.latents.channels),
            (
                "a pooled embedding of width",
                own["pooled_projection_dim"],
                sum(text["projection_dim"] for text in self._texts),
            ),
            *(
                [("T5's tokens of width", own["joint_attention_dim"], self._t5["d_model"])]
                if self._has_t5
                else []
            ),
        ):
            if found != expected:
                raise UserError(
                    f"{where}: the transformer reads {what} {found}, but there are {expected}: "
                    "they are of different base models"
                )
        width = sum(text["hidden_size"] for text in self._texts)
        if width > self.context_width:
            raise UserError(
                f"{where}: the transformer reads contexts of width {self.context_width}, but the "
                f"text encoders write {width}: they are of different base models"
            )

    @cached_property
    def _t5(self) -> dict[str, Any]:
        return T5_ENCODER.read_config(self.folder / "text_encoder_3")

    @cached_property
    def latents(self) -> Latents:
        return vae_latents(VAE_3.read_config(self.folder / "vae"))

    @property
    def strides(self) -> dict[str, int]:
        return _strides(self.latents.stride, self._transformer["patch_size"])

    @property
    def text_length(self) -> int:
        """CLIP's; T5's tokens follow in the context."""
        return self._texts[0]["max_position_embeddings"]

    @property
    def context_width(self) -> int:
        return self._transformer["joint_attention_dim"]

    def load_latent_encoder(self, scaled: bool = True) -> LatentEncoder:
        return LatentEncoder(VAE_3.load(self.folder / "vae"), scaled, VAE_3)

    def load_tokenizer(self) -> CLIPTokenizer:
        return load_tokenizer(self.folder)

    def check_tokens(self, token_files: Sequence[str | Path]) -> None:
        if token_files:
            raise UserError(
                f"TEXT.TOKENS is {', '.join(map(str, token_files))}: {self.folder} is a Stable "
                "Diffusion 3, whose text encoders learn no tokens here; leave it empty, or name a "
                "Stable Diffusion 1.x, 2.x or XL model in MODEL.DIFFUSION.WEIGHTS"
            )

    def load_text_encoder(
        self, token_files: Sequence[str | Path] = (), **options: Any
    ) -> "TripleTextEncoder":
        self.check_tokens(token_files)
        return TripleTextEncoder.from_pretrained(self.folder, self.context_width, **options)

    def load_features(
        self,
        latent_encoder: nn.Module,
        maps: MapOptions,
        gradient_checkpointing: bool = False,
        taps: Sequence[int] = (),
    ) -> "TransformerFeatures":
        if maps.levels or maps.self_attention:
            raise UserError(
                f"MODEL.DIFFUSION.ATTENTION_MAPS.LEVELS is {', '.join(maps.levels)}: "
                f"{self.folder} has joint attention, of which no maps are offered; write LEVELS [] "
                "and no self-attention maps"
            )
        transformer = TRANSFORMER_3.load(self.unet_folder)
        return TransformerFeatures(transformer, latent_encoder.stride, taps, gradient_checkpointing)


def _strides(latent_stride: int, patch_size: int) -> dict[str, int]:
    # One level finer than the tokens, theirs, and two coarser ones.
    return level_strides(latent_stride * patch_size // 2, _NUMBER_OF_LEVELS)


class TransformerFeatures(nn.Module):
    """One pass of a diffusion transformer, of which the outputs of some blocks are the features.

    Tokens of the image, taken after a block, make a map of stride 16; `Pyramid` makes the levels of
    it. What follows the last of the blocks is not computed.
    """

    def __init__(
        self,
        transformer: SD3Transformer2DModel,
        latent_stride: int = 8,
        taps: Sequence[int] = (),
        gradient_checkpointing: bool = False,
    ):
        """
        Args:
            transformer: its output layers and later blocks are dropped.
            latent_stride: image pixels per latent pixel.
            taps: the block from 0 for each level, the finest first, or one for all; none for the
                one in the middle.
            gradient_checkpointing: recompute blocks in the backward pass.

        Raises:
            UserError: there is no such block, or there are blocks for another number of levels.
        """
        super().__init__()
        number = len(transformer.transformer_blocks)
        if len(taps) not in (0, 1, _NUMBER_OF_LEVELS) or not all(tap < number for tap in taps):
            raise UserError(
                f"MODEL.DIFFUSION.TAPS is {list(taps)}: expected one of this transformer's blocks, "
                f"0 to {number - 1}, for each of the {_NUMBER_OF_LEVELS} levels, or one for all"
            )
        taps = list(taps) or [(number - 1) // 2]
        chosen = taps * _NUMBER_OF_LEVELS if len(taps) == 1 else taps
        on_meta = transformer.device.type == "meta"
        self.base_fingerprint = "" if on_meta else fingerprint(transformer)
        self.options = {**TRANSFORMER_3.options(transformer.config), "blocks": chosen}
        self.gradient_checkpointing = gradient_checkpointing
        last = max(chosen)
        transformer.transformer_blocks = transformer.transformer_blocks[: last + 1]
        for name in _OUTPUT_LAYERS:
            setattr(transformer, name, None)
        # Nobody reads the text behind the last block: without a gradient its layers there would
        # stop distributed training.
        unread = transformer.transformer_blocks[last]
        for layer in (unread.ff_context, unread.attn.to_add_out):
            if layer is not None:
                layer.requires_grad_(False)
        self.transformer = transformer
        self.strides = _strides(latent_stride, transformer.config.patch_size)
        self.blocks = dict(zip(self.strides, chosen, strict=True))
        tokens = latent_stride * transformer.config.patch_size
        self.pyramid = Pyramid({tokens: transformer.inner_dim}, list(self.strides.values()))
        self.channels = {level: self.pyramid.channels[own] for level, own in self.strides.items()}

    def forward(self, latents: Tensor, context: Context, timestep: float) -> dict[str, Tensor]:
        """
        Args:
            latents: B x C x h x w, h and w multiples of the patch's size.
            context: B x N x D, with a pooled embedding, without a mask.
            timestep: 0 for no noise, up to 1000.

        Returns:
            level -> B x channels[level] x h x w of the level.

        Raises:
            UserError: the image is larger than the positions of the transformer.
        """
        net = self.transformer
        size = [side // net.config.patch_size for side in latents.shape[-2:]]
        most = net.config.pos_embed_max_size
        if max(size) > most:
            pixels = most * self.strides[next(iter(self.strides))] * 2
            raise UserError(
                f"an image of {size[0]} x {size[1]} patches came to the transformer, which has "
                f"positions for {most} x {most}: INPUT sizes of at most {pixels} pixels"
            )
        hidden = net.pos_embed(latents)
        steps = torch.full(
            (latents.shape[0],), timestep, dtype=torch.float32, device=latents.device
        )
        time = net.time_text_embed(steps, context.pooled)
        text = net.context_embedder(context.embeddings)
        taken = {}
        for index, block in enumerate(net.transformer_blocks):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                text, hidden = checkpoint(block, hidden, text, time, use_reentrant=False)
            else:
                text, hidden = block(hidden, text, time)
            if index in self.blocks.values():
                taken[index] = hidden.transpose(1, 2).unflatten(-1, size)
        return {
            level: self.pyramid.make(stride, taken[self.blocks[level]])
            for level, stride in self.strides.items()
        }


class TextEncoders(nn.Module):
    """Tokens -> the context and the pooled embedding of Stable Diffusion 3."""

    def __init__(
        self,
        first: CLIPTextModelWithProjection,
        second: CLIPTextModelWithProjection,
        third: T5EncoderModel | None,
        width: int,
    ):
        """
        Args:
            width: D, of a token of the context.
        """
        super().__init__()
        self.first, self.second, self.third, self.width = first, second, third, width

    def forward(
        self, first_ids: Tensor, second_ids: Tensor, third_ids: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            first_ids, second_ids: B x 77, of each one's tokenizer.
            third_ids: B x 256, of T5's, if there is one.

        Returns:
            B x (77 + 256) x D, and B x P.
        """
        first = self.first(first_ids, output_hidden_states=True)
        second = self.second(second_ids, output_hidden_states=True)
        clip = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        clip = F.pad(clip, (0, self.width - clip.shape[-1]))
        if self.third is None:
            t5 = clip.new_zeros(len(clip), T5_LENGTH, self.width)
        else:
            t5 = self.third(third_ids)[0]
        pooled = torch.cat([first.text_embeds, second.text_embeds], dim=-1)
        return torch.cat([clip, t5], dim=1), pooled


class TripleTextEncoder(PromptEncoder):
    """The text encoders of Stable Diffusion 3, which all read the same prompt.

    Context: 77 tokens of the two CLIPs, joined by their width, and 256 of T5, 333 x 4096, and a
    pooled embedding of 2048, as diffusers' `encode_prompt` makes them. A prompt may have 77 tokens
    of CLIP; what T5 makes of it is cut at 256, as there.
    """

    one_token_each: ClassVar[bool] = False

    def __init__(
        self,
        tokenizers: Sequence[PreTrainedTokenizerBase],
        encoders: TextEncoders,
        **options: Any,
    ):
        """
        Args:
            tokenizers: of the two CLIPs, and of T5, if there is one.
            options: as for `PromptEncoder`.
        """
        super().__init__(tokenizers[0], **options)
        self.tokenizers = tuple(tokenizers)
        self.base_fingerprint = fingerprint(encoders)
        parts = (PROJECTED_TEXT_ENCODER, PROJECTED_TEXT_ENCODER, T5_ENCODER)
        models = (encoders.first, encoders.second, encoders.third)
        self.options = {
            f"text_encoder_{number}": part.options(model.config.to_dict())
            for number, (part, model) in enumerate(zip(parts, models, strict=True), 1)
            if model is not None
        }
        self.text_encoder = Frozen(encoders)

    @classmethod
    def from_pretrained(cls, folder: Path, width: int, **options: Any) -> "TripleTextEncoder":
        """Loads the tokenizers and text encoders of a folder.

        Args:
            width: D, of a token of the context.
            options: as for `PromptEncoder`.

        Raises:
            UserError: one of them is of another kind or damaged, or they do not belong together.
        """
        tokenizers: list[PreTrainedTokenizerBase] = []
        encoders: list[nn.Module | None] = []
        for suffix in ("", "_2"):
            tokenizers.append(load_tokenizer(folder, f"tokenizer{suffix}"))
            encoders.append(PROJECTED_TEXT_ENCODER.load(folder / f"text_encoder{suffix}"))
            check_goes_with(tokenizers[-1], encoders[-1], folder, suffix)
        check_read_alike(*tokenizers, folder)
        prints = [tokenizer_fingerprint(own) for own in tokenizers]
        if (folder / "text_encoder_3").is_dir():
            with loading(folder / "tokenizer_3"):
                tokenizers.append(AutoTokenizer.from_pretrained(str(folder / "tokenizer_3")))
                written = tokenizers[-1].backend_tokenizer.to_str()
            encoders.append(T5_ENCODER.load(folder / "text_encoder_3"))
            prints.append(hashlib.sha256(written.encode()).hexdigest())
        else:
            encoders.append(None)
        text = cls(tokenizers, TextEncoders(*encoders, width), **options)
        text.tokenizer_fingerprint = join_fingerprints(prints)
        return text

    @property
    def length(self) -> int:
        """The number of CLIP's tokens that a prompt may have."""
        return self.text_encoder.module.first.config.max_position_embeddings

    def _encode(self, prompt: str, device: torch.device) -> Context:
        lengths = (self.length, self.length, T5_LENGTH)
        ids: list[Tensor | None] = [
            tokenizer(
                prompt,
                padding="max_length",
                max_length=length,
                truncation=length == T5_LENGTH,
                return_tensors="pt",
            ).input_ids.to(device)
            for tokenizer, length in zip(self.tokenizers, lengths, strict=False)
        ]
        with autocast(device.type, "fp32"):
            embeddings, pooled = self.text_encoder(*ids, *[None] * (3 - len(ids)))
        return Context(embeddings[0], pooled=pooled[0])
