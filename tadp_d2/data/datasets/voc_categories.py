"""The classes of Pascal VOC's segmentations, and of what the synthetic ones show behind objects."""

import numpy as np

# VOC's classes in its order. In `SegmentationClass` they count from 1, as in COCO's format.
THINGS = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
BACKGROUND = "background"
# How the names of the data sets end that hold the masks of a split.
KINDS = ("instances", "semantic", "panoptic", "panoptic_separated")
# The value of VOC's label maps for pixels that are neither trained nor scored.
VOID = 255
# Not VOC's, whose background is one class. Colors are RGB.
STUFF = {
    "sky": (70, 130, 180),
    "hill": (119, 136, 85),
    "building": (150, 110, 100),
    "tree": (34, 110, 34),
    "fence": (190, 153, 120),
    "parasol": (230, 110, 90),
    "sea": (40, 120, 200),
    "sand": (240, 214, 150),
    "grass": (124, 200, 80),
    "path": (214, 194, 158),
    "pavement": (200, 120, 200),
    "road": (90, 90, 100),
}


def _colormap() -> np.ndarray:
    """256 x 3 uint8: VOC's color of every label, by its devkit's rule.

    Bits 0, 3, 6 of a label are the highest bits of red, bits 1, 4, 7 of green, 2, 5 of blue.
    """
    labels = np.arange(256)
    colors = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        colors[:, bit % 3] |= ((labels >> bit & 1) << 7 - bit // 3).astype(np.uint8)
    return colors


COLORMAP = _colormap()
# Category ids in COCO's format: things as in `SegmentationClass`, stuff behind them.
THING_IDS = {name: number for number, name in enumerate(THINGS, start=1)}
STUFF_IDS = {name: number for number, name in enumerate(STUFF, start=1 + len(THINGS))}
COLORS = {name: COLORMAP[number].tolist() for name, number in THING_IDS.items()} | {
    name: list(color) for name, color in STUFF.items()
}
