"""The nouns of an image's caption as a prompt (TADP, section 4.2: nouns only)."""

from collections.abc import Mapping
from typing import Any

from fvcore.common.config import CfgNode

from tadp_d2.conditioning.caption_prompt import CaptionPrompt
from tadp_d2.conditioning.conditioner import CONDITIONER_REGISTRY, read_text
from tadp_d2.conditioning.domains import Modifier
from tadp_d2.data.nouns import load_noun_tagger
from tadp_d2.diffusion.clip_text import PromptEncoder


@CONDITIONER_REGISTRY.register()
class CaptionNouns(CaptionPrompt):
    """Each noun of the caption once, in their order, in the place of the caption."""

    def __init__(self, text: PromptEncoder, train_modifier: Modifier, test_modifier: Modifier):
        """
        Raises:
            UserError: as `CaptionPrompt` and `load_noun_tagger`.
        """
        super().__init__(text, train_modifier, test_modifier)
        self._nouns_of, self.tagger = load_noun_tagger()

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        super().check_config(cfg)
        load_noun_tagger()

    def caption(self, inputs: Mapping[str, Any]) -> str:
        return " ".join(self._nouns_of(read_text(inputs, "caption")))

    def provenance(self) -> dict[str, Any]:
        return {**super().provenance(), "tagger": self.tagger}
