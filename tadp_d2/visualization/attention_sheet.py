"""A sheet of attention maps: a row of words for each prompt and level. It computes no map."""

from bisect import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

# Its lightness rises steadily, so it reads the same without color vision and in print.
COLORS = colormaps["viridis"]
OPACITY = 0.65

CELL = 132
MARGIN = 6
LINE = 20
# The column of the rows' labels.
LABEL = 110


class SheetRow(NamedTuple):
    """
    Attributes:
        label: left of the row; a line break divides it.
        maps: W x h x w, one for each word.
    """

    label: str
    maps: np.ndarray


class Block(NamedTuple):
    """The rows of one prompt.

    Attributes:
        title: above the block.
        words: W titles of the columns.
    """

    title: str
    words: Sequence[str]
    rows: Sequence[SheetRow]


def draw_heat(picture: Image.Image, heat: np.ndarray) -> Image.Image:
    """A map over an image in gray: dark violet for its minimum, yellow for its maximum.

    Args:
        picture: RGB; the result has its size.
        heat: h x w, which covers the image.
    """
    span = float(np.ptp(heat)) or 1.0
    scaled = Image.fromarray(((heat - heat.min()) / span).astype(np.float32))
    smooth = np.asarray(scaled.resize(picture.size, Image.Resampling.BILINEAR))
    color = Image.fromarray(COLORS(smooth.clip(0, 1), bytes=True)).convert("RGB")
    return Image.blend(picture.convert("L").convert("RGB"), color, OPACITY)


def attention_sheet(picture: Image.Image, blocks: Sequence[Block], caption: str) -> Image.Image:
    """The image, the colors, and a block for each prompt. A cell states its map's range.

    Args:
        picture: RGB.
        caption: what the sheet is of, beside the image.
    """
    scale = CELL / max(picture.size)
    small = picture.resize([max(1, round(side * scale)) for side in picture.size])
    step = small.width + MARGIN, small.height + MARGIN
    columns = max(len(block.words) for block in blocks)
    heights = [2 * LINE + len(block.rows) * step[1] + MARGIN for block in blocks]
    top = small.height + 2 * MARGIN
    least = LABEL + small.width + 5 * CELL
    width = max(least, LABEL + columns * step[0] + MARGIN)
    sheet = Image.new("RGB", (width, top + sum(heights)), "white")
    sheet.paste(small, (LABEL, MARGIN))
    _write(sheet, (LABEL + small.width + 2 * MARGIN, MARGIN), caption, width)
    _draw_scale(sheet, (LABEL + small.width + 2 * MARGIN, MARGIN + 2 * LINE))
    for block, height in zip(blocks, heights, strict=True):
        _draw_block(sheet, block, small, step, top)
        top += height
    return sheet


def _draw_block(
    sheet: Image.Image, block: Block, small: Image.Image, step: tuple[int, int], top: int
) -> None:
    _write(sheet, (MARGIN, top), block.title, sheet.width, size=15)
    for column, word in enumerate(block.words):
        left = LABEL + column * step[0]
        _write(sheet, (left, top + LINE), word, left + small.width)
    for number, row in enumerate(block.rows):
        upper = top + 2 * LINE + number * step[1]
        for line, text in enumerate(row.label.split("\n")):
            _write(sheet, (MARGIN, upper + line * LINE), text, LABEL)
        for column, heat in enumerate(row.maps):
            cell = draw_heat(small, heat)
            told = f"{heat.min():.2g} to {heat.max():.2g}"
            _write(cell, (3, cell.height - 15), told, cell.width, "white", 11)
            sheet.paste(cell, (LABEL + column * step[0], upper))


def _draw_scale(sheet: Image.Image, place: tuple[int, int]) -> None:
    ramp = COLORS(np.linspace(0, 1, 120), bytes=True)[None, :, :3].repeat(12, axis=0)
    sheet.paste(Image.fromarray(np.ascontiguousarray(ramp)), (place[0], place[1] + 3))
    told = "least to most attention in a map; the numbers are in its corner"
    _write(sheet, (place[0] + 126, place[1]), told, sheet.width)


def _write(
    image: Image.Image,
    place: tuple[int, int],
    text: str,
    right: int,
    color: str = "black",
    size: int = 13,
) -> None:
    """Writes one line that ends before `right`, pixels; what does not fit is cut off."""
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    room = right - place[0]
    if draw.textlength(text, font) > room:
        longer = bisect(range(len(text)), room, key=lambda n: draw.textlength(text[:n] + "…", font))
        text = text[: max(0, longer - 1)] + "…"
    outline = {"stroke_width": 1, "stroke_fill": "black"} if color == "white" else {}
    draw.text(place, text, fill=color, font=font, **outline)
