"""Detectron2 meta-architectures whose backbone is conditioned on each image's caption."""

import contextlib
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, SemanticSegmentor
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import Instances
from torch import Tensor, nn

from tadp_d2.conditioning.domains import Modifier, get_modifier
from tadp_d2.diffusion.clip_text import TextConditioner
from tadp_d2.diffusion.model_folder import find_weights
from tadp_d2.errors import UserError
from tadp_d2.modeling.backbone import find_diffusion_backbone
from tadp_d2.modeling.windows import segment_in_windows


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
        diffusion = find_diffusion_backbone(backbone)
        context = self.text([self.prompt(_caption(inputs)) for inputs in batched_inputs])
        cached = [inputs.get("latents") for inputs in batched_inputs]
        return diffusion.conditioned(context, cached if any(cached) else None)


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


@META_ARCH_REGISTRY.register()
class CaptionedSegmentor(SemanticSegmentor):
    """Detectron2's `SemanticSegmentor` with a diffusion backbone conditioned on captions.

    Each input dict has, besides what `SemanticSegmentor` reads, "caption": the image's caption
    before the modifier. It can test in sliding windows, all of them under the image's caption.
    """

    @configurable
    def __init__(
        self,
        *,
        conditioning: CaptionConditioning,
        window_size: int,
        window_stride: int,
        window_batch: int,
        **kwargs: Any,
    ):
        """
        Args:
            window_size: side of the windows in testing, pixels; 0 for the whole image at once.
            window_stride: distance of two windows, pixels.
            window_batch: windows that are segmented together.
        """
        super().__init__(**kwargs)
        self.conditioning = conditioning
        self.window_size = window_size
        self.window_stride = window_stride
        self.window_batch = window_batch

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            # First, so that missing weights are found before the backbone is built.
            "conditioning": CaptionConditioning.from_config(cfg),
            **super().from_config(cfg),
            "window_size": cfg.TEST.WINDOW_SIZE,
            "window_stride": cfg.TEST.WINDOW_STRIDE,
            "window_batch": cfg.TEST.WINDOW_BATCH,
        }

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """As `SemanticSegmentor.forward`."""
        if self.training or not self.window_size:
            return self._forward_whole(batched_inputs)
        return [self._forward_in_windows(inputs) for inputs in batched_inputs]

    def _forward_whole(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        with self.conditioning.conditioned(self.backbone, batched_inputs):
            return super().forward(batched_inputs)

    def _forward_in_windows(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        image = inputs["image"]
        # A window is an image of its own, to be segmented at its own size.
        shared = {key: value for key, value in inputs.items() if key not in ("image", "sem_seg")}

        def segment(crops: list[Tensor]) -> list[Tensor]:
            own = [
                shared | {"image": crop, "height": crop.shape[1], "width": crop.shape[2]}
                for crop in crops
            ]
            return [output["sem_seg"] for output in self._forward_whole(own)]

        logits = segment_in_windows(
            segment, image, self.window_size, self.window_stride, self.window_batch
        )
        size = (inputs.get("height", image.shape[1]), inputs.get("width", image.shape[2]))
        return {"sem_seg": sem_seg_postprocess(logits, tuple(image.shape[1:]), *size)}
