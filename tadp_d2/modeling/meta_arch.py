"""Detectron2 meta-architectures whose backbone is conditioned on each image's caption."""

import contextlib
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import Instances
from torch import Tensor, nn

from tadp_d2.errors import UserError
from tadp_d2.modeling.backbone import DiffusionBackbone
from tadp_d2.text.conditioning import TextConditioner
from tadp_d2.text.modifiers import Modifier, get_modifier
from tadp_d2.weights import find_weights


class CaptionConditioning(nn.Module):
    """Caption -> modifier of the mode (training or testing) -> prompt -> context."""

    def __init__(self, text: TextConditioner, train_modifier: Modifier, test_modifier: Modifier):
        """
        Raises:
            UserError: a modifier uses a token that the text encoder does not know.
        """
        super().__init__()
        for modifier in (train_modifier, test_modifier):
            text.check(modifier)
        self.text = text
        self.train_modifier = train_modifier
        self.test_modifier = test_modifier

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "CaptionConditioning":
        train_modifier, test_modifier = get_modifiers(cfg)
        folder = find_weights(cfg.MODEL.DIFFUSION.WEIGHTS, cfg.MODEL.DIFFUSION.REVISION)
        text = TextConditioner.from_pretrained(folder, cfg.TEXT.TOKENS, cfg.TEXT.CACHE_SIZE)
        return cls(text, train_modifier, test_modifier)

    def prompt(self, caption: str) -> str:
        """The prompt for a caption in the current mode."""
        modifier = self.train_modifier if self.training else self.test_modifier
        return self.text.prompt(caption, modifier)

    def conditioned(
        self, backbone: nn.Module, batched_inputs: list[dict[str, Any]]
    ) -> contextlib.AbstractContextManager:
        """Conditions the diffusion backbone inside `backbone` on the inputs' captions."""
        diffusion = next(m for m in backbone.modules() if isinstance(m, DiffusionBackbone))
        context = self.text([self.prompt(_caption(inputs)) for inputs in batched_inputs])
        return diffusion.conditioned(context)


def _caption(inputs: dict[str, Any]) -> str:
    try:
        return inputs["caption"]
    except KeyError:
        raise UserError(
            f"no caption for image {inputs.get('file_name', inputs.get('image_id', '?'))}: the "
            'input dict needs the key "caption"'
        ) from None


def get_modifiers(cfg: CfgNode) -> tuple[Modifier, Modifier]:
    """The modifiers in training and in testing.

    Raises:
        UserError: one of them is unknown, or needs an artifact that the config does not name.
    """
    # An unquoted null of YAML is None, and means "null".
    same = cfg.TEXT.MODIFIER_TRAIN == ""
    test = get_modifier(cfg.TEXT.DOMAIN, cfg.TEXT.MODIFIER)
    train = test if same else get_modifier(cfg.TEXT.DOMAIN, cfg.TEXT.MODIFIER_TRAIN)
    for modifier in (train, test):
        if modifier.needs == "token" and not cfg.TEXT.TOKENS:
            raise UserError(
                f"modifier {modifier.name!r} needs a learned token: name its learned_embeds file "
                "in TEXT.TOKENS"
            )
        if modifier.needs == "unet" and not cfg.MODEL.DIFFUSION.UNET:
            raise UserError(
                f"modifier {modifier.name!r} needs a fine-tuned UNet: name its folder in "
                "MODEL.DIFFUSION.UNET"
            )
    return train, test


@META_ARCH_REGISTRY.register()
class CaptionedRCNN(GeneralizedRCNN):
    """Detectron2's `GeneralizedRCNN` with a diffusion backbone conditioned on captions.

    Each input dict has, besides what `GeneralizedRCNN` reads, "caption": the image's caption
    before the modifier.
    """

    @configurable
    def __init__(self, *, conditioning: CaptionConditioning, **kwargs: Any):
        super().__init__(**kwargs)
        self.conditioning = conditioning

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        conditioning = CaptionConditioning.from_config(cfg)
        return {**super().from_config(cfg), "conditioning": conditioning}

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """As `GeneralizedRCNN.forward`."""
        if not self.training:
            return self.inference(batched_inputs)
        with self.conditioning.conditioned(self.backbone, batched_inputs):
            return super().forward(batched_inputs)

    # Test-time augmentation calls this and not forward.
    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict]:
        """As `GeneralizedRCNN.inference`."""
        with self.conditioning.conditioned(self.backbone, batched_inputs):
            return super().inference(batched_inputs, detected_instances, do_postprocess)
