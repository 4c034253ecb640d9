"""The words of all class names, each name read alone (TADP, table 1: Class Embs)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from transformers import CLIPTokenizer

from tadp_d2.conditioning.class_embeddings import check_name
from tadp_d2.conditioning.conditioner import (
    CONDITIONER_REGISTRY,
    Condition,
    Conditioner,
    get_class_names,
)
from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.diffusion.diffusion_model import Context, DiffusionModel


@CONDITIONER_REGISTRY.register()
class ClassWords(Conditioner):
    """A context of one token for each token of a class name, and a start-of-text token before all.

    24 tokens for Pascal's 21 classes, as released: start of the first name, then the tokens of
    each name's words, without the ends.
    """

    def __init__(self, text: TextEncoder, names: Sequence[str]):
        """
        Args:
            names: of the classes, in the order of the tokens.

        Raises:
            UserError: a name holds nothing that the text encoder reads, or is too long for it.
        """
        super().__init__()
        self.names = list(names)
        self.text_provenance = text.provenance
        spans = find_spans(names, text.tokenizer)
        for name in names:
            check_name(name, text)
        with torch.no_grad():
            contexts = text(names).embeddings
        pieces = [own[span] for own, span in zip(contexts, spans, strict=True)]
        self.register_buffer("embeddings", torch.cat(pieces), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, model: DiffusionModel) -> "ClassWords":
        return cls(model.load_text_encoder(), get_class_names(cfg))

    @classmethod
    def count_tokens(cls, cfg: CfgNode, model: DiffusionModel) -> int:
        spans = find_spans(get_class_names(cfg), model.load_tokenizer())
        return sum(span.stop - span.start for span in spans)

    def forward(
        self, inputs: Sequence[Mapping[str, Any]], images: Tensor, latents: Tensor
    ) -> Condition:
        return Condition(Context(self.embeddings.expand(len(inputs), -1, -1)))

    def provenance(self) -> dict[str, Any]:
        return {**self.text_provenance, "class_names": self.names}

    def prompt(self, inputs: Mapping[str, Any]) -> str:
        return f"the words of {', '.join(self.names)}, each name read alone"


def find_spans(names: Sequence[str], tokenizer: CLIPTokenizer) -> list[slice]:
    """Which tokens of each name, read alone, are of its words; the first has its start, too."""
    ends = [len(tokenizer(name).input_ids) - 1 for name in names]
    return [slice(0 if index == 0 else 1, end) for index, end in enumerate(ends)]
