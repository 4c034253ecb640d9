"""Drawings of what does not move in a street: ground, buildings, walls, fences, hedges, trees.

Everything is in the meters of `perspective`. A side of the street is where x has its sign, -1 or 1.
"""

from collections.abc import Sequence

import numpy as np

from tadp_d2.data.datasets.cityscapes_categories import IDS
from tadp_d2.synthetic.drawing.backdrops import tree
from tadp_d2.synthetic.drawing.perspective import (
    Camera,
    StreetPart,
    on_front,
    on_ground,
    on_wall,
    rectangle,
)
from tadp_d2.synthetic.drawing.shapes import (
    UNIT_CIRCLE,
    Color,
    Shape,
    detail,
    ellipse,
    mixed,
    pick,
    polygon,
    shaded,
    stroke,
)

FAR = 400.0

_FACADES = (
    (206, 188, 160),
    (176, 122, 98),
    (188, 190, 192),
    (222, 210, 186),
    (154, 138, 130),
    (204, 172, 118),
    (160, 168, 172),
    (184, 150, 138),
    (132, 112, 104),
)
_WINDOW = (84, 100, 116)
_LAMPLIGHT = ((255, 206, 120), (255, 226, 170), (246, 178, 92))
_STONES = ((172, 168, 160), (158, 112, 92), (196, 184, 160), (142, 142, 146))
_FENCES = ((112, 84, 60), (74, 92, 78), (92, 94, 102), (150, 118, 84), (206, 204, 196))
PAVEMENTS = ((172, 164, 158), (186, 178, 164), (164, 142, 130), (156, 158, 164))
_HEDGE = (70, 108, 56)
_GRASS = ((128, 146, 80), (108, 132, 66), (146, 142, 92))


def strip(
    camera: Camera, label: str, x0: float, x1: float, z0: float, z1: float, color: Color
) -> StreetPart:
    """A flat rectangle of ground."""
    shapes = camera.details(on_ground([(x0, z0, x1, z1)]), color)
    return StreetPart(IDS[label], tuple(shapes), camera.ground)


def grass(
    camera: Camera, rng: np.random.Generator, x0: float, x1: float, z0: float, z1: float
) -> StreetPart:
    return strip(camera, "terrain", x0, x1, z0, z1, pick(rng, _GRASS))


def pavement(
    camera: Camera, side: int, inner: float, outer: float, z0: float, z1: float, stone: Color
) -> StreetPart:
    """A sidewalk with slabs and a pale curb."""
    x0, x1 = side * inner, side * outer
    joints = [(x0, z, x1, z + 0.07) for z in np.arange(np.ceil(z0), min(z1, 40), 1.5)]
    shapes = [
        *camera.details(on_ground([(x0, z0, x1, z1)]), stone),
        *camera.details(on_ground(joints), shaded(stone, 0.86)),
        *camera.details(on_ground([(x0, z0, x0 + side * 0.22, z1)]), (206, 202, 196)),
    ]
    return StreetPart(IDS["sidewalk"], tuple(shapes), camera.ground)


# --- buildings ----------------------------------------------------------------------------------


def building(
    camera: Camera,
    rng: np.random.Generator,
    side: int,
    front: float,
    z0: float,
    z1: float,
    height: float,
) -> list[StreetPart]:
    """A building along one side: its end towards the camera, and its face towards the street.

    Args:
        camera: that sees it.
        rng: for colors, windows and lights.
        side: -1 or 1.
        front: distance of its face from the middle of the street.
        z0, z1: where it begins and ends.
        height: of its roof.
    """
    color, x, outer = pick(rng, _FACADES), side * front, side * (front + 14)
    trim = shaded(color, pick(rng, (0.7, 1.25)))
    panes, tones, glows = _panes(rng, _windows(rng, 14, height))
    panes = panes * (side, 1, side, 1) + (x, 0, x, 0)
    end = [
        *camera.details(on_front(z0, [(x, 0, outer, height)]), shaded(color, 0.82)),
        *camera.details(on_front(z0, panes), tones),
    ]
    end_lit = camera.details(on_front(z0, panes[glows]), _glows(rng, glows))

    panes, tones, glows = _panes(rng, _windows(rng, z1 - z0, height))
    panes = panes + (z0, 0, z0, 0)
    frames = panes + (-0.14, -0.18, 0.14, 0.14)
    bands = [(z0, height - 0.45, z1, height), (z0, 3.1, z1, 3.32)]
    face = [
        *camera.details(on_wall(x, [(z0, 0, z1, height)]), color),
        *camera.details(on_wall(x, [*bands, *frames]), trim),
        *camera.details(on_wall(x, panes), tones),
    ]
    lit = camera.details(on_wall(x, panes[glows]), _glows(rng, glows))
    return [
        StreetPart(IDS["building"], tuple(end), camera.facing(z0), tuple(end_lit)),
        StreetPart(IDS["building"], tuple(face), camera.along(x), tuple(lit)),
    ]


def _panes(
    rng: np.random.Generator, windows: np.ndarray
) -> tuple[np.ndarray, list[Color], np.ndarray]:
    """Windows as N x 4 rectangles, their colors, and which of them are lit when it is dark."""
    tones = [shaded(_WINDOW, tone) for tone in rng.uniform(0.75, 1.2, len(windows))]
    return windows, tones, np.flatnonzero(rng.random(len(windows)) < 0.28)


def _glows(rng: np.random.Generator, lit: np.ndarray) -> list[Color]:
    return [shaded(pick(rng, _LAMPLIGHT), rng.uniform(0.3, 0.7)) for _ in lit]


def _windows(rng: np.random.Generator, length: float, height: float) -> np.ndarray:
    """N x 4: left, bottom, right and top of windows and doors on a face of this size."""
    pitch, floor = rng.uniform(2.2, 3.2), rng.uniform(2.8, 3.3)
    wide, tall = pitch * rng.uniform(0.42, 0.6), floor * rng.uniform(0.45, 0.6)
    shop = rng.random() < 0.5
    found = []
    columns = max(1, int(length / pitch))
    margin = (length - columns * pitch) / 2
    for column in range(columns):
        u = margin + column * pitch + (pitch - wide) / 2
        if shop:
            found.append((u - 0.3, 0.5, u + wide + 0.3, 2.6))
        elif column % 3 == 1:
            found.append((u, 0.05, u + wide, 2.45))
        else:
            found.append((u, 1.0, u + wide, 1.0 + tall))
        y = 3.7
        while y + tall < height - 0.6:
            found.append((u, y, u + wide, y + tall))
            y += floor
    return np.array(found)


def skyline(camera: Camera, rng: np.random.Generator, z: float, height: float) -> list[StreetPart]:
    """What closes the street far away: buildings in a row, or woods."""
    wooded, parts = rng.random() < 0.4, []
    x, reach = -0.9 * z, 0.9 * z
    while x < reach:
        width = rng.uniform(6, 12)
        top = height * rng.uniform(0.55, 1.1)
        if wooded:
            color = mixed((104, 128, 92), (88, 112, 88), rng.random())
            crown = ellipse(x + width / 2, top * 0.25, width * 0.75, top * 0.45, color)
            trunk = polygon(rectangle(x, 0, x + width, top * 0.3), color)
            shapes = camera.standing([trunk, crown], 0, z)
            parts.append(StreetPart(IDS["vegetation"], shapes, camera.facing(z)))
        else:
            panes, tones, glows = _panes(rng, _windows(rng, width, top))
            panes = on_front(z, panes + (x, 0, x, 0))
            color = pick(rng, _FACADES)
            shapes = camera.details(on_front(z, [(x, 0, x + width, top)]), color)
            shapes += camera.details(panes, tones)
            lit = camera.details(panes[glows], _glows(rng, glows))
            parts.append(StreetPart(IDS["building"], tuple(shapes), camera.facing(z), tuple(lit)))
        x += width
    return parts


# --- in front of buildings ----------------------------------------------------------------------


def wall(
    camera: Camera, rng: np.random.Generator, side: int, x: float, z0: float, z1: float
) -> list[StreetPart]:
    """A wall of stone with a coping, courses and piers."""
    stone, height = pick(rng, _STONES), rng.uniform(1.7, 2.6)
    joint, coping = shaded(stone, 0.76), shaded(stone, 1.3)
    x, outer = side * x, side * (x + 0.5)
    joints = [(z0, y, z1, y + 0.05) for y in np.arange(0.4, height - 0.2, 0.4)]
    piers = [(z, 0, z + 0.35, height) for z in np.arange(z0 + 0.3, z1 - 0.35, 2.4)]
    shapes = [
        *camera.details(on_wall(x, [(z0, 0, z1, height)]), stone),
        *camera.details(on_wall(x, [*joints, *piers]), joint),
        *camera.details(on_wall(x, [(z0, height - 0.18, z1, height)]), coping),
    ]
    end = camera.details(on_front(z0, [(x, 0, outer, height)]), joint)
    return [
        StreetPart(IDS["wall"], tuple(end), camera.facing(z0)),
        StreetPart(IDS["wall"], tuple(shapes), camera.along(x)),
    ]


def fence(
    camera: Camera, rng: np.random.Generator, side: int, x: float, z0: float, z1: float
) -> list[StreetPart]:
    """A fence of pales before a darker ground, with posts and two rails."""
    pale, height, x = pick(rng, _FENCES), rng.uniform(1.3, 2.0), side * x
    gap = shaded(pale, 0.45)
    pitch = pick(rng, (0.3, 0.4))
    pales = [(z, 0, z + pitch * 0.55, height) for z in np.arange(z0, z1 - pitch / 2, pitch)]
    rails = [(z0, y, z1, y + 0.13) for y in (0.25, height - 0.4)]
    posts = [(z, 0, z + 0.22, height + 0.2) for z in np.arange(z0, z1 - 0.22, 2.4)]
    shapes = [
        *camera.details(on_wall(x, [(z0, 0, z1, height - 0.1)]), gap),
        *camera.details(on_wall(x, pales), pale),
        *camera.details(on_wall(x, rails), shaded(pale, 0.8)),
        *camera.details(on_wall(x, posts), shaded(pale, 0.68)),
    ]
    return [StreetPart(IDS["fence"], tuple(shapes), camera.along(x))]


def hedge(
    camera: Camera, rng: np.random.Generator, side: int, x: float, z0: float, z1: float
) -> list[StreetPart]:
    """A clipped hedge with leaves along its top."""
    height, x = rng.uniform(1.2, 2.0), side * x
    leaf = mixed(_HEDGE, (104, 124, 62), rng.random())
    shapes = [camera.polygon([(x, y, z) for z, y in rectangle(z0, 0, z1, height)], leaf)]
    z = rng.uniform(z0, z1, int(6 * (z1 - z0)))
    z = -np.sort(-z)
    points = np.stack([np.full_like(z, x), rng.uniform(0.2, 1.02, len(z)) * height, z], axis=1)
    sizes = rng.uniform(0.16, 0.3, len(z)) * camera.focal / z
    shapes += _leaves(camera.project(points), sizes, leaf, rng.uniform(0.75, 1.12, len(z)))
    return [StreetPart(IDS["vegetation"], tuple(shapes), camera.along(x))]


def street_tree(
    camera: Camera, rng: np.random.Generator, x: float, z: float, height: float
) -> StreetPart:
    """A tree whose crown breaks up into leaves."""
    (px, py), tall = camera.project([(x, 0, z)])[0], height * camera.focal / z
    shapes = tree(rng, px, py, tall)
    leaf, crown, r = shapes[1].color, py - tall * 0.66, tall * 0.27
    count = int(np.clip(tall / 4, 5, 40))
    angles, reaches = rng.uniform(0, 2 * np.pi, count), r * np.sqrt(rng.uniform(0.1, 1.2, count))
    centers = np.stack([1.15 * reaches * np.cos(angles), reaches * np.sin(angles)], axis=1)
    shades = rng.uniform(0.8, 1.1, count) - 0.12 * np.sin(angles)
    sizes = tall * rng.uniform(0.02, 0.05, count)
    shapes += _leaves(centers + (px, crown), sizes, leaf, shades)
    return StreetPart(IDS["vegetation"], tuple(shapes), camera.facing(z))


def _leaves(
    centers: np.ndarray, sizes: np.ndarray, color: Color, shades: np.ndarray
) -> list[Shape]:
    """Clumps of leaves at N x 2 pixels, each of its size and shade."""
    rims = centers[:, None] + UNIT_CIRCLE[None, ::2] * (sizes[:, None, None] * (1.15, 1.0))
    pairs = zip(rims, shades, strict=True)
    return [Shape(rim, shaded(color, shade), outlined=False) for rim, shade in pairs]


# --- road ---------------------------------------------------------------------------------------


def road(
    camera: Camera,
    rng: np.random.Generator,
    edges: tuple[float, float],
    middle: float,
    near: float,
    junction: tuple[float, float] | None,
    rails: Sequence[float],
) -> list[StreetPart]:
    """The road with its markings, and the one that crosses it.

    Args:
        camera: that sees it.
        rng: for its tone and what is marked.
        edges: x of the curbs.
        middle: x of the line between the lanes.
        near: where it begins.
        junction: where the crossing road begins and ends, if there is one.
        rails: x of the middles of tracks.
    """
    tone = pick(rng, ((112, 112, 118), (98, 98, 104), (122, 118, 116)))
    paint, zebra = (214, 212, 204), rng.random() < 0.6
    surfaces = [(edges[0], near, edges[1], FAR)]
    dashes = [(middle - 0.09, z, middle + 0.09, z + 2.6) for z in np.arange(near, 60, 5.0)]
    stripes = []
    if junction:
        start, stop = junction
        surfaces.append((-80, start, 80, stop))
        dashes = [d for d in dashes if d[3] < start - 3.5 or d[1] > stop + 2]
        if zebra:
            places = np.arange(edges[0] + 0.4, edges[1] - 0.5, 1.0)
            stripes = [(x, start - 3.2, x + 0.5, start - 0.6) for x in places]
    middles = [track + offset for track in rails for offset in (-0.72, 0.72)]
    lines = [(x - 0.07, near, x + 0.07, 120) for x in middles]
    shapes = [
        *camera.details(on_ground(surfaces), tone),
        *camera.details(on_ground([*dashes, *stripes]), paint),
        *camera.details(on_ground(lines), (164, 166, 172)),
    ]
    return [StreetPart(IDS["road"], tuple(shapes), camera.ground)]


def bonnet(rng: np.random.Generator, size: tuple[int, int], label: int) -> StreetPart:
    """The front of the car that carries the camera, at the lower rim."""
    (width, height), rise = size, rng.uniform(0.05, 0.1)
    paint = pick(rng, ((52, 54, 60), (120, 124, 130), (70, 34, 36), (38, 50, 78)))
    x = np.linspace(-5, width + 5, 24)
    arch = height * (1 - rise * (1 - ((x / width - 0.5) / 0.56) ** 2))
    outline = [*zip(x, arch, strict=True), (width + 5, height + 5), (-5, height + 5)]
    shine = stroke(list(zip(x, arch + 2.5, strict=True)), shaded(paint, 1.35), 1.5)
    return StreetPart(label, (polygon(outline, paint), detail(shine)), (0.0, 0.0, 1.0))
