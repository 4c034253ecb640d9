"""Text encoders: prompt -> context. What a prompt is made of is not known here."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from tadp_d2.diffusion.clip_tokenizer import (
    check_goes_with,
    find_normalization,
    load_tokenizer,
    tokenizer_fingerprint,
)
from tadp_d2.diffusion.diffusion_model import Context
from tadp_d2.diffusion.lora_file import LoraFile
from tadp_d2.diffusion.model_part import TEXT_ENCODER
from tadp_d2.diffusion.tokens import ONLY, teach_tokens
from tadp_d2.errors import UserError
from tadp_d2.frozen import Frozen, fingerprint
from tadp_d2.precision import autocast


class PromptEncoder(nn.Module, ABC):
    """A frozen text encoder with its tokenizer and a cache of contexts.

    Attributes:
        tokenizer: by which the length of a prompt counts.
        text_encoder: `Frozen`.
        base_fingerprint: of its weights without learned tokens.
        tokenizer_fingerprint: of the tokenizer without them.
        token_fingerprints: learned token -> that of its vectors.
        options: of the text encoder's config, those that count.
    """

    # Whether the tokens of a context are those of the prompt, in their order.
    one_token_each: ClassVar[bool] = True
    text_encoder: Frozen
    base_fingerprint: str
    options: dict[str, Any]

    def __init__(
        self, tokenizer: CLIPTokenizer, cache_size: int = 20_000, normalization: str = "none"
    ):
        """
        Args:
            cache_size: number of contexts that are kept; the least recently used one goes first.
            normalization: of captions, as `find_normalization`; prompts are read as they are.
        """
        super().__init__()
        self.tokenizer = tokenizer
        self.cache_size = cache_size
        self.normalize, self.normalization = find_normalization(normalization)
        # Whoever loads a folder sets it.
        self.tokenizer_fingerprint = ""
        self.token_fingerprints: dict[str, str] = {}
        self._cache: OrderedDict[str, Context] = OrderedDict()

    @property
    @abstractmethod
    def length(self) -> int:
        """The number of tokens that a prompt may have."""

    @property
    def provenance(self) -> dict[str, Any]:
        """What decides on the context of a prompt, but for learned tokens."""
        return {
            "text_encoder": self.base_fingerprint,
            "tokenizer": self.tokenizer_fingerprint,
            "text_options": self.options,
            "normalization": self.normalization,
        }

    def forward(self, prompts: Sequence[str]) -> Context:
        """Contexts of prompts, B x N x D, on the text encoder's device."""
        device = next(self.text_encoder.parameters()).device
        embeddings, _, pooled = zip(*(self._recall(own, device) for own in prompts), strict=True)
        return Context(
            torch.stack(embeddings), pooled=None if pooled[0] is None else torch.stack(pooled)
        )

    def _recall(self, prompt: str, device: torch.device) -> Context:
        if prompt not in self._cache:
            self._cache[prompt] = _move(self._encode(prompt, device), torch.device("cpu"))
        self._cache.move_to_end(prompt)
        context = self._cache[prompt]
        if len(self._cache) > self.cache_size:
            self._cache.popitem(last=False)
        return _move(context, device)

    @abstractmethod
    def _encode(self, prompt: str, device: torch.device) -> Context:
        """The context of one prompt, without the dimension of the batch.

        One prompt at a time and never in reduced precision: its context depends neither on its
        neighbors in a batch nor on whether it was first met in training.
        """


def _move(context: Context, device: torch.device) -> Context:
    return Context(*(own if own is None else own.to(device, non_blocking=True) for own in context))


class TextEncoder(PromptEncoder):
    """CLIP's text encoder as Stable Diffusion 1.x and 2.x use it.

    The context of a prompt is the last hidden state after the final layer norm, N x D; 77 x 768 for
    Stable Diffusion 1.x (TADP, section 3).
    """

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        token_files: Sequence[str | Path] = (),
        **options: Any,
    ):
        """
        Args:
            token_files: learned tokens, added to the tokenizer and the text encoder.
            options: as for `PromptEncoder`.
        """
        super().__init__(tokenizer, **options)
        self.base_fingerprint = fingerprint(text_encoder)
        self.options = TEXT_ENCODER.options(text_encoder.config.to_dict())
        self.token_fingerprints = teach_tokens(token_files, {ONLY: (tokenizer, text_encoder)})
        self.text_encoder = Frozen(text_encoder)

    @classmethod
    def from_pretrained(
        cls,
        folder: Path,
        token_files: Sequence[str | Path] = (),
        lora: LoraFile | None = None,
        **options: Any,
    ) -> "TextEncoder":
        """Loads `tokenizer/` and `text_encoder/` of a Stable Diffusion folder.

        Args:
            lora: low-rank updates of its weights, which were checked.
            options: as for the class.

        Raises:
            UserError: one of them is of another kind or damaged, or they do not belong together.
        """
        tokenizer = load_tokenizer(folder)
        text_encoder = TEXT_ENCODER.load(folder / "text_encoder")
        check_goes_with(tokenizer, text_encoder, folder)
        if lora:
            lora.merge("text_encoder", text_encoder)
        base = tokenizer_fingerprint(tokenizer)
        text = cls(tokenizer, text_encoder, token_files, **options)
        text.tokenizer_fingerprint = base
        return text

    @property
    def length(self) -> int:
        """N, the number of tokens of a context."""
        return self.text_encoder.module.config.max_position_embeddings

    def embed_ends(self, sentences: Sequence[str], max_length: int | None = None) -> Tensor:
        """One embedding for each sentence, B x D: the last hidden state at its end-of-text token.

        The first such token, where padding repeats it: CLIP's pooled output, not projected and not
        normalized. Nothing is kept in the cache.

        Args:
            max_length: tokens to which sentences are cut, start and end among them; None for all.

        Raises:
            UserError: a sentence is longer than the text encoder reads, and is not to be cut.
        """
        tokens = self.tokenizer(
            list(sentences),
            padding=True,
            truncation=max_length is not None,
            max_length=max_length,
            return_tensors="pt",
        )
        longest = max(zip(tokens.attention_mask.sum(1).tolist(), sentences, strict=True))
        if longest[0] > self.length:
            raise UserError(
                f"{longest[1]!r} has {longest[0]} tokens, and the text encoder reads {self.length}"
            )
        device = next(self.text_encoder.parameters()).device
        with autocast(device.type, "fp32"):
            hidden = self.text_encoder(tokens.input_ids.to(device)).last_hidden_state
        return at_ends(hidden, tokens.input_ids, self.tokenizer.eos_token_id)

    def _encode(self, prompt: str, device: torch.device) -> Context:
        ids = self.tokenizer(
            prompt, padding="max_length", max_length=self.length, return_tensors="pt"
        ).input_ids
        with autocast(device.type, "fp32"):
            return Context(self.text_encoder(ids.to(device)).last_hidden_state[0])


def at_ends(hidden: Tensor, ids: Tensor, end: int) -> Tensor:
    """Hidden states, B x N x D, at the first end-of-text token of ids, B x N."""
    ends = (ids == end).int().argmax(dim=1)
    return hidden[torch.arange(len(ends)), ends]
