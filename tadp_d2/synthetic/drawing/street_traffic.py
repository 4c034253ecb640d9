"""Which vehicles and people are in a street, and where."""

from collections.abc import Sequence

import numpy as np

from tadp_d2.synthetic.drawing.perspective import on_ground
from tadp_d2.synthetic.drawing.shapes import Shape, overlap, pick
from tadp_d2.synthetic.drawing.street_figures import person, two_wheeler
from tadp_d2.synthetic.drawing.street_plan import NEAR, Placed, Plan
from tadp_d2.synthetic.drawing.street_vehicles import ENDS, along_street, crossing

_TWO_WHEELERS = (("bicycle", True), ("motorcycle", True), ("bicycle", False), ("motorcycle", False))
_RIDERS = {"bicycle": "bicyclist", "motorcycle": "motorcyclist"}
# Of scenes with 0, 1, 2 ... two-wheelers, cars, people.
_COUNT_SHARES = ((0.2, 0.4, 0.4), (0.12, 0.33, 0.35, 0.2), (0.15, 0.25, 0.25, 0.2, 0.15))
# Share of the smaller of two boxes that may be covered by the other.
_MAX_OVERLAP = 0.25
# Of its bounding box, how much of a thing must lie in the image.
_MIN_INSIDE = 0.6
_ATTEMPTS = 40
# Meters, about.
_TALL = {"car": 1.5, "truck": 3.2, "bus": 3.0, "train": 3.3}
_LONG = {"car": 4.4, "truck": 7.6, "bus": 9.2, "train": 16.0}

# x0, z0, x1, z1 on the ground, meters.
_Footprint = tuple[float, float, float, float]


class Traffic:
    """Puts vehicles and people on a street, each mostly inside the image and mostly visible.

    Attributes:
        placed: all of them.
        shadows: of all, on the ground.
    """

    def __init__(self, rng: np.random.Generator, plan: Plan, reserved: list[tuple[float, ...]]):
        self._rng, self._plan, self._camera = rng, plan, plan.camera
        self._boxes = reserved
        self.placed: list[Placed] = []
        self.shadows: list[Shape] = []

    def place_all(self, heavy: Sequence[str], first: str | None) -> None:
        """Places vehicles and people; one that finds no room is left out.

        Args:
            heavy: the trucks, buses and trams among them.
            first: a class that is to be there, so that it gets the best place.
        """
        rng = self._rng
        two_wheelers, cars, people = (rng.choice(len(p), p=p) for p in _COUNT_SHARES)
        machines = [_TWO_WHEELERS[i] for i in rng.permutation(4)[:two_wheelers]]
        queue = [(name, False) for name in heavy] + machines
        queue += [*[("car", False)] * cars, *[("person", False)] * people]
        if first == "rider":
            queue.insert(0, _TWO_WHEELERS[rng.integers(2)])
        elif first in _RIDERS:
            queue.insert(0, (first, rng.random() < 0.5))
        elif first in ENDS or first == "person":
            queue.insert(0, (first, False))
        for name, ridden in queue:
            self._place(name, ridden)

    def _place(self, name: str, ridden: bool) -> None:
        make = {
            **dict.fromkeys(ENDS, self._vehicle),
            **dict.fromkeys(_RIDERS, self._machine),
            "person": self._pedestrian,
        }[name]
        for _ in range(_ATTEMPTS):
            found = make(name, ridden)
            if found and self._has_room(found[0].box):
                placed, (x0, z0, x1, z1) = found
                self._boxes.append(placed.box)
                self.placed.append(placed)
                ground = on_ground([(x0, max(z0 - 0.15, NEAR), x1, z1)])
                self.shadows += self._camera.details(ground, (0, 0, 0))
                return

    def _fits(self, x: float, z: float, half: float, tall: float) -> bool:
        """Whether something of this size finds room, asked before it is drawn."""
        (left, top), (right, bottom) = self._camera.project([(x - half, tall, z), (x + half, 0, z)])
        return self._has_room((left, top, right, bottom))

    def _has_room(self, box: tuple[float, ...]) -> bool:
        free = all(overlap(box, other) <= _MAX_OVERLAP for other in self._boxes)
        return free and self._inside(box) >= _MIN_INSIDE

    def _inside(self, box: tuple[float, ...]) -> float:
        """How much of a box lies in the image."""
        width, height = self._plan.size
        seen = max(0, min(box[2], width) - max(box[0], 0))
        seen *= max(0, min(box[3], height) - max(box[1], 0))
        return seen / ((box[2] - box[0]) * (box[3] - box[1]))

    def _distance(self, x: float, low: float, high: float) -> float:
        """A distance between two at which a thing at `x` is in the image."""
        low = max(low, self._plan.seen_from(x) + 0.3)
        return self._rng.uniform(low, max(low + 1, high))

    def _vehicle(self, name: str, _: bool) -> tuple[Placed, _Footprint] | None:
        rng, camera, (left, right) = self._rng, self._camera, self._plan.sides
        noun = "tram" if name == "train" else name
        middle = (right.curb - left.curb) / 2
        if self._plan.junction and rng.random() < 0.4:
            z = sum(self._plan.junction) / 2
            half = _LONG[name] / 2
            # Its middle is seen between the corners of this side of the junction.
            widening = z / self._plan.junction[0]
            x = rng.uniform(0.5 * half - left.front * widening, right.front * widening - 0.5 * half)
            if not self._fits(x, z, half, _TALL[name]):
                return None
            part = crossing(camera, rng, name, x, z, pick(rng, (-1, 1)))
            return Placed(z, (part,), noun), (x - half, z, x + half, z + 1.8)
        z = rng.uniform(5.5 if name == "car" else 7.5, 15)
        parked = name == "car" and rng.random() < 0.5
        on_left = name == "train" or rng.random() < 0.5
        if parked:
            x, rear = 1.0 - left.curb if on_left else right.curb - 1.0, rng.random() < 0.7
        elif on_left:
            x, rear = (middle - left.curb) / 2, False
        else:
            x, rear = (middle + right.curb) / 2 + rng.uniform(-0.3, 0.3), True
        if not self._fits(x, z, 0.9, _TALL[name]):
            return None
        end = ENDS[name](rng, bool(rear))
        part = along_street(camera, name, end, x, z, lit=not parked)
        footprint = (x - end.half_width, z, x + end.half_width, z + end.length)
        return Placed(z, (part,), noun), footprint

    def _machine(self, name: str, ridden: bool) -> tuple[Placed, _Footprint] | None:
        rng, (left, right) = self._rng, self._plan.sides
        if ridden:
            x = rng.uniform(0.8 - left.curb, right.curb - 0.8)
        else:
            side = self._plan.sides[int(rng.integers(2))]
            x = side.sign * rng.uniform(side.walk[0] + 0.3, side.walk[1])
        z = self._distance(x, 4.2, 8)
        if not self._fits(x, z, 0.7, 1.6):
            return None
        parts = two_wheeler(self._camera, rng, name, ridden, x, z)
        placed = Placed(z, tuple(parts), _RIDERS[name] if ridden else name)
        return placed, (x - 0.8, z - 0.1, x + 0.8, z + 0.3)

    def _pedestrian(self, name: str, _: bool) -> tuple[Placed, _Footprint] | None:
        rng, (left, right) = self._rng, self._plan.sides
        if rng.random() < 0.35:
            x = rng.uniform(-left.curb, right.curb)
        else:
            side = self._plan.sides[int(rng.integers(2))]
            x = side.sign * rng.uniform(side.walk[0] + 0.2, side.walk[1] - 0.2)
        z = self._distance(x, 4.2, 9)
        if not self._fits(x, z, 0.3, 1.7):
            return None
        part = person(self._camera, rng, x, z)
        return Placed(z, (part,), name), (x - 0.35, z - 0.1, x + 0.35, z + 0.25)
