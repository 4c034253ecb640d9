"""Depth from one image as a Detectron2 meta-architecture."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList
from torch import Tensor, nn

from tadp_d2.modeling.heads.depth_head import DepthHead, scale_invariant_loss


@META_ARCH_REGISTRY.register()
class DepthEstimator(nn.Module):
    """Image -> backbone -> `DepthHead` -> depth in meters."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        depth_head: nn.Module,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        mirror: bool = False,
    ):
        """
        Args:
            depth_head: maps features and the images' size to depth, as `DepthHead`.
            pixel_mean, pixel_std: of each channel.
            mirror: in testing, take the mean with what the mirrored image gives.
        """
        super().__init__()
        self.backbone = backbone
        self.depth_head = depth_head
        self.mirror = mirror
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "depth_head": DepthHead(cfg, backbone.output_shape()),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "mirror": cfg.TEST.MIRROR,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: dicts with "image", C x H x W; in training "depth", H x W in meters, 0
                where it is not known; in testing "height" and "width" of the output, if they differ
                from the image's.

        Returns:
            In training the losses; in testing a dict for each image, whose "depth" is H x W in
            meters.
        """
        images = [inputs["image"].to(self.device) for inputs in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        depths, sizes = self._predict(images)
        if self.training:
            truths = [inputs["depth"].to(self.device) for inputs in batched_inputs]
            # Beyond a smaller image of the batch there is no truth, and none is needed.
            truth = ImageList.from_tensors(truths).tensor
            return {"loss_depth": scale_invariant_loss(depths, truth)}
        if self.mirror:
            other, _ = self._predict([image.flip(-1) for image in images])
            depths = [
                (depth[:h, :w] + mirrored[:h, :w].flip(-1)) / 2
                for depth, mirrored, (h, w) in zip(depths, other, sizes, strict=True)
            ]
        return [
            {"depth": self._resize(depth, size, inputs)}
            for depth, size, inputs in zip(depths, sizes, batched_inputs, strict=True)
        ]

    def _predict(self, images: list[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Depths, B x H x W for the largest H and W, and the images' own heights and widths."""
        # Gray, which is 0 here, to the right and below.
        batch = ImageList.from_tensors(images, self.backbone.size_divisibility)
        largest = tuple(max(sides) for sides in zip(*batch.image_sizes, strict=True))
        return self.depth_head(self.backbone(batch.tensor), largest), batch.image_sizes

    @staticmethod
    def _resize(depth: Tensor, size: tuple[int, int], inputs: dict[str, Any]) -> Tensor:
        height, width = inputs.get("height", size[0]), inputs.get("width", size[1])
        return sem_seg_postprocess(depth[None], size, height, width)[0]
