"""A Detectron2 meta-architecture: the object of an image that an expression refers to."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, SemanticSegmentor
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList
from torch import Tensor


@META_ARCH_REGISTRY.register()
class ReferringSegmentor(SemanticSegmentor):
    """Detectron2's `SemanticSegmentor` with two classes, background and object.

    The expression reaches the backbone through the conditioner, or not at all.
    """

    @configurable
    def __init__(self, *, at_input_size: bool = False, **parts: Any):
        """
        Args:
            at_input_size: also return the logits at the size of the model's input.
            parts: of `SemanticSegmentor`.
        """
        super().__init__(**parts)
        self.at_input_size = at_input_size

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**super().from_config(cfg), "at_input_size": cfg.TEST.AT_INPUT_SIZE}

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: "image", C x H x W; in training "sem_seg", H x W, 0 for background and
                1 for the object; in testing "height" and "width" of the output.

        Returns:
            In training the losses; else for each input "sem_seg", logits 2 x height x width, the
            "expression" if the input has one, and on request "sem_seg_input", 2 x H x W.
        """
        if self.training:
            return super().forward(batched_inputs)
        pixels = [inputs["image"].to(self.device) for inputs in batched_inputs]
        normalized = [(image - self.pixel_mean) / self.pixel_std for image in pixels]
        images = ImageList.from_tensors(normalized, self.backbone.size_divisibility)
        logits, _ = self.sem_seg_head(self.backbone(images.tensor))
        return [
            self._answer(own, size, inputs)
            for own, size, inputs in zip(logits, images.image_sizes, batched_inputs, strict=True)
        ]

    def _answer(
        self, logits: Tensor, size: tuple[int, int], inputs: dict[str, Any]
    ) -> dict[str, Any]:
        height, width = inputs.get("height", size[0]), inputs.get("width", size[1])
        answer = {"sem_seg": sem_seg_postprocess(logits, size, height, width)}
        if self.at_input_size:
            answer["sem_seg_input"] = logits[:, : size[0], : size[1]]
        return answer | {key: inputs[key] for key in ("expression",) if key in inputs}
