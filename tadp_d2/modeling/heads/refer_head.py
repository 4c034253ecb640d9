"""LAVT's light decoder, with which VPD finds the object that an expression refers to."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F


@SEM_SEG_HEADS_REGISTRY.register()
class ReferHead(nn.Module):
    """Features, coarse to fine -> background or object for every pixel (VPD, section 4; LAVT).

    At each finer level the coarser map is enlarged, the level's features follow its channels, and
    two 3 x 3 convolutions reduce both to half the channels of the coarsest features.

    With coordinates, x and y follow them, as in Hu et al. 2016 ("Segmentation from Natural Language
    Expressions", section 3.1): convolutions alone hardly tell "left" from "right".
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        norm: str = "BN",
        class_weights: Sequence[float] = (0.9, 1.1),
        coordinates: bool = False,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
    ):
        """
        Args:
            input_shape: level -> channels and stride of its features.
            norm: of the convolutions, as Detectron2's `get_norm` names it.
            class_weights: of background and object in the loss (LAVT).
            coordinates: whether each level also has x and y of its places, -1 to 1.
            loss_weight: of the loss.
            ignore_value: of a pixel without truth.
        """
        super().__init__()
        levels = sorted(input_shape, key=lambda level: -input_shape[level].stride)
        self.in_features = levels
        width = input_shape[levels[0]].channels // 2
        fused = input_shape[levels[0]].channels
        self.steps = nn.ModuleList()
        for level in levels[1:]:
            channels = fused + input_shape[level].channels + (2 if coordinates else 0)
            first = _convolution(channels, width, norm)
            self.steps.append(nn.Sequential(first, _convolution(width, width, norm)))
            fused = width
        self.predictor = nn.Conv2d(width, 2, kernel_size=1)
        self.stride = input_shape[levels[-1]].stride
        self.coordinates = coordinates
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value
        self.register_buffer("class_weights", torch.tensor(class_weights), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        options = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": {level: input_shape[level] for level in options.IN_FEATURES},
            "norm": options.NORM,
            "class_weights": options.CLASS_WEIGHTS,
            "coordinates": options.COORDINATES,
            "loss_weight": options.LOSS_WEIGHT,
            "ignore_value": options.IGNORE_VALUE,
        }

    def forward(
        self, features: Mapping[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """
        Args:
            features: level -> B x C x h x w.
            targets: B x H x W, 0 for background, 1 for the object; only in training.

        Returns:
            In training None and the loss; else the logits, B x 2 x H x W at the size of the images,
            and no loss.
        """
        logits = self.layers(features)
        height, width = (side * self.stride for side in logits.shape[-2:])
        logits = _enlarge(logits.float(), (height, width))
        if not self.training:
            return logits, {}
        loss = F.cross_entropy(
            logits, targets, weight=self.class_weights, ignore_index=self.ignore_value
        )
        return None, {"loss_sem_seg": self.loss_weight * loss}

    def layers(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits at the stride of the finest level, B x 2 x h x w."""
        coarsest, *finer = self.in_features
        fused = features[coarsest]
        for level, step in zip(finer, self.steps, strict=True):
            parts = [_enlarge(fused, features[level].shape[-2:]), features[level]]
            if self.coordinates:
                parts.append(_coordinates(features[level]))
            fused = step(torch.cat(parts, dim=1))
        return self.predictor(fused)


def _convolution(channels: int, width: int, norm: str) -> Conv2d:
    return Conv2d(
        channels,
        width,
        kernel_size=3,
        padding=1,
        bias=not norm,
        norm=get_norm(norm, width),
        activation=F.relu,
    )


def _coordinates(maps: Tensor) -> Tensor:
    """x and y of the places of B x C x h x w maps, B x 2 x h x w, from -1 to 1."""
    y, x = (torch.linspace(-1, 1, side).to(maps) for side in maps.shape[-2:])
    return torch.stack(torch.meshgrid(x, y, indexing="xy")).expand(len(maps), -1, -1, -1)


def _enlarge(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)
