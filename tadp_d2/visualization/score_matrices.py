"""Matrices of scores, class by class. Nothing here knows what scored."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

_COLORS, _DIFFERENCES = colormaps["viridis"], colormaps["RdBu"]
_CELL, _MARGIN, _LINE = 40, 8, 24


def score_matrices(matrices: Mapping[str, np.ndarray], names: Sequence[str]) -> Image.Image:
    """Two matrices, and what the second has more than the first, in one row.

    Args:
        matrices: title -> n x n scores, 0 to 1; true classes are rows.
        names: of the classes.
    """
    (first, one), (second, other) = matrices.items()
    panels = {
        f"under {first}": (one, _COLORS, (0.0, 1.0), "d"),
        f"under {second}": (other, _COLORS, (0.0, 1.0), "d"),
        # Blue for more.
        f"{second} minus {first}": (other - one, _DIFFERENCES, (-0.5, 0.5), "+d"),
    }
    font = ImageFont.load_default(15)
    label = round(max(font.getlength(name) for name in names)) + 2 * _MARGIN
    side = len(names) * _CELL
    width, height = label + side + 2 * _MARGIN, _LINE + label + side + _LINE + _MARGIN
    sheet = Image.new("RGB", (len(panels) * width, height), "white")
    for number, (title, panel) in enumerate(panels.items()):
        sheet.paste(_panel(title, *panel, names, label, (width, height)), (number * width, 0))
    told = "Mean score of the pixels of a true class (row) for each class (column), percent."
    ImageDraw.Draw(sheet).text((_MARGIN, height - _LINE), told, "black", font)
    return sheet


def _panel(
    title: str,
    values: np.ndarray,
    colors: object,
    limits: tuple[float, float],
    written: str,
    names: Sequence[str],
    label: int,
    size: tuple[int, int],
) -> Image.Image:
    panel, font = Image.new("RGB", size, "white"), ImageFont.load_default(15)
    draw = ImageDraw.Draw(panel)
    draw.text((label, 2), title, "black", font)
    low, high = limits
    for index, name in enumerate(names):
        place = _LINE + label + index * _CELL
        draw.text((label - _MARGIN, place + _CELL / 2), name, "black", font, anchor="rm")
        upright = Image.new("RGB", (label - _MARGIN, _CELL), "white")
        ImageDraw.Draw(upright).text((4, _CELL / 2), name, "black", font, anchor="lm")
        panel.paste(upright.rotate(90, expand=True), (label + index * _CELL, _LINE + _MARGIN))
        for column, value in enumerate(values[index]):
            share = min(max((value - low) / (high - low), 0.0), 1.0)
            red, green, blue, _ = colors(share, bytes=True)
            left = label + column * _CELL
            draw.rectangle(
                (left, place, left + _CELL - 2, place + _CELL - 2),
                fill=(int(red), int(green), int(blue)),
            )
            dark = 0.3 * red + 0.6 * green + 0.1 * blue < 128
            middle = (left + _CELL / 2 - 1, place + _CELL / 2 - 1)
            text = format(round(100 * float(value)), written)
            draw.text(middle, text, "white" if dark else "black", font, anchor="mm")
    return panel
