"""A pre-trained image encoder as a Detectron2 backbone that reads no text, plain and with FPN.

It is what a diffusion model is compared with: it has the same levels, so the same heads and recipes
serve both (VPD, table 6).
"""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor

from tadp_d2.modeling.backbone import FullPrecisionFPN, at_precision, make_fpn
from tadp_d2.modeling.image_networks import ImageNetwork, find_network
from tadp_d2.modeling.levels import check_levels
from tadp_d2.pyramid import Pyramid

BUILDERS = ("build_pretrained_backbone", "build_pretrained_fpn_backbone")


class PretrainedBackbone(Backbone):
    """Image -> pre-trained encoder -> pyramid of the wanted levels.

    Images come normalized as for a diffusion model, and are normalized anew for the encoder.
    """

    def __init__(
        self,
        network: ImageNetwork,
        levels: Sequence[str],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        channel_order: str = "RGB",
        test_precision: str = "fp32",
    ):
        """
        Args:
            network: its weights are loaded here.
            levels: such as "s3", by the log2 of their strides.
            pixel_mean, pixel_std: with which images come, of pixels from 0 to 255.
            channel_order: in which they come, "RGB" or "BGR".
            test_precision: of a pass in eval mode, a key of `precision.DTYPES`.

        Raises:
            UserError: the weights are damaged.
        """
        super().__init__()
        self._strides = {level: 2 ** int(level[1:]) for level in levels}
        wanted = list(self._strides.values())
        taken = [stride for stride in network.strides if stride in wanted]
        network.load(taken)
        self.network = network
        self.pyramid = Pyramid({stride: network.channels[stride] for stride in taken}, wanted)
        self.test_precision = test_precision
        self._backwards = channel_order == "BGR"
        own = {"came": (pixel_mean, pixel_std), "own": (network.mean, network.std)}
        for name, values in own.items():
            for part, value in zip(("mean", "std"), values, strict=True):
                tensor = torch.tensor(list(value), dtype=torch.float32).view(3, 1, 1)
                self.register_buffer(f"{name}_{part}", tensor, persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """
        Args:
            images: B x 3 x H x W; H and W multiples of `size_divisibility`.

        Returns:
            level -> B x C x H/stride x W/stride, as `output_shape` returns.
        """
        if self.training or self.test_precision == "fp32":
            return self._features(images)
        return at_precision(self._features, images, self.test_precision)

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        pixels = images * self.came_std + self.came_mean
        pixels = pixels.flip(1) if self._backwards else pixels
        maps = self.pyramid(self.network((pixels - self.own_mean) / self.own_std))
        return {level: maps[stride] for level, stride in self._strides.items()}

    @property
    def size_divisibility(self) -> int:
        return max(*self._strides.values(), *self.network.strides)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            level: ShapeSpec(channels=self.pyramid.channels[stride], stride=stride)
            for level, stride in self._strides.items()
        }


def load_pretrained(cfg: CfgNode) -> PretrainedBackbone:
    """The backbone of a config, whatever its head reads.

    Raises:
        UserError: as `find_network`, or the weights are damaged.
    """
    return PretrainedBackbone(
        find_network(cfg.MODEL.PRETRAINED.WEIGHTS),
        sorted(cfg.MODEL.PRETRAINED.LEVELS),
        cfg.MODEL.PIXEL_MEAN,
        cfg.MODEL.PIXEL_STD,
        cfg.INPUT.FORMAT,
        cfg.TEST.PRECISION,
    )


@BACKBONE_REGISTRY.register()
def build_pretrained_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> PretrainedBackbone:
    """The plain backbone, whose maps are named "s3", "s4", ... by the log2 of their strides."""
    backbone = load_pretrained(cfg)
    check_levels(cfg, "build_pretrained_backbone", backbone.output_shape())
    return backbone


@BACKBONE_REGISTRY.register()
def build_pretrained_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FullPrecisionFPN:
    """Detectron2's FPN on the maps of the pre-trained backbone: "p3", "p4", ..."""
    fpn = make_fpn(cfg, load_pretrained(cfg))
    check_levels(cfg, "build_pretrained_fpn_backbone", fpn.output_shape())
    return fpn
