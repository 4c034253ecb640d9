"""What the drawings of a street scene have to agree on: the camera, the curbs, the junction."""

from dataclasses import dataclass

import numpy as np

from tadp_d2.synthetic.drawing.perspective import Camera, StreetPart
from tadp_d2.synthetic.drawing.shapes import bounds

# Distance at which drawings begin, meters: just below the image.
NEAR = 2.4


@dataclass(frozen=True)
class Placed:
    """Something that stands in a street.

    Attributes:
        distance: meters; the farther is drawn first.
        parts: far to near.
        noun: what it is called if it can be counted; the last part is what is meant then.
    """

    distance: float
    parts: tuple[StreetPart, ...]
    noun: str | None = None

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, pixels."""
        return bounds([shape for part in self.parts for shape in part.shapes])


@dataclass(frozen=True)
class Side:
    """One side of the street, in meters from the middle of the camera.

    Attributes:
        sign: -1 for the left and 1 for the right.
        curb: where the road ends.
        walk: where the sidewalk begins and ends.
        front: where walls, fences and buildings stand.
    """

    sign: int
    curb: float
    walk: tuple[float, float]
    front: float


@dataclass(frozen=True)
class Plan:
    """The layout of a scene, in meters if not said otherwise.

    Attributes:
        size: width and height of the image, pixels.
        camera: that looks along the street.
        sides: left and right.
        junction: where a crossing road begins and ends, if there is one.
        end: where the street ends.
    """

    size: tuple[int, int]
    camera: Camera
    sides: tuple[Side, Side]
    junction: tuple[float, float] | None
    end: float

    def seen_from(self, x: float, y: float = 0.0) -> float:
        """The distance from which on a point at (x, y) is in the image."""
        camera = self.camera
        room = self.size[0] - camera.x if x > 0 else camera.x
        aside = abs(x) * camera.focal / (room - 8)
        return max(NEAR, aside, (y - camera.height) * camera.focal / (camera.horizon - 4))


def sample_plan(rng: np.random.Generator, size: tuple[int, int], grassy: bool) -> Plan:
    """A random plan.

    Args:
        rng: source of all choices.
        size: width and height of the image.
        grassy: whether there must be grass along the curbs.
    """
    width, height = size
    camera = Camera(
        focal=width * rng.uniform(0.6, 0.75),
        height=rng.uniform(1.5, 2.3),
        x=width * rng.uniform(0.38, 0.62),
        horizon=height * rng.uniform(0.38, 0.5),
    )
    junction = None
    if rng.random() < 0.5:
        start = rng.uniform(11, 19)
        junction = (start, start + rng.uniform(6, 8))
    sides = (_sample_side(rng, -1, grassy), _sample_side(rng, 1, grassy))
    return Plan(size, camera, sides, junction, end=rng.uniform(45, 80))


def _sample_side(rng: np.random.Generator, sign: int, grassy: bool) -> Side:
    curb = rng.uniform(4.0, 5.6) if sign < 0 else rng.uniform(2.5, 3.6)
    verge = rng.uniform(0.9, 1.8) if grassy or rng.random() < 0.4 else 0.0
    walk = rng.uniform(1.8, 2.8)
    lawn = rng.uniform(0.8, 1.8) if rng.random() < 0.25 else 0.0
    start = curb + verge
    return Side(sign, curb, (start, start + walk), start + walk + lawn)
