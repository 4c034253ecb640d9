"""Features -> depth: VPD's encoder and decoder, and the scale-invariant loss. No image, no text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from torch import Tensor, nn

# All levels are brought to this stride and merged there.
_STRIDE = 32
# Of the group norms of the encoder.
_GROUPS = 16


class DepthHead(nn.Module):
    """Maps of several strides -> depth at the resolution of the image (VPD, released code).

    Levels finer than stride 32 are halved by convolutions, coarser ones are repeated; all are
    merged at stride 32, cut to the part that the image covers, and decoded by transposed
    convolutions and bilinear steps.
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        in_features: Sequence[str],
        channels: int = 192,
        deconv_channels: Sequence[int] = (32, 32, 32),
        norm: str = "BN",
        max_depth: float = 10.0,
    ):
        """
        Args:
            input_shape: level -> channels and stride; strides are powers of two.
            in_features: the levels that are read, one of them of stride 32.
            channels: of the last convolutions; the merged map has eight times as many.
            deconv_channels: of the transposed convolutions, each of which doubles the size; at
                most five, and bilinear steps do the rest.
            norm: of the decoder, as `detectron2.layers.get_norm` names it.
            max_depth: meters; all depths lie between 0 and it.
        """
        super().__init__()
        levels = sorted(in_features, key=lambda level: input_shape[level].stride)
        self.strides = {level: input_shape[level].stride for level in levels}
        self.max_depth = max_depth
        self.halve = nn.ModuleDict()
        merged = 0
        for level, stride in self.strides.items():
            width = input_shape[level].channels
            steps = int(math.log2(_STRIDE / stride))
            if steps > 0:
                self.halve[level] = _halving(width, steps)
                width = _out_channels(width)
            merged += width
        self.merge = nn.Sequential(
            nn.Conv2d(merged, 8 * channels, 1), nn.GroupNorm(_GROUPS, 8 * channels), nn.ReLU()
        )
        self.decode = _decoder(8 * channels, deconv_channels, channels, norm)
        self.predict = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, 1, 3, 1, 1)
        )
        self._initialize()

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        options = cfg.MODEL.DEPTH_HEAD
        return {
            "input_shape": input_shape,
            "in_features": options.IN_FEATURES,
            "channels": options.CHANNELS,
            "deconv_channels": options.DECONV_CHANNELS,
            "norm": options.NORM,
            "max_depth": options.MAX_DEPTH,
        }

    def _initialize(self) -> None:
        for name, part in self.named_modules():
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                if name.startswith("decode"):
                    nn.init.normal_(part.weight, std=0.001)
                else:
                    nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, features: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
        """
        Args:
            features: level -> B x C x H'/stride x W'/stride, of images that are padded to the right
                and below.
            size: height and width without the padding, pixels.

        Returns:
            B x height x width, meters, float32.
        """
        merged = self.encode(features, size)
        logits = self.predict(self.decode(merged))[:, 0, : size[0], : size[1]]
        return torch.sigmoid(logits.float()) * self.max_depth

    def encode(self, features: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
        """The merged map of what the image covers: B x 8 channels x height/32 x width/32."""
        maps = {
            level: self.halve[level](features[level]) if level in self.halve else features[level]
            for level in self.strides
        }
        common = next(maps[level] for level, stride in self.strides.items() if stride <= _STRIDE)
        same = [F.interpolate(part, size=common.shape[-2:]) for part in maps.values()]
        rows, columns = (-(-side // _STRIDE) for side in size)
        return self.merge(torch.cat(same, dim=1))[..., :rows, :columns]


def _out_channels(width: int) -> int:
    """Those of a level that is halved: its own, without a rest that no group norm can divide.

    The released head keeps the number; attention maps can make it one that 16 does not divide.
    """
    return max(width // _GROUPS, 1) * _GROUPS


def _halving(width: int, steps: int) -> nn.Sequential:
    """Convolutions of stride 2, with group norm and ReLU between two of them."""
    out = _out_channels(width)
    layers: list[nn.Module] = []
    for step in range(steps):
        if step:
            layers += [nn.GroupNorm(_GROUPS, out), nn.ReLU()]
        layers.append(nn.Conv2d(out if step else width, out, 3, stride=2, padding=1))
    return nn.Sequential(*layers)


def _decoder(width: int, deconv: Sequence[int], channels: int, norm: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for out in deconv:
        up = nn.ConvTranspose2d(width, out, 2, stride=2, bias=False)
        layers += [up, get_norm(norm, out), nn.ReLU()]
        width = out
    layers += [nn.Conv2d(width, channels, 3, padding=1), get_norm(norm, channels), nn.ReLU()]
    rest = int(math.log2(_STRIDE)) - len(deconv)
    layers += [nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)] * rest
    return nn.Sequential(*layers)


def scale_invariant_loss(depth: Tensor, truth: Tensor, share: float = 0.5) -> Tensor:
    """sqrt(mean d^2 - share (mean d)^2), d = log truth - log depth (TADP, section C; VPD).

    Pixels without a truth are left out; all others of the batch are taken together. Without any
    the loss is 0. Where the maps are equal the square root has no slope: there the gradient is 0.

    Args:
        depth: any shape, meters, above 0.
        truth: the same shape, meters; 0 or less where it is not known.
        share: 0 for the plain log error, 1 for one that no factor of scale changes.
    """
    valid = truth > 0
    # Of 1, where there is no truth: its logarithm has a gradient that is no number otherwise.
    difference = torch.where(valid, truth, 1).log() - torch.where(valid, depth, 1).log()
    count = valid.sum().clamp(min=1)
    mean = difference.sum() / count
    spread = difference.square().sum() / count - share * mean.square()
    positive = spread > 0
    return torch.where(positive, torch.where(positive, spread, 1).sqrt(), 0 * spread)
