"""No text: the baseline of VPD's table 5."""

from collections.abc import Mapping
from typing import Any, ClassVar

from tadp_d2.conditioning.caption_prompt import CaptionPrompt
from tadp_d2.conditioning.conditioner import CONDITIONER_REGISTRY


@CONDITIONER_REGISTRY.register()
class EmptyText(CaptionPrompt):
    """The modifier around nothing: with the modifier "null" the empty prompt, for all images."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def caption(self, inputs: Mapping[str, Any]) -> str:
        return ""
