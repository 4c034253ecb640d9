"""Drawings of the settings behind the objects, composed in pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from tadp_d2.data.datasets.voc_categories import STUFF_IDS
from tadp_d2.synthetic.drawing.shapes import (
    SUPERSAMPLING,
    WHITE,
    Color,
    Shape,
    box,
    curve,
    detail,
    ellipse,
    fill,
    mixed,
    pick,
    polygon,
    shaded,
    stroke,
)


class Region(NamedTuple):
    """Shapes of one kind of stuff. Bushes count as trees, flowers as grass, boats as the sea.

    Attributes:
        name: one of `STUFF_IDS`.
        shapes: far to near.
    """

    name: str
    shapes: Sequence[Shape]


@dataclass(frozen=True)
class Backdrop:
    """What stands behind the objects of a scene, in pixels.

    Attributes:
        sky: colors of the sky at the top and at the skyline.
        ground: colors of the ground far away and near.
        skyline: y at which the sky ends.
        horizon: y at which ground to stand on begins.
        roughness: how coarse the ground is, 0 (asphalt) to 1 (grass).
        ground_name: what the ground is, one of `STUFF_IDS`.
        regions: everything else, far to near.
    """

    sky: tuple[Color, Color]
    ground: tuple[Color, Color]
    skyline: float
    horizon: float
    roughness: float
    ground_name: str
    regions: tuple[Region, ...]

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes of all regions, far to near."""
        return tuple(shape for region in self.regions for shape in region.shapes)


SKIES: dict[str, tuple[Color, Color]] = {
    "morning": ((126, 178, 222), (250, 226, 204)),
    "noon": ((78, 146, 222), (204, 230, 248)),
    "overcast": ((158, 174, 190), (222, 226, 230)),
    "evening": ((110, 122, 186), (252, 190, 136)),
}


def tree(rng: np.random.Generator, x: float, foot: float, height: float) -> list[Shape]:
    """A tree of this height in pixels, its foot at (x, foot)."""
    leaf = mixed((74, 128, 62), (128, 152, 58), rng.random())
    crown, r = foot - height * 0.66, height * 0.24
    shapes = [
        polygon(
            [
                (x - height * 0.05, foot),
                (x - height * 0.03, crown),
                (x + height * 0.03, crown),
                (x + height * 0.05, foot),
            ],
            (112, 82, 58),
        )
    ]
    for dx, dy, size in ((-0.8, 0.3, 0.9), (0.8, 0.25, 0.95), (0.1, -0.5, 1.1), (0, 0.3, 1)):
        shade = shaded(leaf, rng.uniform(0.86, 1.08))
        shapes.append(ellipse(x + dx * r, crown + dy * r, r * size, r * size * 0.92, shade))
    return shapes


def _hill(rng: np.random.Generator, width: int, base: float, rise: float, color: Color) -> Shape:
    x = np.linspace(-10, width + 10, 40)
    phase = rng.uniform(0, 6.3, 2)
    y = base - rise * (
        0.55 + 0.3 * np.sin(x / width * 5 + phase[0]) + 0.15 * np.sin(x / width * 11 + phase[1])
    )
    outline = [*zip(x, y, strict=True), (width + 10, base + 3), (-10, base + 3)]
    return polygon(outline, color)


def _house(rng: np.random.Generator, x: float, foot: float, width: float) -> list[Shape]:
    wall = pick(
        rng,
        (
            (226, 206, 176),
            (206, 164, 138),
            (190, 198, 206),
            (232, 222, 204),
            (198, 178, 186),
            (214, 190, 140),
        ),
    )
    roof = pick(rng, ((150, 86, 70), (104, 96, 104), (128, 82, 60)))
    floors = int(rng.integers(2, 4))
    height = floors * width * 0.36
    top = foot - height
    shapes = [
        polygon(
            [
                (x - 3, top),
                (x + width * 0.16, top - width * 0.3),
                (x + width * 0.84, top - width * 0.3),
                (x + width + 3, top),
            ],
            roof,
        ),
        box(x, top, x + width, foot, wall),
    ]
    for floor in range(floors):
        y = top + (floor + 0.24) * width * 0.36
        for column in range(3):
            wx = x + (0.1 + 0.3 * column) * width
            is_door = floor == floors - 1 and column == 1
            tone, low = ((116, 82, 66), foot) if is_door else ((148, 170, 186), y + width * 0.19)
            shapes.append(detail(box(wx, y, wx + width * 0.18, low, tone)))
    return shapes


def _park(rng: np.random.Generator, width: int, height: int, horizon: float) -> list[Region]:
    regions = [Region("hill", [_hill(rng, width, horizon, horizon * 0.34, (150, 180, 160))])]
    bushes = []
    for x in np.arange(-5, width, 26):
        r = rng.uniform(10, 17)
        tone = mixed((122, 158, 108), (98, 142, 104), rng.random())
        bushes.append(ellipse(x + rng.uniform(-6, 6), horizon - r * 0.5, r * 1.3, r, tone))
    regions.append(Region("tree", bushes))
    vanish, near = rng.uniform(0.2, 0.8, 2) * width
    bend = (vanish + near) / 2 + rng.uniform(-30, 30)
    middle = (horizon + height) / 2
    path = [
        (vanish - 5, horizon + 1),
        (vanish + 5, horizon + 1),
        (bend + 24, middle),
        (near + 60, height + 4),
        (near - 60, height + 4),
        (bend - 24, middle),
    ]
    regions.append(Region("path", [polygon(path, (214, 194, 158), outlined=False)]))
    for _ in range(int(rng.integers(1, 4))):
        x, size = rng.uniform(0, width), rng.uniform(0.55, 0.95) * horizon
        regions.append(Region("tree", tree(rng, x, horizon + rng.uniform(1, 8), size)))
    return regions


def _street(rng: np.random.Generator, width: int, height: int, horizon: float) -> list[Region]:
    houses = []
    x = -rng.uniform(0, 40)
    while x < width:
        size = rng.uniform(62, 92)
        houses += _house(rng, x, horizon, size)
        x += size + rng.uniform(1, 12)
    curb = horizon + (height - horizon) * 0.24
    pavement = [
        box(-9, horizon, width + 9, curb, (196, 190, 182)),
        detail(box(-9, curb, width + 9, curb + 3, (150, 146, 142))),
    ]
    marks = []
    y = horizon + (height - horizon) * 0.66
    for x in np.arange(rng.uniform(-40, 0), width, 56):
        mark = [(x, y), (x + 30, y), (x + 28, y + 4), (x - 2, y + 4)]
        marks.append(detail(polygon(mark, (226, 222, 208))))
    return [
        Region("building", houses),
        Region("pavement", pavement),
        Region("road", marks),
    ]


def _beach(rng: np.random.Generator, width: int, height: int, horizon: float) -> list[Region]:
    skyline = _skyline("beach", height, horizon)
    x = np.linspace(-9, width + 9, 30)
    shore = horizon + 2.5 * np.sin(x / 23 + rng.uniform(0, 6))
    sea = [(-9, skyline), (width + 9, skyline), *zip(x[::-1], shore[::-1], strict=True)]
    water = [
        polygon(sea, (74, 152, 182), outlined=False),
        detail(Shape(np.stack([x, shore], axis=1), (244, 248, 246), 3.5)),
    ]
    for _ in range(9):
        wx, wy = rng.uniform(0, width), rng.uniform(skyline + 5, horizon - 6)
        wave = [(wx, wy), (wx + 9, wy - 1.5), (wx + 20, wy)]
        water.append(detail(curve(wave, (150, 204, 218), 1.6)))
    if rng.random() < 0.6:
        bx, by = rng.uniform(0.1, 0.9) * width, skyline + 4
        water += [
            polygon([(bx, by - 26), (bx, by - 4), (bx + 15, by - 4)], WHITE),
            polygon(
                [(bx - 9, by - 2), (bx + 14, by - 2), (bx + 9, by + 4), (bx - 5, by + 4)],
                (136, 86, 62),
            ),
        ]
    parasols = []
    for _ in range(int(rng.integers(0, 3))):
        parasols += _parasol(rng, rng.uniform(0.05, 0.95) * width, horizon + rng.uniform(6, 14))
    return [Region("sea", water), Region("parasol", parasols)]


def _parasol(rng: np.random.Generator, x: float, foot: float) -> list[Shape]:
    cloth = pick(rng, ((222, 120, 96), (238, 204, 112), (120, 170, 178)))
    top = foot - 44
    canopy = [
        (x - 28, top + 15),
        (x - 17, top + 3),
        (x, top),
        (x + 17, top + 3),
        (x + 28, top + 15),
    ]
    stripe = [(x - 8, top + 15), (x - 5, top + 2), (x + 5, top + 2), (x + 8, top + 15)]
    return [
        stroke([(x, top), (x, foot)], (178, 156, 130), 2.2),
        polygon(canopy, cloth),
        detail(polygon(stripe, WHITE)),
    ]


def _meadow(rng: np.random.Generator, width: int, height: int, horizon: float) -> list[Region]:
    tones = ((158, 184, 196), (150, 186, 142), (140, 186, 104))
    hills = [
        _hill(rng, width, horizon, horizon * rise, tone)
        for rise, tone in zip((0.55, 0.36, 0.2), tones, strict=True)
    ]
    regions = [Region("hill", hills)]
    if rng.random() < 0.5:
        lone = tree(rng, rng.uniform(0, width), horizon + 3, horizon * 0.6)
        regions.append(Region("tree", lone))
    fence = []
    if rng.random() < 0.6:
        for x in np.arange(rng.uniform(-30, 0), width, 30):
            fence.append(box(x, horizon - 12, x + 4, horizon + 5, (178, 150, 118)))
        for y in (horizon - 9, horizon - 2):
            fence.append(box(-5, y, width + 5, y + 2.5, (178, 150, 118)))
    regions.append(Region("fence", fence))
    flowers = []
    petals = ((250, 248, 236), (244, 214, 96), (228, 132, 152), (170, 142, 206))
    for _ in range(46):
        y = horizon + (height - horizon) * rng.uniform(0.06, 1)
        r = 0.8 + 2.0 * (y - horizon) / (height - horizon)
        x = rng.uniform(0, width)
        flowers.append(detail(ellipse(x, y, r, r * 0.8, pick(rng, petals))))
    return [*regions, Region("grass", flowers)]


def _skyline(setting: str, height: int, horizon: float) -> float:
    return horizon - 0.15 * height if setting == "beach" else horizon


_GRASS = ((150, 182, 88), (104, 150, 62))
# How a setting is drawn; its ground: what it is, its colors far away and near, and its roughness.
_SETTINGS = {
    "park": (_park, "grass", _GRASS, 1.0),
    "street": (_street, "road", ((150, 148, 150), (116, 116, 122)), 0.25),
    "beach": (_beach, "sand", ((236, 216, 170), (222, 194, 140)), 0.45),
    "meadow": (_meadow, "grass", ((166, 192, 92), (122, 164, 66)), 1.0),
}
SETTINGS = tuple(_SETTINGS)


# The last one is asked for again, for its regions.
@lru_cache(maxsize=1)
def backdrop(
    setting: str, light: str, size: tuple[int, int], horizon: float, seed: int
) -> Backdrop:
    """The drawing of a setting.

    Args:
        setting: one of `SETTINGS`.
        light: one of `SKIES`.
        size: width and height of the image.
        horizon: y at which the ground to stand on begins, pixels.
        seed: of everything that varies within a setting.
    """
    draw, ground_name, ground, roughness = _SETTINGS[setting]
    regions = tuple(draw(np.random.default_rng(seed), *size, horizon))
    skyline = _skyline(setting, size[1], horizon)
    return Backdrop(SKIES[light], ground, skyline, horizon, roughness, ground_name, regions)


def region_map(drawn: Backdrop, size: tuple[int, int]) -> np.ndarray:
    """What stands at the middle of every pixel: H x W uint8 category ids.

    Args:
        size: width and height of the image.
    """
    width, height = (side * SUPERSAMPLING for side in size)
    canvas = Image.new("L", (width, height), STUFF_IDS["sky"])
    draw = ImageDraw.Draw(canvas)
    start = int(drawn.horizon) * SUPERSAMPLING
    draw.rectangle((0, start, width, height), fill=STUFF_IDS[drawn.ground_name])
    for region in drawn.regions:
        for shape in region.shapes:
            points = shape.points * SUPERSAMPLING
            fill(draw, shape, points, SUPERSAMPLING, STUFF_IDS[region.name])
    middle = slice(SUPERSAMPLING // 2, None, SUPERSAMPLING)
    return np.asarray(canvas)[middle, middle]
