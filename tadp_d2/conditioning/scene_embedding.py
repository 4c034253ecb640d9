"""VPD's text for depth: the averaged embedding of an image's room (VPD, section 4)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fvcore.common.config import CfgNode
from torch import Tensor

from tadp_d2.conditioning.class_embeddings import ClassEmbeddings
from tadp_d2.conditioning.conditioner import CONDITIONER_REGISTRY, Condition, read_text
from tadp_d2.diffusion.diffusion_model import Context, DiffusionModel
from tadp_d2.errors import UserError


@CONDITIONER_REGISTRY.register()
class SceneEmbedding(ClassEmbeddings):
    """A context of one token, N = 1: that of the room that an input names in "room".

    The rooms are `MODEL.CONDITIONER.CLASS_NAMES`, or those of NYUv2. Names are compared as a whole,
    with blanks for underscores; a room that is none of them is an error.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"room"})

    @classmethod
    def from_config(cls, cfg: CfgNode, model: DiffusionModel) -> "SceneEmbedding":
        return super().from_config(_with_rooms(cfg), model)

    @classmethod
    def count_tokens(cls, cfg: CfgNode, model: DiffusionModel) -> int:
        return 1

    def forward(
        self, inputs: Sequence[Mapping[str, Any]], images: Tensor, latents: Tensor
    ) -> Condition:
        rows = [self.names.index(self._room(each)) for each in inputs]
        return Condition(Context(self.embeddings[rows].unsqueeze(1)))

    def _room(self, inputs: Mapping[str, Any]) -> str:
        room = read_text(inputs, "room").replace("_", " ")
        if room not in self.names:
            raise UserError(
                f"{inputs.get('file_name', 'an image')}: its room is {room!r}; expected one of "
                f"{', '.join(self.names)}. MODEL.CONDITIONER.CLASS_NAMES takes other names"
            )
        return room

    def prompt(self, inputs: Mapping[str, Any]) -> str:
        return f"averaged embedding of {self._room(inputs)}"


def _with_rooms(cfg: CfgNode) -> CfgNode:
    """The config with the names of the rooms."""
    # A data set is asked here, so that the class above works without Detectron2.
    from tadp_d2.data.datasets.nyu_categories import ROOMS

    names = cfg.MODEL.CONDITIONER.CLASS_NAMES or ROOMS
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.CONDITIONER.CLASS_NAMES = tuple(name.replace("_", " ") for name in names)
    return cfg
