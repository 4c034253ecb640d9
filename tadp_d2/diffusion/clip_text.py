"""From captions to the UNet's conditioning: caption -> prompt -> context.

Where captions come from, and what uses the context, is not known here.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from tadp_d2.conditioning.domains import PLACEHOLDER, SLOT, Modifier
from tadp_d2.diffusion.model_folder import check_complete, loading
from tadp_d2.diffusion.tokens import add_token, expand_tokens, read_tokens
from tadp_d2.errors import UserError
from tadp_d2.frozen import Frozen, fingerprint
from tadp_d2.precision import autocast


class Context(NamedTuple):
    """What the UNet's cross-attention looks at.

    Attributes:
        embeddings: B x N x D.
        mask: B x N, True where a token may be attended to; None for all, as Stable Diffusion does.
    """

    embeddings: Tensor
    mask: Tensor | None = None


class TextConditioner(nn.Module):
    """A frozen CLIP text encoder with its tokenizer and a cache of contexts.

    The context of a prompt is the last hidden state after the final layer norm, N x D; 77 x 768 for
    Stable Diffusion 1.x (TADP, section 3).
    """

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        token_files: Sequence[str | Path] = (),
        cache_size: int = 20_000,
    ):
        """
        Args:
            token_files: learned tokens, added to the tokenizer and the text encoder.
            cache_size: number of contexts that are kept; the least recently used one goes first.
        """
        super().__init__()
        self.tokenizer = tokenizer
        self.cache_size = cache_size
        self.base_fingerprint = fingerprint(text_encoder)
        self.token_fingerprints: dict[str, str] = {}
        for file in token_files:
            for token, vectors in read_tokens(file).items():
                add_token(token, vectors, tokenizer, text_encoder)
                self.token_fingerprints[token] = fingerprint(vectors)
        self.text_encoder = Frozen(text_encoder)
        self._cache: OrderedDict[str, Tensor] = OrderedDict()

    @classmethod
    def from_pretrained(
        cls, folder: Path, token_files: Sequence[str | Path] = (), cache_size: int = 20_000
    ) -> "TextConditioner":
        """Loads `tokenizer/` and `text_encoder/` of a Stable Diffusion folder."""
        with loading(folder / "tokenizer"):
            tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        with loading(folder / "text_encoder"):
            text_encoder, report = CLIPTextModel.from_pretrained(
                folder / "text_encoder", dtype=torch.float32, output_loading_info=True
            )
        check_complete(folder / "text_encoder", report)
        return cls(tokenizer, text_encoder, token_files, cache_size)

    @property
    def length(self) -> int:
        """N, the number of tokens of a context."""
        return self.text_encoder.module.config.max_position_embeddings

    def check(self, modifier: Modifier) -> None:
        """
        Raises:
            UserError: the modifier names a learned token that was not loaded, or leaves no room
                for a caption.
        """
        unknown = set(PLACEHOLDER.findall(modifier.template)) - set(self.tokenizer.get_vocab())
        if unknown:
            raise UserError(
                f"modifier {modifier.name!r} uses {', '.join(sorted(unknown))}, which the text "
                "encoder does not know: name the file of the learned token in TEXT.TOKENS"
            )
        self.prompt("", modifier)

    def prompt(self, caption: str, modifier: Modifier) -> str:
        """The prompt for a caption; what CLIP cannot read is cut from the caption's end, by words.

        The modifier is never cut (TADP leaves this open; its released code cuts the prompt's end).

        Raises:
            UserError: the modifier alone is longer than the text encoder reads.
        """
        # A word is a token at least: further ones are never read.
        words = caption.split()[: self.length]
        while True:
            filled = modifier.template.replace(SLOT, " ".join(words)).strip()
            text = expand_tokens(filled, self.tokenizer)
            excess = len(self.tokenizer(text, verbose=False).input_ids) - self.length
            if excess <= 0:
                return text
            if not words:
                raise UserError(
                    f"modifier {modifier.name!r} is {excess} tokens longer than the "
                    f"{self.length} that the text encoder reads: shorten {modifier.template!r}"
                )
            words.pop()

    def forward(self, prompts: Sequence[str]) -> Context:
        """Contexts of prompts, B x N x D, on the text encoder's device."""
        device = next(self.text_encoder.parameters()).device
        return Context(torch.stack([self._embed(prompt, device) for prompt in prompts]))

    def _embed(self, prompt: str, device: torch.device) -> Tensor:
        if prompt not in self._cache:
            self._cache[prompt] = self._encode(prompt, device).cpu()
        self._cache.move_to_end(prompt)
        context = self._cache[prompt]
        if len(self._cache) > self.cache_size:
            self._cache.popitem(last=False)
        return context.to(device, non_blocking=True)

    def _encode(self, prompt: str, device: torch.device) -> Tensor:
        ids = self.tokenizer(
            prompt, padding="max_length", max_length=self.length, return_tensors="pt"
        ).input_ids
        # One prompt at a time and never in reduced precision: the context of a prompt depends
        # neither on its neighbours in a batch nor on whether it was first met in training.
        with autocast(device.type, "fp32"):
            return self.text_encoder(ids.to(device)).last_hidden_state[0]
