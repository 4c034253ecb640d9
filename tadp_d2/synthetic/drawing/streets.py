"""What is in a street scene seen from a car, where it stands, and the sentence about it.

A scene is sampled in meters and kept as drawings that know their class and distance. The drawings
are in `street_sides`, `street_vehicles` and `street_figures`, what moves is placed in
`street_traffic`, and how the scene looks by day, in fog and at night is decided in `street_styles`.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from tadp_d2.data.datasets.cityscapes_categories import IDS, IGNORE_LABEL
from tadp_d2.synthetic.drawing.perspective import SKY, Camera, StreetPart, rectangle
from tadp_d2.synthetic.drawing.shapes import Shape, bounds, pick, polygon
from tadp_d2.synthetic.drawing.street_figures import (
    Lamp,
    lamp_post,
    post,
    traffic_light,
    traffic_sign,
)
from tadp_d2.synthetic.drawing.street_plan import NEAR, Placed, Plan, Side, sample_plan
from tadp_d2.synthetic.drawing.street_sides import (
    FAR,
    PAVEMENTS,
    bonnet,
    building,
    fence,
    grass,
    hedge,
    pavement,
    road,
    skyline,
    street_tree,
    strip,
    wall,
)
from tadp_d2.synthetic.drawing.street_traffic import Traffic
from tadp_d2.synthetic.sentences import counted, listed

SIZE = (512, 256)

_DAYLIGHTS = ("morning", "noon", "overcast")
_LAMP_COLORS = ((1.0, 0.7, 0.38), (1.0, 0.82, 0.56), (1.0, 0.76, 0.44))
_POLE_TONES = ((96, 100, 102), (70, 84, 78), (132, 134, 136))
_CARRIED = {"traffic light": traffic_light, "traffic sign": traffic_sign}
# Lowest and highest roofs of a scene, meters.
_HEIGHTS = ((4, 7), (6, 10), (9, 16))
_FRONTS = {"wall": wall, "fence": fence, "hedge": hedge}
_HEAVY = ("truck", "bus", "train")
# A thing is counted if its class covers this share of its box, as even a bicycle does.
_VISIBLE = 0.1
# A class is named in the sentence if it covers this share of the image.
_NOTICED = 0.004
_SURROUNDINGS = {
    "building": "buildings",
    "vegetation": "trees",
    "wall": "a wall",
    "fence": "a fence",
    "terrain": "grass",
}


@dataclass(frozen=True)
class Thing:
    """Something that can be counted.

    Attributes:
        noun: what it is called.
        label: its class id.
        box: left, top, right and bottom, pixels.
    """

    noun: str
    label: int
    box: tuple[float, float, float, float]

    def is_visible(self, labels: np.ndarray) -> bool:
        """Whether a label map (H x W) shows it, and not what hides it."""
        left, top, right, bottom = (max(0, round(side)) for side in self.box)
        region = labels[top:bottom, left:right]
        return region.size > 0 and bool((region == self.label).mean() > _VISIBLE)


@dataclass(frozen=True)
class Street:
    """A street scene.

    Attributes:
        width: pixels.
        height: pixels.
        light: of the day, one of `backdrops.SKIES`.
        camera: that looks at it.
        parts: everything that has a class, far to near. They cover the image.
        shadows: on the ground, in pixels.
        lamps: street lamps, on when it is dark.
        things: what can be counted, vehicles and people from near to far before all else.
    """

    width: int
    height: int
    light: str
    camera: Camera
    parts: tuple[StreetPart, ...]
    shadows: tuple[Shape, ...]
    lamps: tuple[Lamp, ...]
    things: tuple[Thing, ...]


def sample_street(
    rng: np.random.Generator, size: tuple[int, int] = SIZE, include: str | None = None
) -> Street:
    """A random street.

    Args:
        rng: source of all choices.
        size: width and height of the image.
        include: a class that the scene is meant to show; None for no such wish.
    """
    plan = sample_plan(rng, size, grassy=include == "terrain")
    heavy = _sample_heavy(rng, include)
    layers = _ground(rng, plan, has_rails="train" in (*heavy, include))
    poles, lamps = _poles(rng, plan, include)
    carried = [pole for pole in poles if pole.noun]
    traffic = Traffic(rng, plan, reserved=[pole.box for pole in carried])
    traffic.place_all(heavy, include)
    placed = [*_sides(rng, plan, include), *poles, *traffic.placed]
    placed.sort(key=lambda item: -item.distance)
    parts = [*layers, *(part for item in placed for part in item.parts)]
    if rng.random() < 0.35:
        parts.append(bonnet(rng, size, IGNORE_LABEL))
    movers = sorted(traffic.placed, key=lambda item: item.distance)
    return Street(
        width=size[0],
        height=size[1],
        light=pick(rng, _DAYLIGHTS),
        camera=plan.camera,
        parts=tuple(_seen(parts, size)),
        shadows=tuple(traffic.shadows),
        lamps=tuple(lamps),
        things=tuple(map(_thing, [*movers, *carried])),
    )


def _thing(placed: Placed) -> Thing:
    part = placed.parts[-1]
    return Thing(placed.noun, part.label, bounds(part.shapes))


def _seen(parts: list[StreetPart], size: tuple[int, int]) -> list[StreetPart]:
    """Parts without the shapes that lie outside the image."""
    shapes = [shape for part in parts for shape in part.shapes]
    points = np.concatenate([shape.points for shape in shapes])
    starts = np.cumsum([0, *(len(shape.points) for shape in shapes[:-1])])
    margin = np.array([[shape.width] for shape in shapes])
    low = np.minimum.reduceat(points, starts) - margin
    high = np.maximum.reduceat(points, starts) + margin
    seen = iter(((high > 0) & (low < size)).all(axis=1))
    kept = [replace(part, shapes=tuple(s for s in part.shapes if next(seen))) for part in parts]
    return [part for part in kept if part.shapes]


def describe(street: Street, labels: np.ndarray) -> str:
    """One sentence about a street, such as "two cars and a person on a street with trees".

    Args:
        street: what is there.
        labels: H x W class ids; what can hardly be seen in them is left out.
    """
    share = np.bincount(labels.ravel(), minlength=256) / labels.size
    nouns = Counter(thing.noun for thing in street.things if thing.is_visible(labels))
    phrases = {noun: counted(number, noun) for noun, number in nouns.items()}
    around = [noun for name, noun in _SURROUNDINGS.items() if share[IDS[name]] > _NOTICED]
    around += [phrases.pop(noun) for noun in _CARRIED if noun in phrases]
    sentence = f"{listed([*phrases.values()])} on a street" if phrases else "a street"
    return f"{sentence} with {listed(around)}" if around else sentence


# --- the place ----------------------------------------------------------------------------------


def _sample_heavy(rng: np.random.Generator, include: str | None) -> list[str]:
    """The trucks, buses and trams of a scene: one or two of different kinds."""
    kinds = [_HEAVY[i] for i in rng.permutation(3)[: 1 + (rng.random() < 0.25)]]
    return [kind for kind in kinds if kind != include]


def _ground(rng: np.random.Generator, plan: Plan, has_rails: bool) -> list[StreetPart]:
    """Sky, skyline and everything flat, in the order in which it is drawn."""
    camera, (width, height) = plan.camera, plan.size
    sky = polygon(rectangle(-2, -2, width + 2, height + 2), (200, 220, 240))
    parts = [StreetPart(IDS["sky"], (sky,), SKY)]
    parts += skyline(camera, rng, plan.end + 12, rng.uniform(7, 16))
    stone = pick(rng, PAVEMENTS)
    for side in plan.sides:
        s, far = side.sign, 90 * side.sign
        parts.append(grass(camera, rng, s * side.curb, far, NEAR, FAR))
        parts.append(pavement(camera, s, *side.walk, NEAR, FAR, stone))
        if plan.junction:
            for z in (plan.junction[0] - 2.2, plan.junction[1]):
                parts.append(strip(camera, "sidewalk", s * side.curb, far, z, z + 2.2, stone))
    left, right = plan.sides
    edges = (-left.curb, right.curb)
    middle = (edges[0] + edges[1]) / 2
    rails = [(edges[0] + middle) / 2] if has_rails else []
    return parts + road(camera, rng, edges, middle, NEAR, plan.junction, rails)


def _sides(rng: np.random.Generator, plan: Plan, include: str | None) -> list[Placed]:
    """What lines the street."""
    level, placed = pick(rng, _HEIGHTS), []
    options = (None, *_FRONTS)
    kinds = [options[i] for i in rng.permutation(len(options))[:2]]
    starts = [plan.seen_from(side.sign * side.front) - rng.uniform(0, 3) for side in plan.sides]
    if include in _FRONTS:
        kinds[np.argmin(starts)] = include
    for side, kind, start in zip(plan.sides, kinds, starts, strict=True):
        # Only near lots have something before the buildings: farther away it would be a speck.
        count = rng.integers(2, 4)
        for number, stretch in enumerate(_stretches(rng, plan, max(start, NEAR))):
            front = kind if number < count else None
            placed.append(Placed(stretch[1], _lot(rng, plan, side, stretch, level, front)))
    return placed


def _stretches(rng: np.random.Generator, plan: Plan, start: float) -> Iterator[tuple[float, float]]:
    """Where lots begin and end; the junction and its sidewalks lie between two of them."""
    gap = (plan.junction[0] - 2.2, plan.junction[1] + 2.2) if plan.junction else (FAR, FAR)
    z = start
    while z < plan.end:
        stop = z + rng.uniform(7, 13)
        if z < gap[1] and stop > gap[0]:
            stop = gap[0]
        if stop - z > 2.5:
            yield z, stop
        z = gap[1] if stop == gap[0] else stop


def _lot(
    rng: np.random.Generator,
    plan: Plan,
    side: Side,
    stretch: tuple[float, float],
    level: tuple[float, float],
    kind: str | None,
) -> tuple[StreetPart, ...]:
    """A building or trees, and a wall, fence or hedge of this kind before them."""
    parts, (z0, z1), camera = [], stretch, plan.camera
    yard = rng.uniform(2.5, 5) if kind else 0.0
    if rng.random() < 0.24:
        for z in np.sort(rng.uniform(z0, z1, 3))[::-1]:
            x = side.sign * (side.front + rng.uniform(1.5, 5))
            parts.append(street_tree(camera, rng, x, z, rng.uniform(3.5, 6.5)))
    else:
        parts += building(
            camera, rng, side.sign, side.front + yard, z0, z1 - 0.3, rng.uniform(*level)
        )
        if kind and rng.random() < 0.5:
            x = side.sign * (side.front + 1.4)
            parts.append(street_tree(camera, rng, x, rng.uniform(z0 + 1, z1), rng.uniform(3, 4.5)))
    if kind:
        parts += _FRONTS[kind](camera, rng, side.sign, side.front, z0, z1)
    return tuple(parts)


def _poles(
    rng: np.random.Generator, plan: Plan, include: str | None
) -> tuple[list[Placed], list[Lamp]]:
    """Poles and trees along the curbs, and the street lamps among them."""
    placed: list[Placed] = []
    lamps: list[Lamp] = []
    color, thickness = pick(rng, _LAMP_COLORS), rng.uniform(0.15, 0.2)
    tone = pick(rng, _POLE_TONES)
    carried = [name if name == include or rng.random() < 0.55 else None for name in _CARRIED]
    rng.shuffle(carried)
    for side, name in zip(plan.sides, carried, strict=True):
        x = side.sign * (side.curb + 0.35)
        # One that is out of the image lights what is near.
        lamps.append(Lamp((x, 5.0, rng.uniform(1, 6)), color))
        z = plan.seen_from(x) + rng.uniform(0.4, 1.6)
        if name:
            z = max(z, plan.seen_from(x, 4.0))
            for _ in range(1 + (rng.random() < 0.35)):
                parts = _CARRIED[name](plan.camera, rng, x, z, thickness)
                placed.append(Placed(z, tuple(parts), name))
                z += rng.uniform(3, 5)
        green = rng.random() < 0.45
        while z < 48:
            if plan.junction and plan.junction[0] - 1 < z < plan.junction[1] + 1:
                z = plan.junction[1] + 1.5
            choice = rng.random()
            if green and choice < 0.5 and z > 8:
                part = street_tree(plan.camera, rng, x, z, rng.uniform(3.6, 5.5))
            elif choice < 0.85 or z > 20:
                height = rng.uniform(4.2, 5.4)
                part, bulb = lamp_post(plan.camera, x, z, height, thickness, tone)
                lamps.append(Lamp(bulb, color))
            else:
                part = post(plan.camera, x, z, rng.uniform(3, 6), thickness)
            placed.append(Placed(z, (part,)))
            z += rng.uniform(5, 11)
    return placed, lamps
