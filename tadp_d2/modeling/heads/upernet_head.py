"""UperNet with its auxiliary head, as transformers has it, behind Detectron2's registry."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ResNetConfig, UperNetConfig, UperNetForSemanticSegmentation

from tadp_d2.errors import UserError


@SEM_SEG_HEADS_REGISTRY.register()
class UperNetHead(nn.Module):
    """Pyramid pooling at 1, 2, 3 and 6 cells of the coarsest level, and an FPN over all of them.

    In training, a second, small head on the third level adds its loss.
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        num_classes: int,
        channels: int = 512,
        auxiliary_channels: int = 256,
        auxiliary_weight: float = 0.4,
        dropout: float = 0.0,
        synchronized: bool = False,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
    ):
        """
        Args:
            input_shape: level -> channels and stride of its features; three levels or more.
            channels: of all layers.
            auxiliary_channels: of the auxiliary head.
            auxiliary_weight: of its loss, as a multiple of the other; 0 for no such head.
            dropout: probability of a channel before a classifier.
            synchronized: whether batch norm counts over all processes.
            loss_weight: of both losses.
            ignore_value: of a pixel without truth.
        """
        super().__init__()
        self.in_features = sorted(input_shape, key=lambda level: input_shape[level].stride)
        shapes = [input_shape[level] for level in self.in_features]
        self.strides = [shape.stride for shape in shapes]
        config = UperNetConfig(
            backbone_config=_stand_in([shape.channels for shape in shapes]),
            hidden_size=channels,
            use_auxiliary_head=auxiliary_weight > 0,
            auxiliary_channels=auxiliary_channels,
            auxiliary_in_channels=None,
            num_labels=num_classes,
        )
        # Its heads are made with a backbone; ours has none of its layers.
        model = UperNetForSemanticSegmentation(config)
        self.main, self.auxiliary = model.decode_head, model.auxiliary_head
        for head in (self.main, self.auxiliary):
            if head is not None:
                head.classifier = nn.Sequential(nn.Dropout2d(dropout), head.classifier)
        if synchronized:
            nn.SyncBatchNorm.convert_sync_batchnorm(self)
        self.auxiliary_weight = auxiliary_weight
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        options = cfg.MODEL.SEM_SEG_HEAD
        if options.NORM not in ("BN", "SyncBN"):
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.NORM is {options.NORM!r}: UperNetHead has BN or SyncBN"
            )
        return {
            "input_shape": {level: input_shape[level] for level in options.IN_FEATURES},
            "num_classes": options.NUM_CLASSES,
            "channels": options.CONVS_DIM,
            "auxiliary_channels": options.AUXILIARY_CHANNELS,
            "auxiliary_weight": options.AUXILIARY_WEIGHT,
            "dropout": options.DROPOUT,
            "synchronized": options.NORM == "SyncBN",
            "loss_weight": options.LOSS_WEIGHT,
            "ignore_value": options.IGNORE_VALUE,
        }

    def forward(
        self, features: Mapping[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """
        Args:
            features: level -> B x C x h x w.
            targets: B x H x W, the class of every pixel; only in training.

        Returns:
            In training None and the losses; else the logits, B x K x H x W at the size of the
            images, and no loss.

        Raises:
            UserError: a process trains on one image at a time, of which batch norm knows no spread.
        """
        maps = [features[level] for level in self.in_features]
        if not self.training:
            return self._enlarged(self.main(maps), maps), {}
        if len(maps[0]) == 1:
            raise UserError(
                "UperNetHead is trained on one image at a time, and the batch norm behind its "
                "pooling needs two: SOLVER.IMS_PER_BATCH must be at least twice the number of "
                "processes"
            )
        losses = {"loss_sem_seg": self._loss(self.main(maps), maps, targets)}
        if self.auxiliary is not None:
            loss = self._loss(self.auxiliary(maps), maps, targets)
            losses["loss_sem_seg_auxiliary"] = loss * self.auxiliary_weight
        return None, losses

    def _loss(self, logits: Tensor, maps: list[Tensor], targets: Tensor) -> Tensor:
        enlarged = self._enlarged(logits.float(), maps)
        return self.loss_weight * F.cross_entropy(enlarged, targets, ignore_index=self.ignore_value)

    def _enlarged(self, logits: Tensor, maps: list[Tensor]) -> Tensor:
        """At the size of the images."""
        size = [side * self.strides[0] for side in maps[0].shape[-2:]]
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def _stand_in(channels: list[int]) -> ResNetConfig:
    """A small backbone with these channels."""
    return ResNetConfig(
        embedding_size=channels[0],
        hidden_sizes=channels,
        depths=[1] * len(channels),
        layer_type="bottleneck",
        out_features=[f"stage{number}" for number in range(1, len(channels) + 1)],
    )
