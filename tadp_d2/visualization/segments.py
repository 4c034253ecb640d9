"""The classes of pixels drawn over an image."""

from collections.abc import Mapping, Sequence

import numpy as np
from detectron2.data import Metadata
from detectron2.utils.visualizer import Visualizer
from PIL import Image
from torch import Tensor


def draw_segments(
    pixels: np.ndarray, classes: np.ndarray, colors: np.ndarray, opacity: float = 0.75
) -> Image.Image:
    """The classes' colors over an image; pixels of no class are black.

    Args:
        pixels: H x W x 3, uint8 RGB.
        classes: H x W, indices of `colors`; any other value is no class.
        colors: K x 3, uint8 RGB.
        opacity: of the colors, 0 to 1.
    """
    known = classes < len(colors)
    painted = colors[np.where(known, classes, 0)] * opacity + pixels * (1 - opacity)
    return Image.fromarray((painted * known[..., None]).round().astype(np.uint8))


def draw_named_segments(pixels: np.ndarray, classes: np.ndarray, metadata: Metadata) -> Image.Image:
    """Segments with the names of their classes on an image, which is drawn at twice its size.

    Args:
        pixels: H x W x 3, uint8 RGB.
        classes: H x W, class indices.
        metadata: with `stuff_classes` and `stuff_colors`.
    """
    if pixels.shape[1] == 2:  # Detectron2 takes masks of that width for something else
        pixels, classes = pixels.repeat(2, axis=1), classes.repeat(2, axis=1)
    drawn = Visualizer(pixels, metadata, scale=2).draw_sem_seg(classes, alpha=0.6)
    return Image.fromarray(drawn.get_image())


def draw_panoptic(
    pixels: np.ndarray, segments: Tensor, described: Sequence[Mapping], metadata: Metadata
) -> Image.Image:
    """Things and stuff with their names on an image, which is drawn at twice its size.

    Args:
        pixels: H x W x 3, uint8 RGB.
        segments: H x W, ids.
        described: for each id "id", "isthing" and "category_id", as Detectron2's PanopticFPN.
        metadata: with names and colors of both kinds of classes.
    """
    drawn = Visualizer(pixels, metadata, scale=2)
    return Image.fromarray(
        drawn.draw_panoptic_seg(segments, list(described), alpha=0.6).get_image()
    )
