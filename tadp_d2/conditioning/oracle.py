"""The names of the classes that an image shows, as a prompt: what words could be worth (TADP)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from fvcore.common.config import CfgNode

from tadp_d2.conditioning.caption_prompt import CaptionPrompt, get_modifiers, load_text
from tadp_d2.conditioning.conditioner import CONDITIONER_REGISTRY
from tadp_d2.conditioning.domains import Modifier
from tadp_d2.data.present_classes import PresentClasses, name_classes
from tadp_d2.diffusion.clip_text import PromptEncoder
from tadp_d2.diffusion.diffusion_model import DiffusionModel
from tadp_d2.errors import UserError


@CONDITIONER_REGISTRY.register()
class Oracle(CaptionPrompt):
    """Names of the whole annotation, in the place of a caption (TADP, equation 5, table S2).

    Each input has "present", the classes of its image. The annotation is looked at in testing,
    too: the numbers are a bound, and no system's.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"present"})

    def __init__(
        self,
        text: PromptEncoder,
        train_modifier: Modifier,
        test_modifier: Modifier,
        precision: float = 1.0,
        recall: float = 1.0,
        seed: int = 0,
    ):
        """
        Args:
            precision, recall, seed: as `name_classes`.
        """
        super().__init__(text, train_modifier, test_modifier)
        self.errors = {"precision": precision, "recall": recall, "seed": seed}

    @classmethod
    def from_config(cls, cfg: CfgNode, model: DiffusionModel) -> "Oracle":
        text = load_text(cfg, model)
        options = cfg.MODEL.CONDITIONER.ORACLE
        return cls(text, *get_modifiers(cfg), options.PRECISION, options.RECALL, cfg.SEED)

    def caption(self, inputs: Mapping[str, Any]) -> str:
        present = read_present(inputs)
        image_id = str(inputs["image_id"])
        return " ".join(name_classes(present.names(), present.vocabulary, image_id, **self.errors))

    def provenance(self) -> dict[str, Any]:
        return {**super().provenance(), "oracle": self.errors}


def read_present(inputs: Mapping[str, Any]) -> PresentClasses:
    """The classes of an input's image.

    Raises:
        UserError: it comes without them.
    """
    try:
        return inputs["present"]
    except KeyError:
        raise UserError(
            f"image {inputs.get('file_name', inputs.get('image_id', '?'))}: its classes are not "
            "known; an oracle is for data sets with labels"
        ) from None
