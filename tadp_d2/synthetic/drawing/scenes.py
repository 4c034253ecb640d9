"""What is in an image: its setting, its objects and where they are, and the sentence about it.

How anything looks is not decided here; the same scene can be rendered in every style.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tadp_d2.synthetic.drawing.backdrops import SETTINGS, SKIES
from tadp_d2.synthetic.drawing.class_figures import CLASSES, POSES, figure
from tadp_d2.synthetic.drawing.shapes import Shape, bounds, overlap, transformed
from tadp_d2.synthetic.sentences import counted, listed

# Longest side of an object in pixels, when far away and when near.
_SIZES = {
    "bicycle": (90, 180),
    "bird": (64, 130),
    "car": (100, 185),
    "cat": (80, 155),
    "dog": (84, 160),
    "person": (100, 185),
}
_IMAGE_SIZES = ((320, 240), (240, 320), (288, 288))
_IMAGE_SIZE_SHARES = (0.7, 0.15, 0.15)
_COUNT_SHARES = (0.25, 0.35, 0.25, 0.1, 0.05)
# Room between an object and the rim, pixels: a style may wobble or outline an object by less.
_MARGIN = 9
# Share of the smaller of two boxes that may be covered by the other.
_MAX_OVERLAP = 0.2

_PLACES = {
    "park": "in a park",
    "street": "on a street",
    "beach": "on a beach",
    "meadow": "in a meadow",
}


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene.

    Attributes:
        name: class, one of `class_figures.CLASSES`.
        pose: one of `class_figures.POSES[name]`.
        x: middle of the object, pixels from the left.
        bottom: lowest point of the object, pixels from the top.
        size: longest side, pixels.
        facing: "left" or "right".
        variation: seed of colors and proportions.
        depth: 0 (far) to 1 (near); near objects hide far ones.
        grounded: whether it stands on the ground, and not in the air.
    """

    name: str
    pose: str
    x: float
    bottom: float
    size: float
    facing: str
    variation: int
    depth: float
    grounded: bool = True

    def shapes(self) -> tuple[Shape, ...]:
        """The drawing of the object, in pixels of the image."""
        shapes = figure(self.name, self.pose, self.facing, self.variation)
        return transformed(shapes, (self.size, self.size), (self.x, self.bottom))


@dataclass(frozen=True)
class Scene:
    """What is in an image.

    Attributes:
        width: pixels.
        height: pixels.
        setting: one of `backdrops.SETTINGS`.
        light: one of `backdrops.SKIES`.
        horizon: y at which the ground to stand on begins, pixels from the top.
        seed: of everything that varies within a setting.
        objects: far to near.
    """

    width: int
    height: int
    setting: str
    light: str
    horizon: float
    seed: int
    objects: tuple[SceneObject, ...]


def sample_scene(rng: np.random.Generator, include: str | None = None) -> Scene:
    """A random scene with one to five objects, each inside the image and mostly visible.

    Args:
        rng: source of all choices.
        include: a class that the scene must hold; None for no such wish.
    """
    size, horizon = _sample_size(rng)
    first = include or CLASSES[rng.integers(len(CLASSES))]
    count = 1 + rng.choice(5, p=_COUNT_SHARES)
    others = [CLASSES[i] for i in rng.integers(len(CLASSES), size=count - 1)]
    return _scene(rng, [first, *others], size, horizon)


def sample_scene_of(rng: np.random.Generator, names: Sequence[str]) -> Scene:
    """A random scene with objects of these classes; one that finds no room is left out."""
    return _scene(rng, list(names), *_sample_size(rng))


def _sample_size(rng: np.random.Generator) -> tuple[tuple[int, int], float]:
    """Width and height, and the horizon."""
    width, height = _IMAGE_SIZES[rng.choice(3, p=_IMAGE_SIZE_SHARES)]
    return (width, height), height * rng.uniform(0.4, 0.54)


def _scene(
    rng: np.random.Generator, names: list[str], size: tuple[int, int], horizon: float
) -> Scene:
    return Scene(
        width=size[0],
        height=size[1],
        setting=SETTINGS[rng.integers(len(SETTINGS))],
        light=tuple(SKIES)[rng.integers(len(SKIES))],
        horizon=horizon,
        seed=int(rng.integers(2**31)),
        objects=_placed(rng, names, size, horizon),
    )


def describe(scene: Scene) -> str:
    """One sentence about a scene, such as "a dog and two birds in a park"."""
    return sentence([o.name for o in largest_first(scene)], scene.setting)


def largest_first(scene: Scene) -> list[SceneObject]:
    """The objects in the order in which sentences name them."""
    return sorted(scene.objects, key=lambda o: -o.size)


def sentence(names: Sequence[str], setting: str) -> str:
    """One sentence about things of these classes, in the order of their first mention."""
    things = listed([counted(number, name) for name, number in Counter(names).items()])
    return f"{things} {place(setting)}"


def place(setting: str) -> str:
    """Such as "in a park"."""
    return _PLACES[setting]


def _placed(
    rng: np.random.Generator, names: list[str], size: tuple[int, int], horizon: float
) -> tuple[SceneObject, ...]:
    """Objects of these classes, far to near; one that finds no room is left out."""
    placed: list[SceneObject] = []
    boxes: list[tuple[float, ...]] = []
    for name in names:
        look = _sample_look(rng, name)
        extent = bounds(figure(*look))
        for attempt in range(30):
            # Each attempt asks for less room, so that crowded scenes still come out.
            candidate = _candidate(rng, look, extent, size, horizon, shrink=0.98**attempt)
            left, top, right, bottom = (candidate.size * side for side in extent)
            x, y = candidate.x, candidate.bottom
            box = (x + left, y + top, x + right, y + bottom)
            if all(overlap(box, other) <= _MAX_OVERLAP for other in boxes):
                placed.append(candidate)
                boxes.append(box)
                break
    return tuple(sorted(placed, key=lambda o: o.depth))


def _sample_look(rng: np.random.Generator, name: str) -> tuple[str, str, str, int]:
    """Name, pose, facing and variation of an object."""
    pose = POSES[name][rng.integers(len(POSES[name]))]
    facing = ("left", "right")[rng.integers(2)]
    return name, pose, facing, int(rng.integers(2**31))


def _candidate(
    rng: np.random.Generator,
    look: tuple[str, str, str, int],
    extent: tuple[float, ...],
    size: tuple[int, int],
    horizon: float,
    shrink: float,
) -> SceneObject:
    """An object of this look, and of this extent at size 1, somewhere within the image."""
    (width, height), (left, top, right, _) = size, extent
    name, pose, facing, variation = look
    depth = rng.uniform(0.08, 1)
    far, near = _SIZES[name]
    side = (far + (near - far) * depth) * rng.uniform(0.85, 1.15) * shrink
    side = float(np.clip(side, 48, 190))
    reach = (right - left) / 2 * side
    flying = pose == "flying"
    if flying:
        highest = _MARGIN - top * side
        bottom = rng.uniform(highest, max(horizon, highest))
    else:
        bottom = horizon + (height - _MARGIN - horizon) * depth
    return SceneObject(
        name=name,
        pose=pose,
        x=rng.uniform(_MARGIN + reach, width - _MARGIN - reach),
        bottom=bottom,
        size=side,
        facing=facing,
        variation=variation,
        depth=depth,
        grounded=not flying,
    )
