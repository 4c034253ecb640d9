"""Vector drawings: shapes, the six classes, the backdrops, and turning shapes into pixels.

A drawing is a list of `Shape`s, far to near. It says what has which colour where; how a fill, an
edge or a shadow looks is the business of a style, which hands its own `Pen` to `rasterise`. What
a scene holds is decided elsewhere.

Figures are composed in units of their own with x to the right, y up and the ground at y = 0,
facing right; `figure` brings them to a common size. Backdrops are composed in pixels.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

SUPERSAMPLING = 3

INK: Colour = (38, 34, 40)
TYRE: Colour = (44, 44, 50)
STEEL: Colour = (186, 190, 198)
GLASS: Colour = (176, 214, 232)
WHITE: Colour = (248, 246, 240)


@dataclass(frozen=True)
class Shape:
    """One polygon or one stroke.

    Attributes:
        points: N x 2, the corners of a polygon or the course of a stroke.
        colour: RGB, 0 to 255, before a style changes it.
        width: of the stroke, in the units of `points`; 0 for a filled polygon.
        outlined: whether styles with outlines draw one; small details go without.
        round: whether the form bulges towards the viewer. Only for shapes that contain every
            copy of themselves shrunk towards their centre.
    """

    points: np.ndarray
    colour: Colour
    width: float = 0.0
    outlined: bool = True
    round: bool = False


@dataclass(frozen=True)
class Backdrop:
    """What stands behind the objects of a scene, in pixels.

    Attributes:
        sky: colours of the sky at the top and at the skyline.
        ground: colours of the ground far away and near.
        skyline: y at which the sky ends.
        horizon: y at which ground to stand on begins.
        roughness: how coarse the ground is, 0 (asphalt) to 1 (grass).
        shapes: everything else, far to near.
    """

    sky: tuple[Colour, Colour]
    ground: tuple[Colour, Colour]
    skyline: float
    horizon: float
    roughness: float
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Layer:
    """Pixels of a drawing within a window of the picture.

    Attributes:
        left, top: position of the window in the picture, pixels.
        rgb: H x W x 3 float32, 0 to 1; meaningless where alpha is 0.
        alpha: H x W float32, coverage 0 to 1.
    """

    left: int
    top: int
    rgb: np.ndarray
    alpha: np.ndarray

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the picture that the layer covers."""
        height, width = self.alpha.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


# A pen draws one shape; the points are in pixels of the supersampled canvas, and so is the unit,
# the length of one pixel of the picture.
Pen = Callable[[ImageDraw.ImageDraw, Shape, np.ndarray, float], None]


def rasterise(
    shapes: Iterable[Shape], picture_size: tuple[int, int], pen: Pen, margin: float = 4.0
) -> Layer:
    """Draws shapes and scales them down to the pixels of the picture.

    Args:
        shapes: in pixels of the picture, far to near.
        picture_size: width and height of the picture.
        pen: how a single shape is drawn.
        margin: room around the shapes, pixels, for what a style adds outside of them.

    Returns:
        The smallest layer that holds the shapes with their margin and lies in the picture.
    """
    shapes = list(shapes)
    left, top, right, bottom = bounds(shapes)
    left, top = max(0, int(left - margin)), max(0, int(top - margin))
    right = min(picture_size[0], int(np.ceil(right + margin)))
    bottom = min(picture_size[1], int(np.ceil(bottom + margin)))
    size = (max(1, right - left), max(1, bottom - top))
    canvas = Image.new("RGBA", (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    for shape in shapes:
        pen(draw, shape, (shape.points - (left, top)) * SUPERSAMPLING, SUPERSAMPLING)
    pixels = np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float32) / 255
    return Layer(left, top, pixels[..., :3], pixels[..., 3])


def fill(
    draw: ImageDraw.ImageDraw, shape: Shape, points: np.ndarray, unit: float, colour: Colour
) -> None:
    """Draws a shape in one colour: a polygon, or a stroke with round joints and ends."""
    coordinates = points.ravel().tolist()
    if not shape.width:
        draw.polygon(coordinates, fill=colour)
        return
    width = max(1, round(shape.width * unit))
    draw.line(coordinates, fill=colour, width=width, joint="curve")
    if width > 3:
        for x, y in (points[0], points[-1]):
            r = (width - 1) / 2
            draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def bounds(shapes: Iterable[Shape]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of shapes, with the width of their strokes."""
    low = np.min([s.points.min(axis=0) - s.width / 2 for s in shapes], axis=0)
    high = np.max([s.points.max(axis=0) + s.width / 2 for s in shapes], axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def transformed(
    shapes: Iterable[Shape], scale: tuple[float, float], offset: tuple[float, float]
) -> tuple[Shape, ...]:
    """Shapes scaled and then moved; strokes widen with the scale."""
    factor = abs(scale[1])
    return tuple(
        replace(s, points=s.points * scale + offset, width=s.width * factor) for s in shapes
    )


def shaded(colour: Colour, factor: float) -> Colour:
    """A colour made darker (factor below 1) or moved towards white (above 1)."""
    if factor <= 1:
        return tuple(int(c * factor) for c in colour)
    return tuple(int(255 - (255 - c) * (2 - factor)) for c in colour)


def mixed(a: Colour, b: Colour, share: float) -> Colour:
    """The colour `share` of the way from `a` to `b`."""
    return tuple(int(x + (y - x) * share) for x, y in zip(a, b, strict=True))


# --- shapes -------------------------------------------------------------------------------------


def _polygon(points: Points, colour: Colour, **options: bool) -> Shape:
    return Shape(np.asarray(points, dtype=float), colour, **options)


def _box(x0: float, y0: float, x1: float, y1: float, colour: Colour, **options: bool) -> Shape:
    return _polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour, **options)


def _ellipse(
    x: float, y: float, rx: float, ry: float, colour: Colour, turn: float = 0, **options: bool
) -> Shape:
    """An ellipse turned by `turn` degrees."""
    options = {"round": True} | options
    points = _UNIT_CIRCLE * (rx, ry)
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    return Shape(points @ np.array([[c, s], [-s, c]]) + (x, y), colour, **options)


def _blob(points: Points, colour: Colour, **options: bool) -> Shape:
    """A closed smooth curve through the points."""
    p = np.asarray(points, dtype=float)
    return Shape(_spline(np.concatenate([p[-1:], p, p[:2]])), colour, **options)


def _stroke(points: Points, colour: Colour, width: float, **options: bool) -> Shape:
    return Shape(np.asarray(points, dtype=float), colour, width, **options)


def _curve(points: Points, colour: Colour, width: float, **options: bool) -> Shape:
    """A smooth stroke through the points."""
    p = np.asarray(points, dtype=float)
    return Shape(_spline(np.concatenate([p[:1], p, p[-1:]])), colour, width, **options)


def _detail(shape: Shape) -> Shape:
    return replace(shape, outlined=False, round=False)


def _spline(p: np.ndarray) -> np.ndarray:
    """Catmull-Rom curve through p[1] ... p[-2], five points for each piece."""
    t = np.linspace(0, 1, 5, endpoint=False)[:, None]
    a, b, c, d = (p[i : len(p) - 3 + i, None] for i in range(4))
    pieces = b + t / 2 * ((c - a) + t * ((2 * a - 5 * b + 4 * c - d) + t * (3 * b - a - 3 * c + d)))
    return np.concatenate([pieces.reshape(-1, 2), p[-2:-1]])


_ANGLES = np.linspace(0, 2 * np.pi, 28, endpoint=False)
_UNIT_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


def _pick(rng: np.random.Generator, options: Sequence):
    return options[int(rng.integers(len(options)))]


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


def _leg(hip: tuple, knee: tuple, foot: tuple, colour: Colour, width: float, paw: Colour) -> list:
    return [
        _curve([hip, knee, foot], colour, width),
        _ellipse(foot[0] + width * 0.25, foot[1] - width * 0.1, width * 0.72, width * 0.42, paw),
    ]


def _dog_head(x: float, y: float, coat: Colour, dark: Colour, light: Colour) -> list[Shape]:
    """A dog's head in profile, centred at (x, y)."""
    return [
        _ellipse(x, y, 15, 13.5, coat),
        _blob(
            [(x + 6, y + 4), (x + 20, y + 1), (x + 28, y - 3), (x + 27, y - 10), (x + 6, y - 12)],
            light,
        ),
        _ellipse(x + 27, y - 2, 4.2, 3.6, INK, outlined=False),
        _detail(_curve([(x + 26, y - 8), (x + 18, y - 9), (x + 12, y - 7)], INK, 1.3)),
        _detail(_ellipse(x + 7, y + 4.5, 2.6, 3, INK)),
        _detail(_ellipse(x + 7.8, y + 5.6, 0.9, 0.9, WHITE)),
        _blob(
            [(x - 4, y + 12), (x - 12, y + 10), (x - 17, y - 6), (x - 11, y - 17), (x - 3, y - 4)],
            dark,
        ),
    ]


def _dog_standing(rng: np.random.Generator) -> list[Shape]:
    coat, dark, light = _pick(rng, _DOG_COATS)
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
        _curve([(14, 56 + lift), (0, 62 + lift), (-8, 76 + lift), (-4, 86 + lift)], dark, 6.5)
    )
    shapes += _leg((20, 46 + lift), (14 + step, 25), (17 + step, 4), coat, 10.5, light)
    shapes += _leg((76, 46 + lift), (80 - step, 24), (80 - step, 4), coat, 10.5, light)
    shapes.append(
        _blob(
            [(74, 52 + lift), (70, 66 + lift), (82, 86 + lift), (96, 78 + lift), (88, 54 + lift)],
            coat,
        )
    )
    shapes.append(_blob([(x, y + lift) for x, y in back], coat))
    if rng.random() < 0.5:
        shapes.append(_detail(_ellipse(44, 54 + lift, 13, 8, dark, turn=-8)))
    shapes.append(
        _curve(
            [(74, 68 + lift), (82, 62 + lift), (91, 61 + lift)],
            _pick(rng, _COLLARS),
            4.5,
            outlined=False,
        )
    )
    return shapes + _dog_head(88, 82 + lift, coat, dark, light)


def _dog_sitting(rng: np.random.Generator) -> list[Shape]:
    coat, dark, light = _pick(rng, _DOG_COATS)
    far = shaded(coat, 0.78)
    shapes = [_curve([(12, 8), (-4, 12), (-14, 24), (-12, 34)], dark, 6.5)]
    shapes += _leg((48, 46), (52, 24), (52, 4), far, 9, far)
    shapes += [
        _blob([(6, 4), (6, 26), (22, 46), (34, 66), (52, 70), (60, 50), (52, 22), (44, 4)], coat),
        _blob([(50, 64), (60, 50), (56, 30), (47, 34), (46, 52)], light, outlined=False),
        _ellipse(22, 19, 18, 16, coat),
        _ellipse(32, 4.5, 11, 4.5, light),
    ]
    shapes += _leg((44, 44), (46, 24), (46, 4), coat, 9.5, light)
    if rng.random() < 0.5:
        shapes.append(_detail(_ellipse(28, 42, 9, 7, dark, turn=50)))
    shapes.append(_curve([(34, 70), (44, 65), (56, 66)], _pick(rng, _COLLARS), 5, outlined=False))
    return shapes + _dog_head(48, 84, coat, dark, light)


def _cat_head(x: float, y: float, coat: Colour, dark: Colour, light: Colour) -> list[Shape]:
    """A cat's face towards the viewer, centred at (x, y)."""
    shapes = []
    for side in (-1, 1):
        ear = [(x + side * 4, y + 11), (x + side * 15, y + 25), (x + side * 16.5, y + 5)]
        inner = [(x + side * 7.5, y + 11), (x + side * 13.5, y + 19.5), (x + side * 14, y + 8)]
        shapes += [_polygon(ear, coat), _detail(_polygon(inner, (238, 160, 158)))]
    shapes += [
        _ellipse(x, y, 18, 15, coat),
        _detail(_ellipse(x, y - 7, 9.5, 6.2, light)),
        *(_detail(_stroke([(x + d, y + 14), (x + d, y + 8)], dark, 2.2)) for d in (-4, 0, 4)),
    ]
    for side in (-1, 1):
        shapes += [
            _detail(_ellipse(x + side * 7.5, y + 1.5, 3.9, 4.4, (176, 222, 92))),
            _detail(_ellipse(x + side * 7.5, y + 1.5, 1.6, 3.9, INK)),
            _detail(_stroke([(x + side * 8, y - 6), (x + side * 24, y - 3)], light, 0.9)),
            _detail(_stroke([(x + side * 8, y - 8), (x + side * 23, y - 10)], light, 0.9)),
        ]
    nose = [(x - 2.6, y - 4), (x + 2.6, y - 4), (x, y - 7)]
    return [*shapes, _detail(_polygon(nose, (226, 108, 112)))]


def _cat_sitting(rng: np.random.Generator) -> list[Shape]:
    coat, dark, light = _pick(rng, _CAT_COATS)
    curl = rng.uniform(-6, 6)
    tail = [(16, 7), (34, 6), (46, 12), (50 + curl, 28), (42 + curl, 36)]
    shapes = [
        _curve(tail, coat, 7.5),
        _detail(_curve([(49 + curl, 27), (46 + curl, 34), (42 + curl, 36)], dark, 7)),
        _blob(
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
        _blob([(-9, 50), (-11, 30), (0, 20), (11, 30), (9, 50)], light, outlined=False),
        *(
            _detail(_stroke([(s * 23, y), (s * 13, y + 2)], dark, 3))
            for s in (-1, 1)
            for y in (18, 27)
        ),
        _curve([(-6, 34), (-7, 18), (-7, 5)], coat, 8.5),
        _curve([(6, 34), (7, 18), (7, 5)], coat, 8.5),
        _ellipse(-8, 4, 7, 4.2, light),
        _ellipse(8, 4, 7, 4.2, light),
    ]
    return shapes + _cat_head(0, 66, coat, dark, light)


def _cat_walking(rng: np.random.Generator) -> list[Shape]:
    coat, dark, light = _pick(rng, _CAT_COATS)
    far = shaded(coat, 0.78)
    step = rng.uniform(3, 8)
    sway = rng.uniform(-6, 6)
    tail = [(14, 44), (2, 54), (-4 + sway, 72), (2 + sway, 88), (10 + sway, 90)]
    shapes = _leg((24, 36), (20 + step, 20), (24 + step, 4), far, 7.5, far)
    shapes += _leg((70, 36), (72 - step, 20), (72 - step, 4), far, 7.5, far)
    shapes += [
        _curve(tail, coat, 7),
        _detail(_curve(tail[-2:], dark, 6.5)),
    ]
    shapes += _leg((22, 36), (15 - step, 20), (18 - step, 4), coat, 8.5, light)
    shapes += _leg((74, 36), (77 + step, 20), (77 + step, 4), coat, 8.5, light)
    shapes.append(
        _blob(
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
    shapes += [
        _detail(_curve([(x, 49), (x + 2, 43), (x, 37)], dark, 3.2)) for x in (28, 38, 48, 58)
    ]
    return shapes + _cat_head(84, 60, coat, dark, light)


def _bird_perched(rng: np.random.Generator) -> list[Shape]:
    plumage, dark, belly = _pick(rng, _BIRD_PLUMAGES)
    beak = (244, 152, 38)
    tilt = rng.uniform(-4, 6)
    legs = [
        _stroke([(x, 20), (x + 1, 2), (x + 8, 1)], (206, 116, 44), 2.6, outlined=False)
        for x in (30, 40)
    ]
    return [
        *legs,
        _polygon([(12, 40), (-26, 40 - tilt), (-24, 27 - tilt), (14, 26)], dark),
        _blob(
            [(4, 34), (18, 50), (42, 66), (60, 60), (64, 44), (52, 22), (30, 14), (14, 20)], plumage
        ),
        _blob([(62, 46), (50, 42), (34, 24), (32, 15), (48, 20), (60, 34)], belly, outlined=False),
        _polygon([(66, 74), (84, 67), (66, 62)], beak),
        _ellipse(56, 67, 15, 14, plumage),
        _detail(_ellipse(61, 70, 3.2, 3.4, INK)),
        _detail(_ellipse(62, 71.3, 1.1, 1.1, WHITE)),
        _blob([(46, 50), (26, 50), (0, 30), (14, 24), (38, 26)], dark),
        _detail(_curve([(38, 40), (22, 36), (10, 29)], plumage, 2.2)),
    ]


def _bird_flying(rng: np.random.Generator) -> list[Shape]:
    plumage, dark, belly = _pick(rng, _BIRD_PLUMAGES)
    beat = rng.uniform(0.8, 1.1)
    far_wing = [(40, 8), (56, 30), (66, 58), (46, 50), (26, 28), (24, 8)]
    wing = [(46, 6), (36, 34), (10, 66), (2, 56), (8, 34), (18, 8)]
    return [
        _blob([(x, y * beat) for x, y in far_wing], shaded(dark, 0.85)),
        _polygon([(10, 4), (-26, 12), (-30, 2), (-24, -6), (8, -8)], dark),
        _blob([(-2, 0), (20, 10), (48, 11), (64, 4), (58, -9), (34, -15), (12, -11)], plumage),
        _blob([(62, -2), (40, -4), (16, -9), (34, -15), (54, -10)], belly, outlined=False),
        _polygon([(76, 12), (92, 6), (76, 1)], (244, 152, 38)),
        _ellipse(67, 7, 13, 11.5, plumage),
        _detail(_ellipse(71, 10, 2.8, 3, INK)),
        _blob([(x, y * beat) for x, y in wing], dark),
        _detail(_curve([(34, 10), (22, 32 * beat), (10, 50 * beat)], plumage, 3)),
        _detail(_curve([(26, 9), (16, 26 * beat), (9, 38 * beat)], plumage, 2.4)),
    ]


# --- vehicles -----------------------------------------------------------------------------------

_PAINTS = (
    (204, 42, 44),
    (36, 96, 190),
    (246, 190, 44),
    (240, 240, 240),
    (36, 148, 158),
    (238, 118, 40),
    (74, 78, 92),
    (132, 62, 150),
)


def _wheel(x: float, radius: float) -> list[Shape]:
    return [
        _ellipse(x, radius, radius, radius, TYRE),
        _ellipse(x, radius, radius * 0.62, radius * 0.62, STEEL, outlined=False),
        _detail(_ellipse(x, radius, radius * 0.22, radius * 0.22, (90, 92, 100))),
    ]


def _car(rng: np.random.Generator, roof: Points, windows: Sequence[Points], body: Points) -> list:
    paint = _pick(rng, _PAINTS)
    lower = shaded(paint, 0.72)
    shapes = [
        _polygon(roof, paint),
        *(_polygon(w, GLASS, outlined=False) for w in windows),
        *(
            _detail(_polygon([w[0], w[1], (w[1][0] * 0.6 + w[0][0] * 0.4, w[1][1])], WHITE))
            for w in windows
        ),
        _blob(body, paint),
        _detail(_box(10, 13, 150, 17, lower)),
        _detail(_stroke([(80, 46), (80, 19)], lower, 1.8)),
        _detail(_stroke([(87, 40), (96, 40)], shaded(paint, 0.45), 2.6)),
        _detail(_ellipse(153, 34, 4, 5, (255, 240, 170))),
        _detail(_ellipse(5, 36, 3.2, 5, (226, 40, 40))),
        _ellipse(36, 17, 19.5, 19, (30, 30, 36), outlined=False),
        _ellipse(122, 17, 19.5, 19, (30, 30, 36), outlined=False),
    ]
    return shapes + _wheel(36, 16) + _wheel(122, 16)


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


def _bicycle(rng: np.random.Generator) -> list[Shape]:
    paint = _pick(rng, _PAINTS[:3] + _PAINTS[4:])
    phase = rng.uniform(0, np.pi)
    rear, front, crank = (30, 30), (118, 30), (66, 30)
    seat, head = (54, 66), (104, 70)
    shapes = []
    for x, y in (rear, front):
        for spoke in range(6):
            a = phase + spoke * np.pi / 6
            dx, dy = 26 * np.cos(a), 26 * np.sin(a)
            shapes.append(_detail(_stroke([(x - dx, y - dy), (x + dx, y + dy)], STEEL, 0.9)))
        rim = np.concatenate([_UNIT_CIRCLE, _UNIT_CIRCLE[:2]])
        shapes += [
            Shape(rim * 27.5 + (x, y), TYRE, 5.0),
            _detail(Shape(rim * 24 + (x, y), STEEL, 1.6)),
            _ellipse(x, y, 3.4, 3.4, STEEL, outlined=False),
        ]
    tubes = [(rear, crank), (rear, seat), (crank, seat), (seat, head), (crank, head), (front, head)]
    shapes += [_stroke(tube, paint, 5.2) for tube in tubes]
    a = phase * 2
    foot, other = (
        (66 + 13 * np.cos(a), 30 + 13 * np.sin(a)),
        (66 - 13 * np.cos(a), 30 - 13 * np.sin(a)),
    )
    shapes += [
        _stroke([seat, (51, 76)], INK, 4),
        _blob([(36, 78), (42, 84), (66, 80), (66, 76), (46, 74)], INK),
        _stroke([head, (101, 84)], STEEL, 4),
        _curve([(101, 84), (112, 90), (122, 84), (118, 77)], INK, 4.6),
        _ellipse(66, 30, 9, 9, STEEL),
        _stroke([foot, other], INK, 3.2),
        *(_stroke([(x - 6, y), (x + 6, y)], INK, 4.2) for x, y in (foot, other)),
    ]
    if rng.random() < 0.4:
        shapes.append(_polygon([(108, 78), (132, 78), (128, 60), (112, 60)], (196, 146, 84)))
    return shapes


# --- people -------------------------------------------------------------------------------------

_SKINS = ((248, 210, 178), (228, 178, 138), (184, 126, 86), (128, 82, 56), (92, 58, 42))
_HAIRS = ((44, 32, 30), (104, 64, 36), (216, 170, 84), (168, 78, 36), (196, 194, 196))
_TOPS = (
    (214, 56, 60),
    (46, 104, 196),
    (250, 196, 62),
    (240, 122, 54),
    (136, 72, 160),
    (246, 244, 238),
    (232, 118, 156),
)
_BOTTOMS = ((48, 62, 104), (70, 66, 74), (116, 82, 58), (142, 152, 170), (40, 38, 46))


def _head(rng: np.random.Generator, x: float, y: float, skin: Colour) -> list[Shape]:
    """A person's head turned a little to the right, with one of four hair styles or hats."""
    hair, style = _pick(rng, _HAIRS), int(rng.integers(4))
    long_hair = [(x - 12, y + 4), (x - 14, y - 14), (x - 5, y - 18), (x + 8, y - 15), (x + 11, y)]
    shapes = [_blob(long_hair, hair)] if style == 1 else []
    shapes += [
        _ellipse(x, y, 11, 12.5, skin),
        _blob(
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
        _detail(_ellipse(x + 2, y + 0.5, 1.5, 1.9, INK)),
        _detail(_ellipse(x + 8, y + 0.5, 1.5, 1.9, INK)),
        _detail(_curve([(x + 1.5, y - 5.5), (x + 5, y - 7), (x + 8, y - 5.5)], (166, 60, 60), 1.4)),
    ]
    if style == 2:
        shapes.append(_ellipse(x - 4, y + 17, 6, 5.5, hair))
    if style == 3:
        cap = _pick(rng, _TOPS)
        shapes += [
            _blob([(x - 12, y + 5), (x - 9, y + 15), (x + 3, y + 17), (x + 11, y + 6)], cap),
            _stroke([(x - 2, y + 5.5), (x + 18, y + 5)], shaded(cap, 0.75), 3.2),
        ]
    return shapes


def _arm(shoulder: tuple, elbow: tuple, hand: tuple, sleeve: Colour, skin: Colour) -> list[Shape]:
    return [
        _curve([shoulder, elbow, hand], skin, 6.6),
        _stroke([shoulder, elbow], sleeve, 8.8),
        _ellipse(hand[0], hand[1], 4.2, 4.2, skin),
    ]


def _person(rng: np.random.Generator, stride: float, arms: Sequence[tuple[Points, float]]) -> list:
    """A person with the feet `stride` units from the middle.

    Args:
        rng: for the choice of clothes, skin and hair.
        stride: half the distance of the feet.
        arms: far and near arm as (elbow, hand) from the shoulder.
    """
    skin, top, bottom = _pick(rng, _SKINS), _pick(rng, _TOPS), _pick(rng, _BOTTOMS)
    shoe = _pick(rng, (INK, (150, 60, 48), WHITE))
    dress = rng.random() < 0.35
    leg = skin if dress else bottom
    shapes = _arm((-9, 102), *_reach((-9, 102), arms[0]), shaded(top, 0.8), shaded(skin, 0.85))
    for x, tone in ((-stride, shaded(leg, 0.8)), (stride, leg)):
        hip = 4.5 if x > 0 else -4.5
        knee = (hip + (x - hip) * 0.45 + 1.5, 32)
        shapes.append(_curve([(hip, 60), knee, (x, 6)], tone, 7 if dress else 10))
        shapes.append(_blob([(x - 5, 1), (x - 5, 8), (x + 3, 8), (x + 11, 3), (x + 10, 0)], shoe))
    shapes.append(_stroke([(0, 116), (0, 104)], shaded(skin, 0.88), 7.5, outlined=False))
    if dress:
        hem = 14 + stride * 0.6
        shapes.append(
            _polygon([(-11, 107), (11, 107), (9, 82), (hem, 38), (-hem, 38), (-9, 82)], top)
        )
    else:
        shapes += [
            _box(-10.5, 54, 10.5, 70, bottom),
            _blob(
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
    shapes += _head(rng, 1, 124, skin)
    return shapes + _arm((9, 102), *_reach((9, 102), arms[1]), shaded(top, 0.9), skin)


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
    "bicycle": {"parked": _bicycle},
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
        variation: seed of colours and proportions.

    Returns:
        Shapes with y down, whose lowest point is at y = 0 and whose middle is at x = 0.
    """
    shapes = _FIGURES[name][pose](np.random.default_rng(variation))
    left, low, right, high = bounds(shapes)
    scale = 1 / max(right - left, high - low)
    mirror = scale if facing == "right" else -scale
    return transformed(shapes, (mirror, -scale), (-mirror * (left + right) / 2, scale * low))


# --- backdrops ----------------------------------------------------------------------------------

SKIES: dict[str, tuple[Colour, Colour]] = {
    "morning": ((126, 178, 222), (250, 226, 204)),
    "noon": ((78, 146, 222), (204, 230, 248)),
    "overcast": ((158, 174, 190), (222, 226, 230)),
    "evening": ((110, 122, 186), (252, 190, 136)),
}


def _tree(rng: np.random.Generator, x: float, foot: float, height: float) -> list[Shape]:
    leaf = mixed((74, 128, 62), (128, 152, 58), rng.random())
    crown, r = foot - height * 0.66, height * 0.24
    shapes = [
        _polygon(
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
        shapes.append(_ellipse(x + dx * r, crown + dy * r, r * size, r * size * 0.92, shade))
    return shapes


def _hill(rng: np.random.Generator, width: int, base: float, rise: float, colour: Colour) -> Shape:
    x = np.linspace(-10, width + 10, 40)
    phase = rng.uniform(0, 6.3, 2)
    y = base - rise * (
        0.55 + 0.3 * np.sin(x / width * 5 + phase[0]) + 0.15 * np.sin(x / width * 11 + phase[1])
    )
    outline = [*zip(x, y, strict=True), (width + 10, base + 3), (-10, base + 3)]
    return _polygon(outline, colour)


def _house(rng: np.random.Generator, x: float, foot: float, width: float) -> list[Shape]:
    wall = _pick(
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
    roof = _pick(rng, ((150, 86, 70), (104, 96, 104), (128, 82, 60)))
    floors = int(rng.integers(2, 4))
    height = floors * width * 0.36
    top = foot - height
    shapes = [
        _polygon(
            [
                (x - 3, top),
                (x + width * 0.16, top - width * 0.3),
                (x + width * 0.84, top - width * 0.3),
                (x + width + 3, top),
            ],
            roof,
        ),
        _box(x, top, x + width, foot, wall),
    ]
    for floor in range(floors):
        y = top + (floor + 0.24) * width * 0.36
        for column in range(3):
            wx = x + (0.1 + 0.3 * column) * width
            is_door = floor == floors - 1 and column == 1
            tone, low = ((116, 82, 66), foot) if is_door else ((148, 170, 186), y + width * 0.19)
            shapes.append(_detail(_box(wx, y, wx + width * 0.18, low, tone)))
    return shapes


def _park(rng: np.random.Generator, width: int, height: int, horizon: float) -> list[Shape]:
    shapes = [_hill(rng, width, horizon, horizon * 0.34, (150, 180, 160))]
    for x in np.arange(-5, width, 26):
        r = rng.uniform(10, 17)
        tone = mixed((122, 158, 108), (98, 142, 104), rng.random())
        shapes.append(_ellipse(x + rng.uniform(-6, 6), horizon - r * 0.5, r * 1.3, r, tone))
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
    shapes.append(_polygon(path, (214, 194, 158), outlined=False))
    for _ in range(int(rng.integers(1, 4))):
        x, size = rng.uniform(0, width), rng.uniform(0.55, 0.95) * horizon
        shapes += _tree(rng, x, horizon + rng.uniform(1, 8), size)
    return shapes


def _street(rng: np.random.Generator, width: int, height: int, horizon: float) -> list[Shape]:
    shapes = []
    x = -rng.uniform(0, 40)
    while x < width:
        size = rng.uniform(62, 92)
        shapes += _house(rng, x, horizon, size)
        x += size + rng.uniform(1, 12)
    kerb = horizon + (height - horizon) * 0.24
    shapes += [
        _box(-9, horizon, width + 9, kerb, (196, 190, 182)),
        _detail(_box(-9, kerb, width + 9, kerb + 3, (150, 146, 142))),
    ]
    y = horizon + (height - horizon) * 0.66
    for x in np.arange(rng.uniform(-40, 0), width, 56):
        mark = [(x, y), (x + 30, y), (x + 28, y + 4), (x - 2, y + 4)]
        shapes.append(_detail(_polygon(mark, (226, 222, 208))))
    return shapes


def _beach(rng: np.random.Generator, width: int, height: int, horizon: float) -> list[Shape]:
    skyline = _skyline("beach", height, horizon)
    x = np.linspace(-9, width + 9, 30)
    shore = horizon + 2.5 * np.sin(x / 23 + rng.uniform(0, 6))
    sea = [(-9, skyline), (width + 9, skyline), *zip(x[::-1], shore[::-1], strict=True)]
    shapes = [
        _polygon(sea, (74, 152, 182), outlined=False),
        _detail(Shape(np.stack([x, shore], axis=1), (244, 248, 246), 3.5)),
    ]
    for _ in range(9):
        wx, wy = rng.uniform(0, width), rng.uniform(skyline + 5, horizon - 6)
        wave = [(wx, wy), (wx + 9, wy - 1.5), (wx + 20, wy)]
        shapes.append(_detail(_curve(wave, (150, 204, 218), 1.6)))
    if rng.random() < 0.6:
        bx, by = rng.uniform(0.1, 0.9) * width, skyline + 4
        shapes += [
            _polygon([(bx, by - 26), (bx, by - 4), (bx + 15, by - 4)], WHITE),
            _polygon(
                [(bx - 9, by - 2), (bx + 14, by - 2), (bx + 9, by + 4), (bx - 5, by + 4)],
                (136, 86, 62),
            ),
        ]
    for _ in range(int(rng.integers(0, 3))):
        shapes += _parasol(rng, rng.uniform(0.05, 0.95) * width, horizon + rng.uniform(6, 14))
    return shapes


def _parasol(rng: np.random.Generator, x: float, foot: float) -> list[Shape]:
    cloth = _pick(rng, ((222, 120, 96), (238, 204, 112), (120, 170, 178)))
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
        _stroke([(x, top), (x, foot)], (178, 156, 130), 2.2),
        _polygon(canopy, cloth),
        _detail(_polygon(stripe, WHITE)),
    ]


def _meadow(rng: np.random.Generator, width: int, height: int, horizon: float) -> list[Shape]:
    tones = ((158, 184, 196), (150, 186, 142), (140, 186, 104))
    shapes = [
        _hill(rng, width, horizon, horizon * rise, tone)
        for rise, tone in zip((0.55, 0.36, 0.2), tones, strict=True)
    ]
    if rng.random() < 0.5:
        shapes += _tree(rng, rng.uniform(0, width), horizon + 3, horizon * 0.6)
    if rng.random() < 0.6:
        for x in np.arange(rng.uniform(-30, 0), width, 30):
            shapes.append(_box(x, horizon - 12, x + 4, horizon + 5, (178, 150, 118)))
        for y in (horizon - 9, horizon - 2):
            shapes.append(_box(-5, y, width + 5, y + 2.5, (178, 150, 118)))
    petals = ((250, 248, 236), (244, 214, 96), (228, 132, 152), (170, 142, 206))
    for _ in range(46):
        y = horizon + (height - horizon) * rng.uniform(0.06, 1)
        r = 0.8 + 2.0 * (y - horizon) / (height - horizon)
        x = rng.uniform(0, width)
        shapes.append(_detail(_ellipse(x, y, r, r * 0.8, _pick(rng, petals))))
    return shapes


def _skyline(setting: str, height: int, horizon: float) -> float:
    return horizon - 0.15 * height if setting == "beach" else horizon


_GRASS = ((150, 182, 88), (104, 150, 62))
# How a setting is drawn, its ground far away and near, and the roughness of the ground.
_SETTINGS = {
    "park": (_park, _GRASS, 1.0),
    "street": (_street, ((150, 148, 150), (116, 116, 122)), 0.25),
    "beach": (_beach, ((236, 216, 170), (222, 194, 140)), 0.45),
    "meadow": (_meadow, ((166, 192, 92), (122, 164, 66)), 1.0),
}
SETTINGS = tuple(_SETTINGS)


def backdrop(
    setting: str, light: str, size: tuple[int, int], horizon: float, seed: int
) -> Backdrop:
    """The drawing of a setting.

    Args:
        setting: one of `SETTINGS`.
        light: one of `SKIES`.
        size: width and height of the picture.
        horizon: y at which the ground to stand on begins, pixels.
        seed: of everything that varies within a setting.
    """
    draw, ground, roughness = _SETTINGS[setting]
    shapes = draw(np.random.default_rng(seed), *size, horizon)
    skyline = _skyline(setting, size[1], horizon)
    return Backdrop(SKIES[light], ground, skyline, horizon, roughness, tuple(shapes))
