"""Semantic FPN's head with the papers' dropout, and the loss of TADP's released code for Pascal."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import Tensor, nn
from torch.nn import functional as F


@SEM_SEG_HEADS_REGISTRY.register()
class SemanticFPNHead(SemSegFPNHead):
    """Detectron2's `SemSegFPNHead`, with the same weights under the same names.

    Whole channels are dropped before the classifier (VPD, 0.1; TADP on Pascal, 0.2; as released).
    """

    @configurable
    def __init__(self, *args: Any, dropout: float = 0.0, focal_gamma: float = 0.0, **kwargs: Any):
        """
        Args:
            args, kwargs: of `SemSegFPNHead`.
            dropout: probability of a channel.
            focal_gamma: of `focal_loss`; 0 for cross-entropy.
        """
        super().__init__(*args, **kwargs)
        self.dropout = nn.Dropout2d(dropout)
        self.focal_gamma = focal_gamma

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Any) -> dict[str, Any]:
        options = cfg.MODEL.SEM_SEG_HEAD
        return {
            **super().from_config(cfg, input_shape),
            "dropout": options.DROPOUT,
            "focal_gamma": options.FOCAL_GAMMA,
        }

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """Features by level -> logits, B x K x h x w at the common stride."""
        levels = zip(self.in_features, self.scale_heads, strict=True)
        return self.predictor(self.dropout(sum(head(features[level]) for level, head in levels)))

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Logits at the common stride and the class of every pixel -> the loss."""
        if not self.focal_gamma:
            return super().losses(predictions, targets)
        logits = F.interpolate(
            predictions.float(),
            scale_factor=self.common_stride,
            mode="bilinear",
            align_corners=False,
        )
        loss = focal_loss(logits, targets, self.focal_gamma, self.ignore_value)
        return {"loss_sem_seg": loss * self.loss_weight}


def focal_loss(logits: Tensor, targets: Tensor, gamma: float, ignore_value: int) -> Tensor:
    """Each class against the others: (1 - p)^gamma times binary cross-entropy (TADP, as released).

    The mean over the labelled pixels, summed over the classes; p is the probability that the
    logit's sigmoid gives to what is true.

    Args:
        logits: B x K x H x W.
        targets: B x H x W.
        ignore_value: of a pixel without truth.
    """
    labelled = targets != ignore_value
    pixels = logits.movedim(1, -1)[labelled]
    classes = torch.arange(pixels.shape[1], device=pixels.device)
    truth = (targets[labelled][:, None] == classes).to(pixels.dtype)
    entropy = F.binary_cross_entropy_with_logits(pixels, truth, reduction="none")
    return ((1 - (-entropy).exp()) ** gamma * entropy).mean(dim=0).sum()
