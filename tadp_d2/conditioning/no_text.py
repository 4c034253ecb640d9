"""Nothing: for a backbone that reads no text."""

from collections.abc import Mapping, Sequence
from typing import Any

from fvcore.common.config import CfgNode
from torch import Tensor

from tadp_d2.conditioning.conditioner import CONDITIONER_REGISTRY, Condition, Conditioner
from tadp_d2.diffusion.diffusion_model import DiffusionModel


@CONDITIONER_REGISTRY.register()
class NoText(Conditioner):
    """No context at all. A diffusion model cannot do without: its empty text is `EmptyText`."""

    conditions = False

    @classmethod
    def from_config(cls, cfg: CfgNode, model: DiffusionModel | None) -> "NoText":
        return cls()

    @classmethod
    def count_tokens(cls, cfg: CfgNode, model: DiffusionModel | None) -> int:
        return 0

    def forward(
        self, inputs: Sequence[Mapping[str, Any]], images: Tensor, latents: Tensor
    ) -> Condition:
        raise RuntimeError("there is no context without a text: use EmptyText")

    def provenance(self) -> dict[str, Any]:
        return {}  # it rests on nothing

    def prompt(self, inputs: Mapping[str, Any]) -> str:
        return "no text"
