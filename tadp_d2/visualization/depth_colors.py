"""Depth and its errors in colors, with a scale."""

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap
from PIL import Image, ImageDraw, ImageFont

# Its lightness rises steadily, so it reads the same without color vision and in print. Near is
# light.
COLORS = colormaps["magma_r"]
# As steady, and not to be taken for a depth: large errors are light.
ERROR_COLORS = colormaps["viridis"]
# Of a pixel without a depth.
HOLE = (128, 160, 128)
_STEPS = 5


def draw_depth(depth: np.ndarray, farthest: float) -> Image.Image:
    """Near in light yellow, `farthest` and beyond in black, holes in a grayish green.

    Args:
        depth: H x W, meters; 0 is a hole.
        farthest: meters.
    """
    colors = COLORS(np.clip(depth / farthest, 0, 1), bytes=True)[..., :3]
    return Image.fromarray(np.where((depth > 0)[..., None], colors, np.uint8(HOLE)))


def draw_error(depth: np.ndarray, truth: np.ndarray, largest: float) -> Image.Image:
    """No error in dark violet, `largest` and beyond in yellow, holes in a grayish green.

    Args:
        depth: H x W, meters.
        truth: the same; 0 is a hole.
        largest: absolute error, meters.
    """
    colors = ERROR_COLORS(np.clip(np.abs(depth - truth) / largest, 0, 1), bytes=True)[..., :3]
    return Image.fromarray(np.where((truth > 0)[..., None], colors, np.uint8(HOLE)))


def with_scale(image: Image.Image, farthest: float, colors: Colormap = COLORS) -> Image.Image:
    """The same with a bar of the colors below it, from 0 to `farthest` meters."""
    width = max(image.width, 160)
    size = max(11, width // 32)
    bar = size
    font = ImageFont.load_default(size)
    drawn = Image.new("RGB", (width, image.height + bar + 2 * size), "white")
    drawn.paste(image, ((width - image.width) // 2, 0))
    ramp = colors(np.linspace(0, 1, width), bytes=True)[None, :, :3].repeat(bar, axis=0)
    top = image.height + size // 4
    drawn.paste(Image.fromarray(np.ascontiguousarray(ramp)), (0, top))
    draw = ImageDraw.Draw(drawn)
    for step in range(_STEPS + 1):
        share = step / _STEPS
        text = f"{share * farthest:.2g}" + (" m" if step == _STEPS else "")
        # Within the image at both ends.
        left = share * (width - 1) - share * draw.textlength(text, font)
        draw.text((left, top + bar), text, fill="black", font=font)
    return drawn
