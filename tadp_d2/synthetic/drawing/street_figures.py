"""Drawings of people, riders, their two-wheelers, and of poles with what they carry."""

from dataclasses import dataclass

import numpy as np

from tadp_d2.data.datasets.cityscapes_categories import IDS
from tadp_d2.synthetic.drawing.class_figures import (
    BOTTOMS,
    PAINTS,
    SKINS,
    TOPS,
    arm,
    bicycle,
    figure,
    head,
)
from tadp_d2.synthetic.drawing.perspective import Camera, StreetPart
from tadp_d2.synthetic.drawing.shapes import (
    INK,
    STEEL,
    TIRE,
    WHITE,
    Color,
    Shape,
    blob,
    box,
    curve,
    detail,
    ellipse,
    pick,
    polygon,
    shaded,
    stroke,
    transformed,
)

# Meters per unit in which `class_figures` draws people and bicycles.
_UNIT = 1 / 80
_POLE = (104, 108, 110)


def person(camera: Camera, rng: np.random.Generator, x: float, z: float) -> StreetPart:
    """A pedestrian, 1.6 to 1.85 m tall."""
    pose = pick(rng, ("standing", "walking", "walking"))
    facing, tall = pick(rng, ("left", "right")), rng.uniform(1.6, 1.85)
    drawn = figure("person", pose, facing, int(rng.integers(2**31)))
    meters = transformed(drawn, (tall, -tall), (0, 0))
    return StreetPart(IDS["person"], camera.standing(meters, x, z), camera.facing(z))


# --- two-wheelers -------------------------------------------------------------------------------


def two_wheeler(
    camera: Camera, rng: np.random.Generator, name: str, ridden: bool, x: float, z: float
) -> list[StreetPart]:
    """A bicycle or motorcycle, and its rider.

    Args:
        camera: that sees it.
        rng: for colors, and how far it is turned away from its side view.
        name: "bicycle" or "motorcycle".
        ridden: whether somebody rides it.
        x, z: where it is.
    """
    machine = bicycle(rng) if name == "bicycle" else _motorcycle(rng)
    turn = rng.uniform(0.6, 1.0) * pick(rng, (-1, 1))

    def placed(shapes: list[Shape]) -> tuple[Shape, ...]:
        meters = transformed(shapes, (_UNIT * turn, _UNIT), (-75 * _UNIT * turn, 0))
        return camera.standing(meters, x, z)

    lit = ()
    if name == "motorcycle" and ridden:
        lit = (ellipse(152, 76, 6, 7, (255, 246, 214)), ellipse(2, 66, 4, 4, (255, 64, 48)))
    parts = [
        StreetPart(IDS[name], placed(machine), camera.facing(z), placed([detail(s) for s in lit]))
    ]
    if ridden:
        parts.append(StreetPart(IDS["rider"], placed(_rider(rng, name)), camera.facing(z)))
    return parts


def _motorcycle(rng: np.random.Generator) -> list[Shape]:
    """A motorcycle that faces right: saddle at (60, 66), hand grip at (122, 90)."""
    paint = pick(rng, PAINTS)
    shapes: list[Shape] = []
    for x in (28, 142):
        shapes += [
            ellipse(x, 27, 28, 28, TIRE),
            ellipse(x, 27, 17, 17, STEEL, outlined=False),
            detail(ellipse(x, 27, 12, 12, (88, 90, 98))),
            detail(ellipse(x, 27, 4, 4, STEEL)),
        ]
    return [
        *shapes,
        stroke([(142, 27), (124, 82)], STEEL, 6),
        blob([(50, 22), (54, 50), (82, 54), (100, 46), (98, 22), (76, 15)], (74, 76, 84)),
        *(detail(stroke([(58, y), (94, y)], (128, 130, 138), 2.4)) for y in (28, 34, 40)),
        stroke([(28, 27), (62, 34)], (60, 62, 68), 7),
        curve([(92, 22), (60, 14), (10, 22)], STEEL, 8),
        blob([(2, 60), (8, 70), (40, 68), (66, 62), (62, 54), (30, 54)], INK),
        blob([(62, 56), (68, 76), (92, 82), (114, 74), (112, 56), (86, 50)], paint),
        blob([(0, 62), (4, 70), (20, 62), (26, 54), (12, 52)], paint),
        blob([(118, 40), (122, 56), (146, 62), (166, 48), (150, 52), (134, 52)], paint),
        stroke([(118, 86), (124, 92)], INK, 5),
        blob([(124, 66), (126, 88), (142, 90), (154, 80), (148, 66)], paint),
        ellipse(151, 76, 6, 7, (230, 230, 214), outlined=False),
        detail(ellipse(2, 66, 4, 4, (196, 34, 36))),
    ]


def _rider(rng: np.random.Generator, name: str) -> list[Shape]:
    """Somebody in the saddle; a motorcyclist with a helmet."""
    skin, top, trousers = pick(rng, SKINS), pick(rng, TOPS), pick(rng, BOTTOMS)
    if name == "bicycle":
        hip, shoulder, hand, feet = (48, 86), (76, 132), (116, 84), ((60, 38), (76, 20))
    else:
        hip, shoulder, hand, feet = (54, 74), (70, 122), (118, 92), ((92, 28), (88, 24))
    knees = [((hip[0] + foot[0]) / 2 + 26, (hip[1] + foot[1]) / 2 + 14) for foot in feet]
    elbow = ((shoulder[0] + hand[0]) / 2 - 3, (shoulder[1] + hand[1]) / 2 - 8)
    shoe = pick(rng, (INK, (120, 60, 48), WHITE))
    shapes = arm(shoulder, elbow, hand, shaded(top, 0.75), shaded(skin, 0.8))
    for knee, foot, tone in zip(knees, feet, (shaded(trousers, 0.72), trousers), strict=True):
        shapes.append(curve([hip, knee, foot], tone, 12))
        shapes.append(ellipse(foot[0] + 5, foot[1] - 2, 9, 5, shoe))
    back = [(hip[0] - 11, hip[1] - 4), (hip[0] - 6, hip[1] + 26), (shoulder[0] - 13, shoulder[1])]
    front = [(shoulder[0] - 2, shoulder[1] + 9), (shoulder[0] + 9, shoulder[1] - 6)]
    belly = [(hip[0] + 18, hip[1] + 18), (hip[0] + 13, hip[1] - 5)]
    shapes.append(blob([*back, *front, *belly], top))
    face = (shoulder[0] + 9, shoulder[1] + 22)
    shapes += head(rng, *face, skin)
    if name == "motorcycle" or rng.random() < 0.4:
        shapes += _helmet(rng, *face, closed=name == "motorcycle")
    return shapes + arm(shoulder, elbow, hand, shaded(top, 0.9), skin)


def _helmet(rng: np.random.Generator, x: float, y: float, closed: bool) -> list[Shape]:
    shell = pick(rng, PAINTS)
    if not closed:
        rim = [
            (x - 15, y + 4),
            (x - 12, y + 15),
            (x + 1, y + 19),
            (x + 14, y + 12),
            (x + 16, y + 4),
        ]
        return [blob(rim, shell)]
    visor = [(x + 3, y - 4), (x + 3, y + 6), (x + 15, y + 5), (x + 15, y - 4)]
    return [ellipse(x, y + 1, 16, 17, shell), detail(polygon(visor, INK))]


# --- poles --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lamp:
    """Where a street lamp shines: meters, and its color as factors of red, green and blue."""

    position: tuple[float, float, float]
    color: tuple[float, float, float]


def lamp_post(
    camera: Camera, x: float, z: float, height: float, thickness: float, tone: Color
) -> tuple[StreetPart, tuple[float, float, float]]:
    """A street lamp whose arm reaches over the road, and where its light is."""
    reach = -1.3 if x > 0 else 1.3
    shapes = [
        stroke([(0, thickness / 2), (0, height)], tone, thickness),
        box(-thickness, 0, thickness, 0.7, shaded(tone, 0.8)),
        stroke([(0, height), (reach, height + 0.15)], tone, thickness * 0.8),
    ]
    bulb = box(reach - 0.45, height - 0.05, reach + 0.45, height + 0.28, (206, 202, 190))
    lit = detail(box(reach - 0.42, height - 0.02, reach + 0.42, height + 0.2, (255, 232, 180)))
    part = StreetPart(
        IDS["pole"],
        camera.standing([*shapes, bulb], x, z),
        camera.facing(z),
        camera.standing([lit], x, z),
    )
    return part, (x + reach, height, z)


def post(camera: Camera, x: float, z: float, height: float, thickness: float) -> StreetPart:
    """A plain pole."""
    shapes = [stroke([(0, thickness / 2), (0, height)], _POLE, thickness)]
    return StreetPart(IDS["pole"], camera.standing(shapes, x, z), camera.facing(z))


def traffic_light(
    camera: Camera, rng: np.random.Generator, x: float, z: float, thickness: float
) -> list[StreetPart]:
    """A traffic light on its pole, one of its three lenses on."""
    low, on = rng.uniform(2.3, 2.9), int(rng.integers(3))
    shapes = [box(-0.29, low, 0.29, low + 1.45, (40, 44, 42))]
    if rng.random() < 0.4:
        shapes.insert(0, box(-0.4, low - 0.1, 0.4, low + 1.55, (236, 234, 226)))
    lit = []
    for lens, tone in enumerate(((226, 52, 42), (240, 176, 48), (60, 200, 120))):
        y = low + 1.2 - 0.47 * lens
        bright = tone if lens == on else shaded(tone, 0.3)
        shapes.append(detail(ellipse(0, y, 0.19, 0.19, bright)))
        if lens == on:
            lit.append(detail(ellipse(0, y, 0.19, 0.19, shaded(tone, 1.2))))
    head_part = StreetPart(
        IDS["traffic light"],
        camera.standing(shapes, x, z),
        camera.facing(z),
        camera.standing(lit, x, z),
    )
    return [post(camera, x, z, low + 0.6, thickness), head_part]


def traffic_sign(
    camera: Camera, rng: np.random.Generator, x: float, z: float, thickness: float
) -> list[StreetPart]:
    """One of five signs on a pole."""
    y, r = rng.uniform(2.3, 2.9), rng.uniform(0.42, 0.52)
    red, blue = (204, 40, 44), (38, 88, 176)
    triangle = np.array([(0, 1.1), (-1.05, -0.75), (1.05, -0.75)])
    diamond = np.array([(0, 1.15), (-1.15, 0), (0, -1.15), (1.15, 0)])
    arrow = np.array([(-0.5, 0.1), (0.5, 0.1), (0, 0.7)])
    kinds = {
        "limit": [
            ellipse(0, y, r, r, red, round=False),
            detail(ellipse(0, y, r * 0.74, r * 0.74, WHITE)),
            detail(box(-r * 0.4, y - r * 0.3, -r * 0.08, y + r * 0.3, INK)),
            detail(box(r * 0.08, y - r * 0.3, r * 0.4, y + r * 0.3, INK)),
        ],
        "warning": [
            polygon(triangle * r + (0, y), red),
            detail(polygon(triangle * r * 0.62 + (0, y - 0.02), WHITE)),
            detail(box(-r * 0.08, y - r * 0.3, r * 0.08, y + r * 0.25, INK)),
        ],
        "priority": [
            polygon(diamond * r + (0, y), WHITE),
            detail(polygon(diamond * r * 0.72 + (0, y), (246, 196, 50))),
        ],
        "direction": [
            ellipse(0, y, r, r, blue, round=False),
            detail(box(-r * 0.12, y - r * 0.6, r * 0.12, y + r * 0.2, WHITE)),
            detail(polygon(arrow * r + (0, y), WHITE)),
        ],
        "parking": [
            box(-r * 0.95, y - r * 0.95, r * 0.95, y + r * 0.95, blue),
            detail(box(-r * 0.4, y - r * 0.6, -r * 0.1, y + r * 0.6, WHITE)),
            detail(box(-r * 0.4, y, r * 0.45, y + r * 0.6, WHITE)),
        ],
    }
    shapes = camera.standing(kinds[pick(rng, tuple(kinds))], x, z)
    sign = StreetPart(IDS["traffic sign"], shapes, camera.facing(z))
    return [post(camera, x, z, y, thickness), sign]
