"""Test images at several scales, from the original pixels."""

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor


def make_views(pixels: np.ndarray, cfg: CfgNode) -> list[Tensor]:
    """An image at each of `TEST.VIEWS.SCALES`.

    Args:
        pixels: H x W x 3, uint8, as it was read.

    Returns:
        3 x h x w, uint8, for each scale.
    """
    sizes = [view_size(*pixels.shape[:2], scale, cfg) for scale in cfg.TEST.VIEWS.SCALES]
    return [_resize(pixels, height, width) for height, width in sizes]


def view_size(height: int, width: int, scale: float, cfg: CfgNode) -> tuple[int, int]:
    """Height and width of an image at a scale of the size of testing (VPD, as released).

    With "shortest_edge" the aspect ratio is kept: the sides fit into `MIN_SIZE_TEST` and
    `MAX_SIZE_TEST`, each times the scale and rounded down.
    """
    if cfg.INPUT.RESIZE == "fixed":
        fixed_width, fixed_height = cfg.INPUT.FIXED_SIZE_TEST
        return int(fixed_height * scale), int(fixed_width * scale)
    short, long = int(cfg.INPUT.MIN_SIZE_TEST * scale), int(cfg.INPUT.MAX_SIZE_TEST * scale)
    factor = min(long / max(height, width), short / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def _resize(pixels: np.ndarray, height: int, width: int) -> Tensor:
    # Without smoothing where it gets smaller, as released.
    resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
