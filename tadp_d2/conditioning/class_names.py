"""The names of all classes in one prompt, the same for all images (TADP, section 3: ClassNames)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fvcore.common.config import CfgNode

from tadp_d2.conditioning.caption_prompt import (
    CaptionPrompt,
    get_modifiers,
    load_text,
    make_prompt,
)
from tadp_d2.conditioning.conditioner import CONDITIONER_REGISTRY, get_class_names
from tadp_d2.conditioning.domains import Modifier
from tadp_d2.diffusion.clip_text import PromptEncoder
from tadp_d2.diffusion.diffusion_model import DiffusionModel
from tadp_d2.errors import UserError


@CONDITIONER_REGISTRY.register()
class ClassNames(CaptionPrompt):
    """The names, separated by blanks, in the place of a caption."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        text: PromptEncoder,
        train_modifier: Modifier,
        test_modifier: Modifier,
        names: Sequence[str],
    ):
        """
        Args:
            names: of the classes, in their order.

        Raises:
            UserError: not all names fit into a prompt.
        """
        super().__init__(text, train_modifier, test_modifier)
        self.names = " ".join(names)
        for modifier in (train_modifier, test_modifier):
            words = len(make_prompt(self.names, modifier, text).split())
            if words < len(modifier.template.replace("{caption}", self.names).split()):
                raise UserError(
                    f"the names of the {len(names)} classes do not fit into the {text.length} "
                    "tokens of a prompt: MODEL.CONDITIONER.NAME ClassWords or ClassEmbeddings has "
                    "room for any number"
                )

    @classmethod
    def from_config(cls, cfg: CfgNode, model: DiffusionModel) -> "ClassNames":
        return cls(load_text(cfg, model), *get_modifiers(cfg), get_class_names(cfg))

    def caption(self, inputs: Mapping[str, Any]) -> str:
        return self.names
