"""A pinhole camera on a street, and drawings that know their class and distance.

Points in space are in meters: x to the right, y up from the ground, z ahead of the camera.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tadp_d2.synthetic.drawing.shapes import Color, Shape, transformed

# 1 / meter as a linear function of the pixel: nearness = a * x + b * y + c. It is one on every
# flat surface.
Surface = tuple[float, float, float]
SKY: Surface = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class StreetPart:
    """Shapes of one class on one surface.

    Attributes:
        label: class id.
        shapes: in pixels of the image, far to near.
        surface: how far each of its pixels is away.
        lit: what shines when it is dark, on the shapes and within their outline.
    """

    label: int
    shapes: tuple[Shape, ...]
    surface: Surface
    lit: tuple[Shape, ...] = ()


@dataclass(frozen=True)
class Camera:
    """Looks along the street, level.

    Attributes:
        focal: focal length, pixels.
        height: above the ground, meters.
        x, horizon: the vanishing point of the street, pixels.
    """

    focal: float
    height: float
    x: float
    horizon: float

    def project(self, points: Sequence | np.ndarray) -> np.ndarray:
        """... x 2 pixels of ... x 3 points in space in front of the camera."""
        p = np.asarray(points, dtype=float)
        scale = self.focal / p[..., 2]
        x, y = self.x + p[..., 0] * scale, self.horizon + (self.height - p[..., 1]) * scale
        return np.stack([x, y], axis=-1)

    def polygon(self, points: Sequence[tuple[float, float, float]], color: Color) -> Shape:
        return Shape(self.project(points), color)

    def details(self, corners: np.ndarray, colors: Color | list[Color]) -> list[Shape]:
        """Polygons without outline, of N x K x 3 corners, in one color or in one each."""
        if isinstance(colors, tuple):
            colors = [colors] * len(corners)
        pairs = zip(self.project(corners), colors, strict=True)
        return [Shape(points, color, outlined=False) for points, color in pairs]

    def standing(self, shapes: Iterable[Shape], x: float, z: float) -> tuple[Shape, ...]:
        """Shapes in meters, y up, put on the ground at (x, z) and facing the camera."""
        scale = self.focal / z
        return transformed(shapes, (scale, -scale), self.project([(x, 0, z)])[0])

    @property
    def ground(self) -> Surface:
        scale = 1 / (self.focal * self.height)
        return 0.0, scale, -self.horizon * scale

    def facing(self, z: float) -> Surface:
        """The surface across the street at a distance."""
        return 0.0, 0.0, 1 / z

    def along(self, x: float) -> Surface:
        """The upright surface along the street at `x`."""
        scale = 1 / (self.focal * x)
        return scale, 0.0, -self.x * scale


def rectangle(u0: float, v0: float, u1: float, v1: float) -> list[tuple[float, float]]:
    return [(u0, v0), (u1, v0), (u1, v1), (u0, v1)]


# Rectangles (u0, v0, u1, v1) on a plane: N x 4 numbers to N x 4 x 3 corners.


def on_ground(rectangles: Sequence) -> np.ndarray:
    """Rectangles (x0, z0, x1, z1)."""
    u, v = _corners(rectangles)
    return np.stack([u, np.zeros_like(u), v], axis=-1)


def on_wall(x: float, rectangles: Sequence) -> np.ndarray:
    """Rectangles (z0, y0, z1, y1) on the plane along the street at `x`."""
    u, v = _corners(rectangles)
    return np.stack([np.full_like(u, x), v, u], axis=-1)


def on_front(z: float, rectangles: Sequence) -> np.ndarray:
    """Rectangles (x0, y0, x1, y1) on the plane across the street at `z`."""
    u, v = _corners(rectangles)
    return np.stack([u, v, np.full_like(u, z)], axis=-1)


def _corners(rectangles: Sequence) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.reshape(np.asarray(rectangles, dtype=float), (-1, 4))
    return numbers[:, [0, 2, 2, 0]], numbers[:, [1, 1, 3, 3]]
