"""The object that an expression refers to, drawn on its image, with the expression below."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_COLOR = (255, 64, 32)
_OPACITY = 0.5
# Of what is not the object.
_DIMMED = 0.6
_MARGIN = 6


def draw_expression(pixels: np.ndarray, mask: np.ndarray, expression: str) -> Image.Image:
    """The object in color with an outline, the rest dimmed; the expression stands below.

    Args:
        pixels: H x W x 3, uint8 RGB.
        mask: H x W bool.
        expression: broken into lines of the image's width.
    """
    shown = np.where(
        mask[..., None],
        pixels * (1 - _OPACITY) + np.array(_COLOR) * _OPACITY,
        pixels * _DIMMED,
    )
    shown[_outline(mask)] = _COLOR
    image = Image.fromarray(shown.round().astype(np.uint8))
    # A fraction of the image, because a sheet scales both alike.
    font = ImageFont.load_default(max(10, image.height // 16))
    lines = _lines(expression, font, image.width - 2 * _MARGIN)
    height = sum(font.getmetrics()) + 2
    sheet = Image.new("RGB", (image.width, image.height + height * len(lines) + 4), "white")
    sheet.paste(image)
    draw = ImageDraw.Draw(sheet)
    for index, line in enumerate(lines):
        draw.text((_MARGIN, image.height + 2 + index * height), line, fill="black", font=font)
    return sheet


def _outline(mask: np.ndarray) -> np.ndarray:
    """Pixels of the mask with a neighbor outside of it."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _lines(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Words in lines no wider than `width` pixels, but for a single wide word."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] = f"{lines[-1]} {word}"
        else:
            lines.append(word)
    return lines
