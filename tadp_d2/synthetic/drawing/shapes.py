"""Vector drawings: shapes, and turning them into pixels.

A drawing is a list of `Shape`s, far to near. It says what has which color where; how a fill, an
edge or a shadow looks is the business of a style, which hands its own `Pen` to `rasterize`. What is
drawn is in `class_figures`, `backdrops` and the `street_` modules.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

SUPERSAMPLING = 3

INK: Color = (38, 34, 40)
TIRE: Color = (44, 44, 50)
STEEL: Color = (186, 190, 198)
GLASS: Color = (176, 214, 232)
WHITE: Color = (248, 246, 240)


@dataclass(frozen=True)
class Shape:
    """One polygon or one stroke.

    Attributes:
        points: N x 2, the corners of a polygon or the course of a stroke.
        color: RGB, 0 to 255, before a style changes it.
        width: of the stroke, in the units of `points`; 0 for a filled polygon.
        outlined: whether styles with outlines draw one; small details go without.
        round: whether the form bulges towards the viewer. Only for shapes that contain every
            copy of themselves shrunk towards their center.
    """

    points: np.ndarray
    color: Color
    width: float = 0.0
    outlined: bool = True
    round: bool = False


@dataclass(frozen=True)
class Layer:
    """Pixels of a drawing within a window of the image.

    Attributes:
        left, top: position of the window in the image, pixels.
        rgb: H x W x 3 float32, 0 to 1; meaningless where alpha is 0.
        alpha: H x W float32, coverage 0 to 1.
    """

    left: int
    top: int
    rgb: np.ndarray
    alpha: np.ndarray

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the image that the layer covers."""
        height, width = self.alpha.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


# A pen draws one shape; the points are in pixels of the supersampled canvas, and so is the unit,
# the length of one pixel of the image.
Pen = Callable[[ImageDraw.ImageDraw, Shape, np.ndarray, float], None]


def rasterize(
    shapes: Iterable[Shape], image_size: tuple[int, int], pen: Pen, margin: float = 4.0
) -> Layer:
    """Draws shapes and scales them down to the pixels of the image.

    Args:
        shapes: in pixels of the image, far to near.
        image_size: width and height of the image.
        pen: how a single shape is drawn.
        margin: room around the shapes, pixels, for what a style adds outside of them.

    Returns:
        The smallest layer that holds the shapes with their margin and lies in the image.
    """
    shapes = list(shapes)
    left, top, right, bottom = bounds(shapes)
    left, top = max(0, int(left - margin)), max(0, int(top - margin))
    right = min(image_size[0], int(np.ceil(right + margin)))
    bottom = min(image_size[1], int(np.ceil(bottom + margin)))
    size = (max(1, right - left), max(1, bottom - top))
    canvas = Image.new("RGBA", (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    for shape in shapes:
        pen(draw, shape, (shape.points - (left, top)) * SUPERSAMPLING, SUPERSAMPLING)
    pixels = np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float32) / 255
    return Layer(left, top, pixels[..., :3], pixels[..., 3])


def fill(
    draw: ImageDraw.ImageDraw, shape: Shape, points: np.ndarray, unit: float, color: Color | int
) -> None:
    """Draws a shape in one color or gray: a polygon, or a stroke with round joints and ends."""
    coordinates = points.ravel().tolist()
    if not shape.width:
        draw.polygon(coordinates, fill=color)
        return
    width = max(1, round(shape.width * unit))
    draw.line(coordinates, fill=color, width=width, joint="curve")
    if width > 3:
        for x, y in (points[0], points[-1]):
            r = (width - 1) / 2
            draw.ellipse((x - r, y - r, x + r, y + r), fill=color)


def soft_pen(draw: ImageDraw.ImageDraw, shape: Shape, points: np.ndarray, unit: float) -> None:
    """A fill that grows lighter towards the light, as round things do."""
    if shape.width and shape.outlined:
        fill(draw, shape, points, unit, shaded(shape.color, 0.84))
        shift = -0.16 * shape.width * unit
        fill(draw, replace(shape, width=shape.width * 0.55), points + shift, unit, shape.color)
        return
    if not shape.round:
        fill(draw, shape, points, unit, shape.color)
        return
    center = points.mean(axis=0)
    lift = 0.16 * (points.min(axis=0) - center)
    for ring in range(5):
        inner = center + lift * ring / 2.5 + (points - center) * (1 - 0.19 * ring)
        fill(draw, shape, inner, unit, shaded(shape.color, 0.82 + 0.075 * ring))


def bounds(shapes: Iterable[Shape]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of shapes, with the width of their strokes."""
    shapes = list(shapes)
    points = np.concatenate([s.points for s in shapes])
    reach = np.repeat([s.width / 2 for s in shapes], [len(s.points) for s in shapes])[:, None]
    low, high = (points - reach).min(axis=0), (points + reach).max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Area shared by two boxes as a share of the smaller one."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))


def transformed(
    shapes: Iterable[Shape], scale: tuple[float, float], offset: tuple[float, float]
) -> tuple[Shape, ...]:
    """Shapes scaled and then moved; strokes widen with the scale."""
    factor = abs(scale[1])
    return tuple(
        Shape(s.points * scale + offset, s.color, s.width * factor, s.outlined, s.round)
        for s in shapes
    )


def shaded(color: Color, factor: float) -> Color:
    """A color made darker (factor below 1) or moved towards white (above 1)."""
    if factor <= 1:
        return tuple(int(c * factor) for c in color)
    return tuple(int(255 - (255 - c) * (2 - factor)) for c in color)


def mixed(a: Color, b: Color, share: float) -> Color:
    """The color `share` of the way from `a` to `b`."""
    return tuple(int(x + (y - x) * share) for x, y in zip(a, b, strict=True))


def polygon(points: Points, color: Color, **options: bool) -> Shape:
    return Shape(np.asarray(points, dtype=float), color, **options)


def box(x0: float, y0: float, x1: float, y1: float, color: Color, **options: bool) -> Shape:
    return polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color, **options)


def ellipse(
    x: float, y: float, rx: float, ry: float, color: Color, turn: float = 0, **options: bool
) -> Shape:
    """An ellipse turned by `turn` degrees."""
    options = {"round": True} | options
    points = UNIT_CIRCLE * (rx, ry)
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    return Shape(points @ np.array([[c, s], [-s, c]]) + (x, y), color, **options)


def blob(points: Points, color: Color, **options: bool) -> Shape:
    """A closed smooth curve through the points."""
    p = np.asarray(points, dtype=float)
    return Shape(_spline(np.concatenate([p[-1:], p, p[:2]])), color, **options)


def stroke(points: Points, color: Color, width: float, **options: bool) -> Shape:
    return Shape(np.asarray(points, dtype=float), color, width, **options)


def curve(points: Points, color: Color, width: float, **options: bool) -> Shape:
    """A smooth stroke through the points."""
    p = np.asarray(points, dtype=float)
    return Shape(_spline(np.concatenate([p[:1], p, p[-1:]])), color, width, **options)


def detail(shape: Shape) -> Shape:
    return replace(shape, outlined=False, round=False)


def _spline(p: np.ndarray) -> np.ndarray:
    """Catmull-Rom curve through p[1] ... p[-2], five points for each piece."""
    t = np.linspace(0, 1, 5, endpoint=False)[:, None]
    a, b, c, d = (p[i : len(p) - 3 + i, None] for i in range(4))
    pieces = b + t / 2 * ((c - a) + t * ((2 * a - 5 * b + 4 * c - d) + t * (3 * b - a - 3 * c + d)))
    return np.concatenate([pieces.reshape(-1, 2), p[-2:-1]])


_ANGLES = np.linspace(0, 2 * np.pi, 28, endpoint=False)
UNIT_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


def pick(rng: np.random.Generator, options: Sequence):
    return options[int(rng.integers(len(options)))]
