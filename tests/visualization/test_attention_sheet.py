"""Heat over a picture, and the sheet of it."""

import numpy as np
import pytest
from PIL import Image

from tadp_d2.visualization.attention_sheet import (
    COLORS,
    OPACITY,
    Block,
    SheetRow,
    attention_sheet,
    draw_heat,
)


def colors(values):
    """Viridis over grey 100, H x W x 3."""
    own = np.asarray(COLORS(values, bytes=True))[..., :3]
    return own * OPACITY + 100 * (1 - OPACITY)


def test_heat_runs_from_a_maps_minimum_to_its_maximum():
    picture = Image.new("RGB", (2, 1), (100, 100, 100))
    drawn = np.asarray(draw_heat(picture, np.array([[0.25, 0.75]])), float)
    assert drawn == pytest.approx(colors(np.array([[0.0, 1.0]])), abs=1)
    flat = np.asarray(draw_heat(picture, np.array([[0.5, 0.5]])), float)
    assert flat == pytest.approx(colors(np.array([[0.0, 0.0]])), abs=1)


def test_more_heat_is_lighter_for_any_eye():
    lightness = np.asarray(COLORS(np.linspace(0, 1, 256)))[:, :3] @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) > 0).all()


def test_each_map_stands_below_its_word_in_its_row():
    picture = Image.new("RGB", (200, 100), (100, 100, 100))
    left, right = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    rows = [
        SheetRow("stride 16", np.stack([left, right])),
        SheetRow("mean", np.stack([right, right])),
    ]
    blocks = [
        Block("first", ["dog", "cat"], rows),
        Block("second", ["dog"], [SheetRow("mean", left[None])]),
    ]
    sheet = np.asarray(attention_sheet(picture, blocks, "picture.png"), float)
    hot, cold = colors(np.array(1.0)), colors(np.array(0.0))
    # Cells are 132 x 66 with margins of 6, right of the labels; a block's head takes 40 pixels.
    first, second = 66 + 12, 66 + 12 + 40 + 2 * 72 + 6
    for top, lefts in (
        (first + 40, (True, False)),
        (first + 40 + 72, (False, False)),
        (second + 40, (True,)),
    ):
        for column, is_left in enumerate(lefts):
            cell = sheet[top : top + 66, 110 + column * 138 :][:, :132]
            ends = (hot, cold) if is_left else (cold, hot)
            assert cell[10, 5] == pytest.approx(ends[0], abs=1)
            assert cell[10, 126] == pytest.approx(ends[1], abs=1)
    assert (sheet[second + 40 : second + 106, 110 + 138 :] == 255).all()


def test_long_texts_are_cut_and_do_not_widen_the_sheet():
    picture = Image.new("RGB", (100, 100))
    row = SheetRow("mean", np.zeros((1, 2, 2)))
    short = attention_sheet(picture, [Block("a", ["dog"], [row])], "a")
    long = attention_sheet(picture, [Block("a" * 999, ["dog" * 99], [row])], "a" * 999)
    assert long.size == short.size
