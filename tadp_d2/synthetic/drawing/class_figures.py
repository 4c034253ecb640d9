"""Drawings of the six classes, each in several poses and many colors.

Figures are composed in units of their own with x to the right, y up and the ground at y = 0,
facing right; `figure` brings them to a common size.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

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
    bounds,
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

# --- animals ------------------------------------------------------------------------------------

# Coat, darker marking, light parts.
_DOG_COATS = (
    ((176, 112, 58), (116, 66, 34), (232, 204, 166)),
    ((222, 178, 106), (176, 126, 62), (246, 228, 192)),
    ((244, 238, 228), (112, 72, 48), (250, 248, 244)),
    ((122, 74, 46), (78, 46, 30), (214, 172, 130)),
    ((66, 60, 62), (40, 36, 40), (206, 150, 92)),
)
_CAT_COATS = (
    ((236, 142, 52), (190, 98, 26), (252, 232, 206)),
    ((128, 130, 142), (84, 86, 98), (232, 232, 234)),
    ((50, 48, 56), (32, 30, 38), (92, 90, 98)),
    ((246, 242, 236), (232, 160, 84), (255, 252, 248)),
    ((196, 160, 122), (118, 86, 60), (248, 236, 218)),
)
_BIRD_PLUMAGES = (
    ((66, 132, 214), (38, 84, 158), (246, 208, 150)),
    ((214, 60, 52), (148, 34, 38), (246, 190, 150)),
    ((250, 206, 62), (214, 146, 30), (254, 240, 190)),
    ((60, 62, 76), (34, 36, 48), (236, 238, 242)),
    ((240, 244, 248), (150, 160, 178), (255, 255, 255)),
)
_COLLARS = ((206, 44, 48), (38, 92, 186), (246, 190, 40), (126, 62, 160))


def _leg(hip: tuple, knee: tuple, foot: tuple, color: Color, width: float, paw: Color) -> list:
    return [
        curve([hip, knee, foot], color, width),
        ellipse(foot[0] + width * 0.25, foot[1] - width * 0.1, width * 0.72, width * 0.42, paw),
    ]


def _dog_head(x: float, y: float, coat: Color, dark: Color, light: Color) -> list[Shape]:
    """A dog's head in profile, centerd at (x, y)."""
    return [
        ellipse(x, y, 15, 13.5, coat),
        blob(
            [(x + 6, y + 4), (x + 20, y + 1), (x + 28, y - 3), (x + 27, y - 10), (x + 6, y - 12)],
            light,
        ),
        ellipse(x + 27, y - 2, 4.2, 3.6, INK, outlined=False),
        detail(curve([(x + 26, y - 8), (x + 18, y - 9), (x + 12, y - 7)], INK, 1.3)),
        detail(ellipse(x + 7, y + 4.5, 2.6, 3, INK)),
        detail(ellipse(x + 7.8, y + 5.6, 0.9, 0.9, WHITE)),
        blob(
            [(x - 4, y + 12), (x - 12, y + 10), (x - 17, y - 6), (x - 11, y - 17), (x - 3, y - 4)],
            dark,
        ),
    ]


def _dog_standing(rng: np.random.Generator) -> list[Shape]:
    coat, dark, light = pick(rng, _DOG_COATS)
    far = shaded(coat, 0.78)
    step, legs = rng.uniform(-5, 5), rng.uniform(30, 40)
    lift = legs - 36
    back = [
        (10, 42),
        (10, 58),
        (26, 64),
        (50, 61),
        (72, 65),
        (84, 54),
        (78, 39),
        (52, 35),
        (28, 38),
    ]
    shapes = _leg((26, 46 + lift), (20 - step, 24), (24 - step, 4), far, 9, far)
    shapes += _leg((72, 46 + lift), (74 + step, 24), (72 + step, 4), far, 9, far)
    shapes.append(
        curve([(14, 56 + lift), (0, 62 + lift), (-8, 76 + lift), (-4, 86 + lift)], dark, 6.5)
    )
    shapes += _leg((20, 46 + lift), (14 + step, 25), (17 + step, 4), coat, 10.5, light)
    shapes += _leg((76, 46 + lift), (80 - step, 24), (80 - step, 4), coat, 10.5, light)
    shapes.append(
        blob(
            [(74, 52 + lift), (70, 66 + lift), (82, 86 + lift), (96, 78 + lift), (88, 54 + lift)],
            coat,
        )
    )
    shapes.append(blob([(x, y + lift) for x, y in back], coat))
    if rng.random() < 0.5:
        shapes.append(detail(ellipse(44, 54 + lift, 13, 8, dark, turn=-8)))
    shapes.append(
        curve(
            [(74, 68 + lift), (82, 62 + lift), (91, 61 + lift)],
            pick(rng, _COLLARS),
            4.5,
            outlined=False,
        )
    )
    return shapes + _dog_head(88, 82 + lift, coat, dark, light)


def _dog_sitting(rng: np.random.Generator) -> list[Shape]:
    coat, dark, light = pick(rng, _DOG_COATS)
    far = shaded(coat, 0.78)
    shapes = [curve([(12, 8), (-4, 12), (-14, 24), (-12, 34)], dark, 6.5)]
    shapes += _leg((48, 46), (52, 24), (52, 4), far, 9, far)
    shapes += [
        blob([(6, 4), (6, 26), (22, 46), (34, 66), (52, 70), (60, 50), (52, 22), (44, 4)], coat),
        blob([(50, 64), (60, 50), (56, 30), (47, 34), (46, 52)], light, outlined=False),
        ellipse(22, 19, 18, 16, coat),
        ellipse(32, 4.5, 11, 4.5, light),
    ]
    shapes += _leg((44, 44), (46, 24), (46, 4), coat, 9.5, light)
    if rng.random() < 0.5:
        shapes.append(detail(ellipse(28, 42, 9, 7, dark, turn=50)))
    shapes.append(curve([(34, 70), (44, 65), (56, 66)], pick(rng, _COLLARS), 5, outlined=False))
    return shapes + _dog_head(48, 84, coat, dark, light)


def _cat_head(x: float, y: float, coat: Color, dark: Color, light: Color) -> list[Shape]:
    """A cat's face towards the viewer, centerd at (x, y)."""
    shapes = []
    for side in (-1, 1):
        ear = [(x + side * 4, y + 11), (x + side * 15, y + 25), (x + side * 16.5, y + 5)]
        inner = [(x + side * 7.5, y + 11), (x + side * 13.5, y + 19.5), (x + side * 14, y + 8)]
        shapes += [polygon(ear, coat), detail(polygon(inner, (238, 160, 158)))]
    shapes += [
        ellipse(x, y, 18, 15, coat),
        detail(ellipse(x, y - 7, 9.5, 6.2, light)),
        *(detail(stroke([(x + d, y + 14), (x + d, y + 8)], dark, 2.2)) for d in (-4, 0, 4)),
    ]
    for side in (-1, 1):
        shapes += [
            detail(ellipse(x + side * 7.5, y + 1.5, 3.9, 4.4, (176, 222, 92))),
            detail(ellipse(x + side * 7.5, y + 1.5, 1.6, 3.9, INK)),
            detail(stroke([(x + side * 8, y - 6), (x + side * 24, y - 3)], light, 0.9)),
            detail(stroke([(x + side * 8, y - 8), (x + side * 23, y - 10)], light, 0.9)),
        ]
    nose = [(x - 2.6, y - 4), (x + 2.6, y - 4), (x, y - 7)]
    return [*shapes, detail(polygon(nose, (226, 108, 112)))]


def _cat_sitting(rng: np.random.Generator) -> list[Shape]:
    coat, dark, light = pick(rng, _CAT_COATS)
    curl = rng.uniform(-6, 6)
    tail = [(16, 7), (34, 6), (46, 12), (50 + curl, 28), (42 + curl, 36)]
    shapes = [
        curve(tail, coat, 7.5),
        detail(curve([(49 + curl, 27), (46 + curl, 34), (42 + curl, 36)], dark, 7)),
        blob(
            [
                (-22, 3),
                (-25, 20),
                (-15, 42),
                (-9, 58),
                (9, 58),
                (15, 42),
                (25, 20),
                (22, 3),
                (0, 0),
            ],
            coat,
        ),
        blob([(-9, 50), (-11, 30), (0, 20), (11, 30), (9, 50)], light, outlined=False),
        *(
            detail(stroke([(s * 23, y), (s * 13, y + 2)], dark, 3))
            for s in (-1, 1)
            for y in (18, 27)
        ),
        curve([(-6, 34), (-7, 18), (-7, 5)], coat, 8.5),
        curve([(6, 34), (7, 18), (7, 5)], coat, 8.5),
        ellipse(-8, 4, 7, 4.2, light),
        ellipse(8, 4, 7, 4.2, light),
    ]
    return shapes + _cat_head(0, 66, coat, dark, light)


def _cat_walking(rng: np.random.Generator) -> list[Shape]:
    coat, dark, light = pick(rng, _CAT_COATS)
    far = shaded(coat, 0.78)
    step = rng.uniform(3, 8)
    sway = rng.uniform(-6, 6)
    tail = [(14, 44), (2, 54), (-4 + sway, 72), (2 + sway, 88), (10 + sway, 90)]
    shapes = _leg((24, 36), (20 + step, 20), (24 + step, 4), far, 7.5, far)
    shapes += _leg((70, 36), (72 - step, 20), (72 - step, 4), far, 7.5, far)
    shapes += [
        curve(tail, coat, 7),
        detail(curve(tail[-2:], dark, 6.5)),
    ]
    shapes += _leg((22, 36), (15 - step, 20), (18 - step, 4), coat, 8.5, light)
    shapes += _leg((74, 36), (77 + step, 20), (77 + step, 4), coat, 8.5, light)
    shapes.append(
        blob(
            [
                (10, 36),
                (12, 48),
                (28, 52),
                (54, 49),
                (76, 52),
                (86, 42),
                (78, 28),
                (50, 25),
                (24, 27),
            ],
            coat,
        )
    )
    shapes += [detail(curve([(x, 49), (x + 2, 43), (x, 37)], dark, 3.2)) for x in (28, 38, 48, 58)]
    return shapes + _cat_head(84, 60, coat, dark, light)


def _bird_perched(rng: np.random.Generator) -> list[Shape]:
    plumage, dark, belly = pick(rng, _BIRD_PLUMAGES)
    beak = (244, 152, 38)
    tilt = rng.uniform(-4, 6)
    legs = [
        stroke([(x, 20), (x + 1, 2), (x + 8, 1)], (206, 116, 44), 2.6, outlined=False)
        for x in (30, 40)
    ]
    return [
        *legs,
        polygon([(12, 40), (-26, 40 - tilt), (-24, 27 - tilt), (14, 26)], dark),
        blob(
            [(4, 34), (18, 50), (42, 66), (60, 60), (64, 44), (52, 22), (30, 14), (14, 20)], plumage
        ),
        blob([(62, 46), (50, 42), (34, 24), (32, 15), (48, 20), (60, 34)], belly, outlined=False),
        polygon([(66, 74), (84, 67), (66, 62)], beak),
        ellipse(56, 67, 15, 14, plumage),
        detail(ellipse(61, 70, 3.2, 3.4, INK)),
        detail(ellipse(62, 71.3, 1.1, 1.1, WHITE)),
        blob([(46, 50), (26, 50), (0, 30), (14, 24), (38, 26)], dark),
        detail(curve([(38, 40), (22, 36), (10, 29)], plumage, 2.2)),
    ]


def _bird_flying(rng: np.random.Generator) -> list[Shape]:
    plumage, dark, belly = pick(rng, _BIRD_PLUMAGES)
    beat = rng.uniform(0.8, 1.1)
    far_wing = [(40, 8), (56, 30), (66, 58), (46, 50), (26, 28), (24, 8)]
    wing = [(46, 6), (36, 34), (10, 66), (2, 56), (8, 34), (18, 8)]
    return [
        blob([(x, y * beat) for x, y in far_wing], shaded(dark, 0.85)),
        polygon([(10, 4), (-26, 12), (-30, 2), (-24, -6), (8, -8)], dark),
        blob([(-2, 0), (20, 10), (48, 11), (64, 4), (58, -9), (34, -15), (12, -11)], plumage),
        blob([(62, -2), (40, -4), (16, -9), (34, -15), (54, -10)], belly, outlined=False),
        polygon([(76, 12), (92, 6), (76, 1)], (244, 152, 38)),
        ellipse(67, 7, 13, 11.5, plumage),
        detail(ellipse(71, 10, 2.8, 3, INK)),
        blob([(x, y * beat) for x, y in wing], dark),
        detail(curve([(34, 10), (22, 32 * beat), (10, 50 * beat)], plumage, 3)),
        detail(curve([(26, 9), (16, 26 * beat), (9, 38 * beat)], plumage, 2.4)),
    ]


# --- vehicles -----------------------------------------------------------------------------------

PAINTS = (
    (204, 42, 44),
    (36, 96, 190),
    (246, 190, 44),
    (240, 240, 240),
    (36, 148, 158),
    (238, 118, 40),
    (74, 78, 92),
    (132, 62, 150),
)


def wheel(x: float, radius: float) -> list[Shape]:
    """A car's wheel that stands on the ground."""
    return [
        ellipse(x, radius, radius, radius, TIRE),
        ellipse(x, radius, radius * 0.62, radius * 0.62, STEEL, outlined=False),
        detail(ellipse(x, radius, radius * 0.22, radius * 0.22, (90, 92, 100))),
    ]


def _car(rng: np.random.Generator, roof: Points, windows: Sequence[Points], body: Points) -> list:
    paint = pick(rng, PAINTS)
    lower = shaded(paint, 0.72)
    shapes = [
        polygon(roof, paint),
        *(polygon(w, GLASS, outlined=False) for w in windows),
        *(
            detail(polygon([w[0], w[1], (w[1][0] * 0.6 + w[0][0] * 0.4, w[1][1])], WHITE))
            for w in windows
        ),
        blob(body, paint),
        detail(box(10, 13, 150, 17, lower)),
        detail(stroke([(80, 46), (80, 19)], lower, 1.8)),
        detail(stroke([(87, 40), (96, 40)], shaded(paint, 0.45), 2.6)),
        detail(ellipse(153, 34, 4, 5, (255, 240, 170))),
        detail(ellipse(5, 36, 3.2, 5, (226, 40, 40))),
        ellipse(36, 17, 19.5, 19, (30, 30, 36), outlined=False),
        ellipse(122, 17, 19.5, 19, (30, 30, 36), outlined=False),
    ]
    return shapes + wheel(36, 16) + wheel(122, 16)


def _saloon(rng: np.random.Generator) -> list[Shape]:
    roof = [(26, 44), (46, 68), (52, 71), (96, 71), (102, 68), (124, 44)]
    windows = [[(36, 46), (51, 65), (74, 65), (74, 46)], [(80, 46), (80, 65), (97, 65), (114, 46)]]
    body = [
        (2, 20),
        (1, 36),
        (8, 46),
        (40, 48),
        (110, 48),
        (140, 43),
        (155, 36),
        (158, 22),
        (150, 12),
        (80, 11),
        (10, 12),
    ]
    return _car(rng, roof, windows, body)


def _hatchback(rng: np.random.Generator) -> list[Shape]:
    roof = [(8, 46), (16, 74), (24, 79), (90, 79), (98, 75), (128, 46)]
    windows = [[(18, 49), (25, 72), (70, 72), (70, 49)], [(78, 49), (78, 72), (93, 72), (117, 49)]]
    body = [
        (2, 20),
        (1, 38),
        (6, 49),
        (40, 50),
        (112, 50),
        (144, 44),
        (156, 36),
        (158, 22),
        (150, 12),
        (80, 11),
        (10, 12),
    ]
    return _car(rng, roof, windows, body)


def bicycle(rng: np.random.Generator) -> list[Shape]:
    """A bicycle: saddle at (51, 80), hand grip at (118, 80), crank at (66, 30)."""
    paint = pick(rng, PAINTS[:3] + PAINTS[4:])
    phase = rng.uniform(0, np.pi)
    rear, front, crank = (30, 30), (118, 30), (66, 30)
    seat, head = (54, 66), (104, 70)
    shapes = []
    for x, y in (rear, front):
        for spoke in range(6):
            a = phase + spoke * np.pi / 6
            dx, dy = 26 * np.cos(a), 26 * np.sin(a)
            shapes.append(detail(stroke([(x - dx, y - dy), (x + dx, y + dy)], STEEL, 0.9)))
        rim = np.concatenate([UNIT_CIRCLE, UNIT_CIRCLE[:2]])
        shapes += [
            Shape(rim * 27.5 + (x, y), TIRE, 5.0),
            detail(Shape(rim * 24 + (x, y), STEEL, 1.6)),
            ellipse(x, y, 3.4, 3.4, STEEL, outlined=False),
        ]
    tubes = [(rear, crank), (rear, seat), (crank, seat), (seat, head), (crank, head), (front, head)]
    shapes += [stroke(tube, paint, 5.2) for tube in tubes]
    a = phase * 2
    foot, other = (
        (66 + 13 * np.cos(a), 30 + 13 * np.sin(a)),
        (66 - 13 * np.cos(a), 30 - 13 * np.sin(a)),
    )
    shapes += [
        stroke([seat, (51, 76)], INK, 4),
        blob([(36, 78), (42, 84), (66, 80), (66, 76), (46, 74)], INK),
        stroke([head, (101, 84)], STEEL, 4),
        curve([(101, 84), (112, 90), (122, 84), (118, 77)], INK, 4.6),
        ellipse(66, 30, 9, 9, STEEL),
        stroke([foot, other], INK, 3.2),
        *(stroke([(x - 6, y), (x + 6, y)], INK, 4.2) for x, y in (foot, other)),
    ]
    if rng.random() < 0.4:
        shapes.append(polygon([(108, 78), (132, 78), (128, 60), (112, 60)], (196, 146, 84)))
    return shapes


# --- people -------------------------------------------------------------------------------------

SKINS = ((248, 210, 178), (228, 178, 138), (184, 126, 86), (128, 82, 56), (92, 58, 42))
_HAIRS = ((44, 32, 30), (104, 64, 36), (216, 170, 84), (168, 78, 36), (196, 194, 196))
TOPS = (
    (214, 56, 60),
    (46, 104, 196),
    (250, 196, 62),
    (240, 122, 54),
    (136, 72, 160),
    (246, 244, 238),
    (232, 118, 156),
)
BOTTOMS = ((48, 62, 104), (70, 66, 74), (116, 82, 58), (142, 152, 170), (40, 38, 46))


def head(rng: np.random.Generator, x: float, y: float, skin: Color) -> list[Shape]:
    """A person's head turned a little to the right, with one of four hair styles or hats."""
    hair, style = pick(rng, _HAIRS), int(rng.integers(4))
    long_hair = [(x - 12, y + 4), (x - 14, y - 14), (x - 5, y - 18), (x + 8, y - 15), (x + 11, y)]
    shapes = [blob(long_hair, hair)] if style == 1 else []
    shapes += [
        ellipse(x, y, 11, 12.5, skin),
        blob(
            [
                (x - 11.5, y - 2),
                (x - 12, y + 9),
                (x - 3, y + 15.5),
                (x + 8, y + 13),
                (x + 11.5, y + 4),
                (x + 3, y + 7),
                (x - 5, y + 5),
            ],
            hair,
        ),
        detail(ellipse(x + 2, y + 0.5, 1.5, 1.9, INK)),
        detail(ellipse(x + 8, y + 0.5, 1.5, 1.9, INK)),
        detail(curve([(x + 1.5, y - 5.5), (x + 5, y - 7), (x + 8, y - 5.5)], (166, 60, 60), 1.4)),
    ]
    if style == 2:
        shapes.append(ellipse(x - 4, y + 17, 6, 5.5, hair))
    if style == 3:
        cap = pick(rng, TOPS)
        shapes += [
            blob([(x - 12, y + 5), (x - 9, y + 15), (x + 3, y + 17), (x + 11, y + 6)], cap),
            stroke([(x - 2, y + 5.5), (x + 18, y + 5)], shaded(cap, 0.75), 3.2),
        ]
    return shapes


def arm(shoulder: tuple, elbow: tuple, hand: tuple, sleeve: Color, skin: Color) -> list[Shape]:
    """An arm with a short sleeve and a hand."""
    return [
        curve([shoulder, elbow, hand], skin, 6.6),
        stroke([shoulder, elbow], sleeve, 8.8),
        ellipse(hand[0], hand[1], 4.2, 4.2, skin),
    ]


def _person(rng: np.random.Generator, stride: float, arms: Sequence[tuple[Points, float]]) -> list:
    """A person with the feet `stride` units from the middle.

    Args:
        rng: for the choice of clothes, skin and hair.
        stride: half the distance of the feet.
        arms: far and near arm as (elbow, hand) from the shoulder.
    """
    skin, top, bottom = pick(rng, SKINS), pick(rng, TOPS), pick(rng, BOTTOMS)
    shoe = pick(rng, (INK, (150, 60, 48), WHITE))
    dress = rng.random() < 0.35
    leg = skin if dress else bottom
    shapes = arm((-9, 102), *_reach((-9, 102), arms[0]), shaded(top, 0.8), shaded(skin, 0.85))
    for x, tone in ((-stride, shaded(leg, 0.8)), (stride, leg)):
        hip = 4.5 if x > 0 else -4.5
        knee = (hip + (x - hip) * 0.45 + 1.5, 32)
        shapes.append(curve([(hip, 60), knee, (x, 6)], tone, 7 if dress else 10))
        shapes.append(blob([(x - 5, 1), (x - 5, 8), (x + 3, 8), (x + 11, 3), (x + 10, 0)], shoe))
    shapes.append(stroke([(0, 116), (0, 104)], shaded(skin, 0.88), 7.5, outlined=False))
    if dress:
        hem = 14 + stride * 0.6
        shapes.append(
            polygon([(-11, 107), (11, 107), (9, 82), (hem, 38), (-hem, 38), (-9, 82)], top)
        )
    else:
        shapes += [
            box(-10.5, 54, 10.5, 70, bottom),
            blob(
                [
                    (-6, 109),
                    (-13, 104),
                    (-11.5, 84),
                    (-11.5, 64),
                    (0, 62),
                    (11.5, 64),
                    (11.5, 84),
                    (13, 104),
                    (6, 109),
                ],
                top,
            ),
        ]
    shapes += head(rng, 1, 124, skin)
    return shapes + arm((9, 102), *_reach((9, 102), arms[1]), shaded(top, 0.9), skin)


def _reach(shoulder: tuple[float, float], offsets: Points) -> list[tuple[float, float]]:
    return [(shoulder[0] + dx, shoulder[1] + dy) for dx, dy in offsets]


def _person_standing(rng: np.random.Generator) -> list[Shape]:
    return _person(rng, 9, [[(-10, -20), (-10, -45)], [(10, -20), (11, -45)]])


def _person_waving(rng: np.random.Generator) -> list[Shape]:
    lift = rng.uniform(30, 44)
    return _person(rng, 10, [[(-14, -19), (-5, -38)], [(18, 6), (25, lift)]])


def _person_walking(rng: np.random.Generator) -> list[Shape]:
    swing = rng.uniform(16, 21)
    return _person(rng, swing, [[(14, -19), (34, -32)], [(-15, -19), (-20, -42)]])


_FIGURES: dict[str, dict[str, Callable[[np.random.Generator], list[Shape]]]] = {
    "bicycle": {"parked": bicycle},
    "bird": {"perched": _bird_perched, "flying": _bird_flying},
    "car": {"saloon": _saloon, "hatchback": _hatchback},
    "cat": {"sitting": _cat_sitting, "walking": _cat_walking},
    "dog": {"standing": _dog_standing, "sitting": _dog_sitting},
    "person": {
        "standing": _person_standing,
        "waving": _person_waving,
        "walking": _person_walking,
    },
}
CLASSES = tuple(_FIGURES)
POSES = {name: tuple(poses) for name, poses in _FIGURES.items()}


@lru_cache(maxsize=64)
def figure(name: str, pose: str, facing: str, variation: int) -> tuple[Shape, ...]:
    """The drawing of an object whose longest side is 1.

    Args:
        name: one of `CLASSES`.
        pose: one of `POSES[name]`.
        facing: "left" or "right".
        variation: seed of colors and proportions.

    Returns:
        Shapes with y down, whose lowest point is at y = 0 and whose middle is at x = 0.
    """
    shapes = _FIGURES[name][pose](np.random.default_rng(variation))
    left, low, right, high = bounds(shapes)
    scale = 1 / max(right - left, high - low)
    mirror = scale if facing == "right" else -scale
    return transformed(shapes, (mirror, -scale), (-mirror * (left + right) / 2, scale * low))
