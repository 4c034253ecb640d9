"""Drawings of cars, trucks, buses and trams, in meters: from behind, from the front, from the side.

A vehicle along the street is an end face and the body behind it, in perspective. One that crosses
is drawn flat.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tadp_d2.data.datasets.cityscapes_categories import IDS
from tadp_d2.synthetic.drawing.class_figures import PAINTS, figure, wheel
from tadp_d2.synthetic.drawing.perspective import Camera, StreetPart, rectangle
from tadp_d2.synthetic.drawing.shapes import (
    GLASS,
    INK,
    STEEL,
    TIRE,
    UNIT_CIRCLE,
    WHITE,
    Color,
    Points,
    Shape,
    blob,
    box,
    detail,
    ellipse,
    pick,
    polygon,
    shaded,
    stroke,
    transformed,
)

_COATS = (*PAINTS, (176, 180, 186), (58, 60, 66), (122, 36, 40), (44, 74, 62), (206, 196, 178))
_CARGO = ((226, 226, 222), (176, 180, 184), (64, 96, 150), (170, 60, 52), (200, 180, 140))
_LIVERIES = ((214, 62, 54), (236, 190, 62), (236, 234, 226), (52, 106, 172), (70, 138, 92))
_PANE = (72, 88, 102)
_HEADLIGHT = (255, 246, 214)
_TAIL = (196, 34, 36)
_TAIL_LIT = (255, 64, 48)
_INSIDE = (238, 222, 170)


@dataclass(frozen=True)
class End:
    """One end of a vehicle and what its body behind looks like.

    Attributes:
        outline: corners of the end, counterclockwise, meters.
        shapes: drawing of the end, meters.
        length: of the body, meters.
        color: of the body.
        panes: windows of the sides, as (depth, y, depth, y) of two corners.
        wheels: distances of wheels behind the end; their radius.
        lamps: what shines at the end when it is dark.
        glowing: whether the panes shine when it is dark.
    """

    outline: Points
    shapes: list[Shape]
    length: float
    color: Color
    panes: list[tuple[float, float, float, float]]
    wheels: tuple[tuple[float, ...], float]
    lamps: list[Shape] = field(default_factory=list)
    glowing: bool = False

    @property
    def half_width(self) -> float:
        return max(x for x, _ in self.outline)


def along_street(
    camera: Camera, name: str, end: End, x: float, z: float, lit: bool = True
) -> StreetPart:
    """A vehicle on the street whose end towards the camera stands at (x, z)."""
    panes, wheels = [], []
    # The camera sees a side only if it is not between the planes of both.
    if abs(x) > end.half_width:
        panes = [_on_side(camera, end, x, z, rectangle(*pane), _PANE) for pane in end.panes]
        depths, radius = end.wheels
        for depth in depths:
            for r, tone in ((radius, TIRE), (radius * 0.55, STEEL)):
                wheels.append(_on_side(camera, end, x, z, UNIT_CIRCLE * r + (depth, radius), tone))
    face = camera.standing(end.shapes, x, z)
    shapes = [*_body(camera, end, x, z), *panes, *wheels, *face]
    lamps = list(camera.standing(end.lamps, x, z)) if lit else []
    if end.glowing:
        lamps = [Shape(p.points, shaded(_INSIDE, 0.45), outlined=False) for p in panes] + lamps
    return StreetPart(IDS[name], tuple(shapes), camera.facing(z), tuple(lamps))


def _on_side(camera: Camera, end: End, x: float, z: float, points: Points, color: Color) -> Shape:
    """A detail, of corners (depth, y), on the side of the body that the camera sees."""
    sign = -1 if x > 0 else 1
    # The right half of the outline, upwards.
    edge = sorted((py, px) for px, py in end.outline if px > 0)
    heights, widths = zip(*edge, strict=True)
    u, v = np.transpose(points)
    corners = np.stack([x + sign * np.interp(v, heights, widths), v, z + u], axis=1)
    return camera.details(corners[None], color)[0]


def _body(camera: Camera, end: End, x: float, z: float) -> list[Shape]:
    """What of the body behind an end is seen: the outline drawn out to the length."""
    shapes = []
    ring = [*end.outline, end.outline[0]]
    for (x0, y0), (x1, y1) in zip(ring, ring[1:], strict=False):
        corners = [(x + x0, y0), (x + x1, y1)]
        quad = [(px, py, z) for px, py in corners]
        quad += [(px, py, z + end.length) for px, py in reversed(corners)]
        p = camera.project(quad)
        following = np.roll(p, -1, axis=0)
        area = (p[:, 0] * following[:, 1] - p[:, 1] * following[:, 0]).sum()
        if area > 0:
            level = abs(y1 - y0) < abs(x1 - x0)
            shapes.append(Shape(p, shaded(end.color, 1.1 if level else 0.8)))
    return shapes


# --- ends ---------------------------------------------------------------------------------------


def car_end(rng: np.random.Generator, rear: bool) -> End:
    paint = pick(rng, _COATS)
    tall = rng.uniform(1.4, 1.85)
    belt, wide, roof = tall * 0.58, 0.92, rng.uniform(0.62, 0.76)
    outline = [(-wide, 0.3), (wide, 0.3), (wide, belt), (roof, tall), (-roof, tall), (-wide, belt)]
    dark = shaded(paint, 0.62)
    low, high = belt + 0.02, tall - 0.1
    pane = [(-wide + 0.14, low), (wide - 0.14, low), (roof - 0.06, high), (-roof + 0.06, high)]
    shapes = [
        box(-0.84, 0, -0.58, 0.45, TIRE, outlined=False),
        box(0.58, 0, 0.84, 0.45, TIRE, outlined=False),
        polygon(outline, paint),
        polygon(pane, shaded(GLASS, 0.5) if rear else shaded(GLASS, 0.72), outlined=False),
        blob(
            [(-0.93, 0.35), (-0.95, 0.75), (-0.86, belt), (0, belt + 0.05), (0.86, belt)]
            + [(0.95, 0.75), (0.93, 0.35), (0.8, 0.22), (0, 0.19), (-0.8, 0.22)],
            paint,
        ),
        detail(box(-0.9, 0.22, 0.9, 0.4, dark)),
        detail(box(-0.26, 0.42, 0.26, 0.55, WHITE)),
    ]
    lamp = _TAIL if rear else _HEADLIGHT
    lamps = [detail(ellipse(s * 0.74, belt - 0.24, 0.16, 0.11, lamp)) for s in (-1, 1)]
    if not rear:
        shapes.append(detail(box(-0.5, 0.56, 0.5, 0.72, INK)))
    return End(
        outline=outline,
        shapes=shapes + lamps,
        length=4.0,
        color=paint,
        panes=[(0.5, low, 1.7, high), (1.85, low, 3.0, high)],
        wheels=((0.8, 3.2), 0.34),
        lamps=_lamps(lamps, rear),
    )


def _lamps(lamps: list[Shape], rear: bool) -> list[Shape]:
    tone = _TAIL_LIT if rear else _HEADLIGHT
    return [Shape(lamp.points, tone, outlined=False) for lamp in lamps]


def truck_end(rng: np.random.Generator, rear: bool) -> End:
    """The closed back of a truck, or its cab with the load towering above."""
    cargo, cab = pick(rng, _CARGO), pick(rng, _COATS)
    tall = rng.uniform(3.0, 3.6)
    outline = [(-1.25, 0.9), (1.25, 0.9), (1.25, tall), (-1.25, tall)]
    wheels = [box(s * 0.97 - 0.15, 0, s * 0.97 + 0.15, 0.95, TIRE) for s in (-1, 1)]
    under = [detail(box(-0.95, 0.45, 0.95, 0.95, (48, 48, 52))), *wheels]
    if rear:
        seam = shaded(cargo, 0.7)
        shapes = [
            *under,
            box(-1.25, 0.9, 1.25, tall, cargo),
            detail(box(-1.25, 0.9, 1.25, 1.05, (90, 92, 96))),
            *(detail(stroke([(x, 1.05), (x, tall - 0.1)], seam, 0.06)) for x in (-0.45, 0, 0.45)),
            detail(box(-1.25, tall - 0.14, 1.25, tall, seam)),
            detail(box(-1.2, 0.5, 1.2, 0.7, pick(rng, ((206, 84, 62), (150, 152, 156), WHITE)))),
        ]
        lamps = [detail(box(s * 1.02 - 0.2, 0.72, s * 1.02 + 0.2, 0.9, _TAIL)) for s in (-1, 1)]
    else:
        shapes = [
            *under,
            box(-1.25, 1.2, 1.25, tall, cargo),
            box(-1.15, 0.5, 1.15, 2.7, cab),
            polygon([(-1.02, 1.6), (1.02, 1.6), (0.98, 2.45), (-0.98, 2.45)], shaded(GLASS, 0.6)),
            detail(box(-0.7, 0.85, 0.7, 1.4, INK)),
            *(detail(box(-0.7, y, 0.7, y + 0.05, STEEL)) for y in (0.95, 1.1, 1.25)),
            detail(box(-1.15, 0.42, 1.15, 0.62, (70, 72, 76))),
            *(box(s * 1.3 - 0.12, 1.7, s * 1.3 + 0.12, 2.3, INK) for s in (-1, 1)),
        ]
        lamps = [detail(ellipse(s * 0.9, 0.75, 0.17, 0.13, _HEADLIGHT)) for s in (-1, 1)]
    return End(
        outline=outline,
        shapes=shapes + lamps,
        length=rng.uniform(6, 8),
        color=cargo,
        panes=[],
        wheels=((0.8, 1.9, 5.0), 0.5),
        lamps=_lamps(lamps, rear),
    )


def bus_end(rng: np.random.Generator, rear: bool) -> End:
    """The end of a bus: one wide pane, or a small one above the engine."""
    paint = pick(rng, _LIVERIES)
    tall = 3.0
    outline = [(-1.25, 0.35), (1.25, 0.35), (1.25, 2.8), (1.1, tall), (-1.1, tall), (-1.25, 2.8)]
    board = detail(box(-0.8, 2.52, 0.8, 2.85, (28, 28, 30)))
    text = detail(box(-0.6, 2.6, 0.55, 2.76, (250, 190, 70)))
    shapes = [
        *(box(s * 1.05 - 0.16, 0, s * 1.05 + 0.16, 0.5, TIRE) for s in (-1, 1)),
        polygon(outline, paint),
    ]
    if rear:
        shapes += [
            detail(polygon(rectangle(-0.9, 1.65, 0.9, 2.45), _PANE)),
            *(detail(box(-0.8, y, 0.8, y + 0.07, shaded(paint, 0.55))) for y in (0.75, 0.95, 1.15)),
        ]
        lamps = [detail(box(s * 1.02 - 0.13, 0.7, s * 1.02 + 0.13, 1.3, _TAIL)) for s in (-1, 1)]
    else:
        shapes += [
            detail(polygon(rectangle(-1.15, 1.05, 1.15, 2.48), _PANE)),
            detail(stroke([(0, 1.05), (0, 2.48)], shaded(paint, 0.6), 0.07)),
            *(box(s * 1.38 - 0.1, 1.8, s * 1.38 + 0.1, 2.4, INK) for s in (-1, 1)),
        ]
        lamps = [detail(ellipse(s * 0.95, 0.72, 0.18, 0.14, _HEADLIGHT)) for s in (-1, 1)]
    shapes += [board, text, detail(box(-1.25, 0.35, 1.25, 0.5, shaded(paint, 0.5)))]
    lit = [text, *_lamps(lamps, rear)]
    return End(
        outline=outline,
        shapes=shapes + lamps,
        length=rng.uniform(9, 12),
        color=paint,
        panes=[(u, 1.2, u + 1.35, 2.45) for u in np.arange(0.5, 8.3, 1.55)],
        wheels=((2.0, 7.2), 0.48),
        lamps=lit,
        glowing=True,
    )


def tram_end(rng: np.random.Generator, rear: bool) -> End:
    """The tapered nose of a tram on its rails, the collector on its roof."""
    paint, tall = pick(rng, _LIVERIES), 3.3
    skirt = shaded(paint, 0.55) if rng.random() < 0.5 else (226, 222, 208)
    outline = [(-1.2, 0.2), (1.2, 0.2), (1.2, 1.3), (1.05, tall), (-1.05, tall), (-1.2, 1.3)]
    lamp = _TAIL if rear else _HEADLIGHT
    lamps = [detail(ellipse(s * 0.5, 0.85, 0.15, 0.15, lamp)) for s in (-1, 1)]
    lamps.append(detail(ellipse(0, 3.08, 0.12, 0.1, lamp)))
    text = detail(box(-0.45, 2.72, 0.45, 2.92, (250, 190, 70)))
    shapes = [
        stroke([(-0.7, tall), (0.1, tall + 0.55), (-0.35, tall + 0.95)], (70, 72, 78), 0.1),
        stroke([(-0.9, tall + 0.98), (0.6, tall + 0.98)], (70, 72, 78), 0.1),
        polygon(outline, paint),
        detail(polygon([(-1.2, 0.2), (1.2, 0.2), (1.2, 1.15), (-1.2, 1.15)], skirt)),
        detail(polygon([(-0.95, 1.35), (0.95, 1.35), (0.82, 2.6), (-0.82, 2.6)], _PANE)),
        detail(box(-0.6, 2.68, 0.6, 2.96, (28, 28, 30))),
        text,
        detail(box(-0.85, 0.2, 0.85, 0.42, (46, 46, 50))),
        detail(box(-0.2, 0.5, 0.2, 0.66, (46, 46, 50))),
    ]
    return End(
        outline=outline,
        shapes=shapes + lamps,
        length=22.0,
        color=paint,
        panes=[(u, 1.4, u + 1.7, 2.55) for u in np.arange(0.6, 20, 2.1)],
        wheels=((), 0.0),
        lamps=[text, *_lamps(lamps, rear)],
        glowing=True,
    )


ENDS: dict[str, Callable[[np.random.Generator, bool], End]] = {
    "car": car_end,
    "truck": truck_end,
    "bus": bus_end,
    "train": tram_end,
}

# --- from the side ------------------------------------------------------------------------------


def crossing(
    camera: Camera, rng: np.random.Generator, name: str, x: float, z: float, facing: int
) -> StreetPart:
    """A vehicle across the street; `facing` is 1 to the right and -1 to the left."""
    shapes, lit = _SIDES[name](rng)
    flipped = [transformed(s, (facing, 1), (0, 0)) for s in (shapes, lit)]
    drawn, shining = (camera.standing(s, x, z) for s in flipped)
    return StreetPart(IDS[name], drawn, camera.facing(z), shining)


def _car_side(rng: np.random.Generator) -> tuple[list[Shape], list[Shape]]:
    pose = pick(rng, ("saloon", "hatchback"))
    drawn = figure("car", pose, "right", int(rng.integers(2**31)))
    shapes = list(transformed(drawn, (4.4, -4.4), (0, 0)))
    lamps = [ellipse(2.1, 0.92, 0.14, 0.12, _HEADLIGHT), ellipse(-2.1, 0.95, 0.12, 0.12, _TAIL_LIT)]
    return shapes, [detail(lamp) for lamp in lamps]


def _wheels(radius: float, *places: float) -> list[Shape]:
    return [s for x in places for s in wheel(x, radius)]


def _truck_side(rng: np.random.Generator) -> tuple[list[Shape], list[Shape]]:
    cargo, cab, tall = pick(rng, _CARGO), pick(rng, _COATS), rng.uniform(3.0, 3.5)
    seams = [stroke([(x, 1.1), (x, tall)], shaded(cargo, 0.8), 0.05) for x in (-2.4, -1.0, 0.4)]
    shapes = [
        box(-3.7, 0.6, 3.2, 0.95, (52, 52, 56)),
        box(-3.8, 0.95, 1.7, tall, cargo),
        detail(box(-3.8, 0.95, 1.7, 1.1, shaded(cargo, 0.65))),
        *map(detail, seams),
        polygon([(1.9, 0.55), (3.75, 0.55), (3.75, 1.6), (3.35, 2.75), (1.9, 2.75)], cab),
        detail(polygon([(2.35, 1.6), (3.55, 1.6), (3.22, 2.5), (2.35, 2.5)], shaded(GLASS, 0.7))),
        *_wheels(0.5, -2.9, -1.8, 2.7),
    ]
    return shapes, [detail(ellipse(3.6, 0.85, 0.14, 0.12, _HEADLIGHT))]


def _bus_side(rng: np.random.Generator) -> tuple[list[Shape], list[Shape]]:
    paint = pick(rng, _LIVERIES)
    panes = [detail(box(x, 1.25, x + 1.3, 2.4, _PANE)) for x in np.arange(-4.3, 3.2, 1.5)]
    body = [(-4.6, 0.35), (4.5, 0.35), (4.6, 1.2), (4.45, 3.0), (-4.5, 3.0), (-4.6, 2.7)]
    shapes = [
        polygon(body, paint),
        detail(box(-4.6, 0.35, 4.5, 0.55, shaded(paint, 0.55))),
        *panes,
        detail(box(3.3, 0.5, 4.1, 2.5, shaded(GLASS, 0.6))),
        *_wheels(0.48, -2.7, 2.3),
    ]
    return shapes, _shining(panes)


def _tram_side(rng: np.random.Generator) -> tuple[list[Shape], list[Shape]]:
    paint = pick(rng, _LIVERIES)
    skirt = shaded(paint, 0.55) if rng.random() < 0.5 else (226, 222, 208)
    panes = [detail(box(x, 1.4, x + 1.5, 2.55, _PANE)) for x in np.arange(-7.2, 6.6, 1.85)]
    body = [(-7.6, 0.2), (7.6, 0.2), (8.0, 1.2), (7.4, 3.3), (-7.4, 3.3), (-8.0, 1.2)]
    shapes = [
        stroke([(-0.8, 3.3), (0.4, 3.85), (-0.2, 4.25)], (70, 72, 78), 0.1),
        stroke([(-0.9, 4.28), (0.5, 4.28)], (70, 72, 78), 0.1),
        polygon(body, paint),
        detail(polygon([(-7.6, 0.2), (7.6, 0.2), (7.96, 1.15), (-7.96, 1.15)], skirt)),
        *panes,
        *(detail(box(x - 0.12, 0.25, x + 0.12, 3.25, shaded(paint, 0.45))) for x in (-2.6, 2.6)),
        *(detail(box(x - 1, 0.2, x + 1, 0.45, (46, 46, 50))) for x in (-5.2, 0.0, 5.2)),
    ]
    return shapes, _shining(panes)


def _shining(panes: list[Shape]) -> list[Shape]:
    return [Shape(pane.points, shaded(_INSIDE, 0.5), outlined=False) for pane in panes]


_SIDES: dict[str, Callable[[np.random.Generator], tuple[list[Shape], list[Shape]]]] = {
    "car": _car_side,
    "truck": _truck_side,
    "bus": _bus_side,
    "train": _tram_side,
}
