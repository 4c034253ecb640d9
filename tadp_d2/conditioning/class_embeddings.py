"""VPD's text: one averaged embedding for each class, the same for all images (VPD, section 3.2)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from tadp_d2.conditioning.conditioner import CONDITIONER_REGISTRY, Condition, Conditioner
from tadp_d2.conditioning.templates import SLOT, TEMPLATES
from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.diffusion.diffusion_model import Context, DiffusionModel


@CONDITIONER_REGISTRY.register()
class ClassEmbeddings(Conditioner):
    """A context of one token for each class, N = number of classes; an image's text is not read."""

    def __init__(self, text: TextEncoder, names: Sequence[str]):
        """
        Args:
            names: of the classes, in the order of the tokens.
        """
        super().__init__()
        self.names = list(names)
        self.text_fingerprint = text.base_fingerprint
        embeddings = torch.stack([average_class(name, text) for name in names])
        self.register_buffer("embeddings", embeddings, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, model: DiffusionModel) -> "ClassEmbeddings":
        return cls(model.load_text_encoder(), _names(cfg))

    @classmethod
    def count_tokens(cls, cfg: CfgNode, model: DiffusionModel) -> int:
        return len(_names(cfg))

    def forward(
        self, inputs: Sequence[Mapping[str, Any]], images: Tensor, latents: Tensor
    ) -> Condition:
        return Condition(Context(self.embeddings.expand(len(inputs), -1, -1)))

    def provenance(self) -> dict[str, Any]:
        return {"text_encoder": self.text_fingerprint, "class_names": self.names}

    def prompt(self, inputs: Mapping[str, Any]) -> str:
        return f"averaged embeddings of {', '.join(self.names)}"


def _names(cfg: CfgNode) -> list[str]:
    """Those of the config, or of the data that the model is trained on."""
    # Detectron2's catalog is asked here, so that the class above works without it.
    from tadp_d2.tasks.task import get_task

    return list(cfg.MODEL.CONDITIONER.CLASS_NAMES) or get_task(cfg).classes()


@torch.no_grad()
def average_class(name: str, text: TextEncoder) -> Tensor:
    """The first end-of-text embedding, averaged over sentences with a class name, D (VPD).

    VPD averages over CLIP's 80 sentences; these are the ones of this project.
    """
    sentences = [sentence.replace(SLOT, name) for sentence in TEMPLATES["object"]]
    ends = [len(text.tokenizer(sentence).input_ids) - 1 for sentence in sentences]
    embeddings = text(sentences).embeddings
    return embeddings[torch.arange(len(ends)), ends].mean(dim=0)
