"""VPD's text: one averaged embedding for each class, the same for all pictures."""

from collections.abc import Sequence

import torch
from torch import nn

from tadp_d2.conditioning.domains import Modifier
from tadp_d2.diffusion.clip_text import Context, TextConditioner
from tadp_d2.inference.word_maps import average_class


class ClassEmbeddings(nn.Module):
    """Stands in for a `TextConditioner`: whatever is said, the context is one token per class.

    The other tokens are masked, so that a model keeps its number of attention maps.
    """

    def __init__(self, text: TextConditioner, names: Sequence[str]):
        super().__init__()
        self.text = text
        known = torch.stack([average_class(name, text) for name in names])
        rest = known.new_zeros(text.length - len(names), known.shape[1])
        told = torch.arange(text.length, device=known.device) < len(names)
        self.register_buffer("embeddings", torch.cat([known, rest]), persistent=False)
        self.register_buffer("mask", told, persistent=False)

    def prompt(self, caption: str, modifier: Modifier) -> str:
        return self.text.prompt(caption, modifier)

    def forward(self, prompts: Sequence[str]) -> Context:
        """The context, B x N x D, with its mask, B x N."""
        size = len(prompts)
        return Context(self.embeddings.expand(size, -1, -1), self.mask.expand(size, -1))
