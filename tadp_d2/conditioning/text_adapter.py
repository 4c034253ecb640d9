"""VPD's text adapter around another conditioner: C + gamma * MLP(C) (VPD, section 3.2)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from tadp_d2.conditioning.conditioner import CONDITIONER_REGISTRY, Condition, Conditioner
from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.diffusion.diffusion_model import DiffusionModel
from tadp_d2.errors import Report, UserError

# Of every channel at the start: training begins from the embeddings as they are.
FIRST_GAMMA = 1e-4


@CONDITIONER_REGISTRY.register()
class TextAdapter(Conditioner):
    """Moves each token of another conditioner's context by a trained function of it.

    gamma is a vector over the channels, as in the released code; the paper writes a scalar.
    """

    def __init__(self, inner: Conditioner, width: int):
        """
        Args:
            width: D, of the contexts of `inner`.
        """
        super().__init__()
        self.inner = inner
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.gamma = nn.Parameter(torch.full((width,), FIRST_GAMMA))

    @classmethod
    def from_config(cls, cfg: CfgNode, model: DiffusionModel) -> "TextAdapter":
        return cls(_inner(cfg).from_config(cfg, model), model.context_width)

    @classmethod
    def count_tokens(cls, cfg: CfgNode, model: DiffusionModel) -> int:
        return _inner(cfg).count_tokens(cfg, model)

    @classmethod
    def needed(cls, cfg: CfgNode, training: bool) -> frozenset[str]:
        return _inner(cfg).needed(cfg, training)

    @classmethod
    def reads_prompts(cls, cfg: CfgNode) -> bool:
        return _inner(cfg).reads_prompts(cfg)

    @classmethod
    def predicted_tags(cls, cfg: CfgNode) -> list[str]:
        return _inner(cfg).predicted_tags(cfg)

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        _inner(cfg).check_config(cfg)

    @classmethod
    def check_entries(
        cls, cfg: CfgNode, entries: Iterable[Mapping[str, Any]], training: bool, report: Report
    ) -> list[str]:
        return _inner(cfg).check_entries(cfg, entries, training, report)

    def forward(
        self, inputs: Sequence[Mapping[str, Any]], images: Tensor, latents: Tensor
    ) -> Condition:
        condition = self.inner(inputs, images, latents)
        embeddings = self.adapt(condition.context.embeddings)
        return replace(condition, context=condition.context._replace(embeddings=embeddings))

    @property
    def text(self) -> TextEncoder:
        """That of the adapted conditioner, which must have one."""
        return self.inner.text

    def adapt(self, embeddings: Tensor) -> Tensor:
        """... x D -> ... x D."""
        return embeddings + self.gamma * self.mlp(embeddings)

    def provenance(self) -> dict[str, Any]:
        return self.inner.provenance()

    def prompt(self, inputs: Mapping[str, Any]) -> str:
        return self.inner.prompt(inputs)


def _inner(cfg: CfgNode) -> type[Conditioner]:
    name = cfg.MODEL.CONDITIONER.ADAPTED
    others = [other for other, _ in CONDITIONER_REGISTRY if other != TextAdapter.__name__]
    if name not in others:
        raise UserError(
            f"MODEL.CONDITIONER.ADAPTED is {name!r}: expected the conditioner whose contexts "
            f"TextAdapter adapts, one of {', '.join(others)}"
        )
    return CONDITIONER_REGISTRY.get(name)
