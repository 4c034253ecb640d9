"""What a family of text-to-image models offers: the third seam. A family has a file of its own.

A model is its parts: image -> latent; text -> token embeddings; latent, context and time step ->
features by level. Detectron2, data sets and captions are not known here.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tadp_d2.diffusion.lora_file import LoraFile
from tadp_d2.diffusion.model_folder import Format
from tadp_d2.diffusion.tokens import read_tokens
from tadp_d2.errors import UserError


class Context(NamedTuple):
    """What a diffusion model is conditioned on.

    Attributes:
        embeddings: B x N x D, of tokens, at which its attention looks.
        mask: B x N, True where a token may be attended to; None for all, as Stable Diffusion does.
        pooled: B x P, of the whole text, for a family that reads one.
    """

    embeddings: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None


@dataclass(frozen=True)
class MapOptions:
    """Which attention maps follow the features' channels.

    Attributes:
        tokens: N, the number of context tokens and so of a map's channels.
        levels: that get maps, such as "s4"; none switches them off.
        paths: whose layers are averaged: "down", "mid" (the coarsest level's size), "up".
        gradient: whether gradients flow through the maps.
        self_attention: height and width of the image, in pixels, for which self-attention maps
            follow the others: a channel for each position of the level. Empty for none.
    """

    tokens: int = 77
    levels: Collection[str] = ("s4", "s5")
    paths: Collection[str] = ("down", "up")
    gradient: bool = True
    self_attention: tuple[int, int] | tuple[()] = ()


class Latents(NamedTuple):
    """The form of an image's latents.

    Attributes:
        channels: of a latent.
        stride: image pixels per latent pixel.
    """

    channels: int
    stride: int


def level_strides(latent_stride: int, depth: int) -> dict[str, int]:
    """Level -> stride in pixels of so many levels, the finest first, each half of the one before.

    A level is named by the log2 of its stride: "s3" is stride 8.
    """
    strides = [latent_stride * 2**i for i in range(depth)]
    return {f"s{int(math.log2(stride))}": stride for stride in strides}


class DiffusionModel(ABC):
    """A model on disk. To make one reads no weights; the parts are loaded one by one.

    Attributes:
        what: the family, for messages.
        format: what its folder holds.
        teachable: the same for who teaches a model; None for a family that is not taught here.
        folder: of the model.
        unet_folder: of the denoising network, which a fine-tuned one may replace.
        reads_prompts_only: whether a context must be what its text encoder makes of a prompt.
    """

    what: ClassVar[str]
    format: ClassVar[Format]
    teachable: ClassVar[Format | None] = None
    reads_prompts_only: ClassVar[bool] = False

    def __init__(self, folder: Path, unet_folder: Path | None = None):
        self.folder = folder
        self.unet_folder = unet_folder or folder / "unet"

    @classmethod
    @abstractmethod
    def opens(cls, folder: Path) -> bool:
        """Whether the model in a folder is of this family, if it is of none that is asked first.

        Of a hub's model there may be no more than its `model_index.json` yet.

        Raises:
            UserError: it is, but made for another purpose.
        """

    @abstractmethod
    def check(self) -> None:
        """Checks the configs of the parts, each and against each other; reads no weights.

        Raises:
            UserError: a part asks for what is not computed here, or does not go with another.
        """

    def add_lora(self, lora: LoraFile) -> None:
        """Adds low-rank updates to the weights of all parts that are loaded from now on.

        Raises:
            UserError: they do not fit, or the family takes none.
        """
        raise UserError(f"{lora.path}: a model of the family {self.what} takes no LoRA here")

    def use_tiny_encoder(self, folder: Path) -> None:
        """Puts a small encoder (`tiny_encoder`) in the VAE's place; reads no weights.

        Raises:
            UserError: it does not fit, or the family takes none.
        """
        raise UserError(
            f"MODEL.DIFFUSION.TINY_ENCODER is {folder}: a model of the family {self.what} takes "
            "no small encoder here; leave it empty"
        )

    def check_tokens(self, token_files: Sequence[str | Path]) -> None:
        """Checks files of learned tokens; reads no weights.

        Raises:
            UserError: one is damaged or does not fit, or the family learns no tokens.
        """
        for file in token_files:
            read_tokens(file)

    @property
    @abstractmethod
    def latents(self) -> Latents:
        """The form of its latents; reads no weights."""

    @property
    @abstractmethod
    def strides(self) -> dict[str, int]:
        """Level -> stride in pixels of its features, as by `level_strides`; reads no weights."""

    @property
    @abstractmethod
    def text_length(self) -> int:
        """The number of tokens that a text is padded or cut to."""

    @property
    @abstractmethod
    def context_width(self) -> int:
        """D, the width of a token's embedding."""

    @abstractmethod
    def load_latent_encoder(self, scaled: bool = True) -> nn.Module:
        """The encoder, images B x 3 x H x W in [-1, 1] -> latents; it has a `stride` in pixels.

        Args:
            scaled: multiply latents by the model's scaling factor.

        Raises:
            UserError: its files are damaged.
        """

    @abstractmethod
    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the text encoder.

        Raises:
            UserError: its files are damaged.
        """

    @abstractmethod
    def load_text_encoder(
        self, token_files: Sequence[str | Path] = (), **options: Any
    ) -> nn.Module:
        """The text encoder with its tokenizer (`clip_text.PromptEncoder`).

        Args:
            token_files: learned tokens, which it gets to know.
            options: `cache_size` and `normalization`, as for that class.

        Raises:
            UserError: its files or those of a token are damaged, or it learns no tokens.
        """

    @abstractmethod
    def load_features(
        self,
        latent_encoder: nn.Module,
        maps: MapOptions,
        gradient_checkpointing: bool = False,
        taps: Sequence[int] = (),
    ) -> nn.Module:
        """The trained part: latents, `Context` and time step -> level -> B x C x h x w.

        It has `strides` and `channels` by level and a `base_fingerprint` of its weights as they
        came.

        Args:
            latent_encoder: whose latents it reads.
            gradient_checkpointing: recompute its blocks in the backward pass.
            taps: which layer's output is a level's features, the finest level first; empty for
                those of the papers.

        Raises:
            UserError: its files are damaged, or it does not fit the other parts.
        """
