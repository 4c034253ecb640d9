"""What is in a room, where it stands, and the sentence about it.

A room is a box of 2 to 3 meters in height with furniture of its kind along the walls and in the
middle, seen by someone who stands inside. How it looks is decided in `room_views`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tadp_d2.synthetic.drawing import room_furniture as furniture
from tadp_d2.synthetic.drawing.room_furniture import Face, Maker, Piece, moved, quad
from tadp_d2.synthetic.drawing.shapes import Color, pick
from tadp_d2.synthetic.sentences import counted, listed

SIZE = (256, 192)
_WALLS: tuple[Color, ...] = ((226, 220, 206), (198, 208, 214), (214, 198, 176), (190, 204, 184))
_FLOORS = {
    "planks": ((166, 124, 84), (124, 92, 66), (190, 160, 122)),
    "tiles": ((206, 204, 198), (150, 152, 156), (188, 176, 160)),
    "": ((128, 122, 126), (96, 106, 122), (150, 134, 112)),
}
# As shares of the width, of NYUv2's camera.
_FOCAL = 0.81
_CEILING = (240, 240, 236)
# The corners of a rectangle, one after the other; how far walls reach behind each other, meters.
_AROUND = ((0, 0), (1, 0), (1, 1), (0, 1))
_SEAM = 0.1
# A thing is named in the sentence if it covers this share of the image.
_NOTICED = 0.004
# Free floor around a piece, meters, and how often a place is tried.
_GAP, _TRIES = 0.08, 25


@dataclass(frozen=True)
class RoomKind:
    """A kind of room.

    Attributes:
        width, depth: least and largest, meters.
        floor: a key of the floors.
        walls: what stands along the walls; a name twice stands twice.
        middle: what stands on the floor between.
    """

    width: tuple[float, float]
    depth: tuple[float, float]
    floor: str
    walls: tuple[Maker, ...]
    middle: tuple[Maker, ...] = ()


def _of_table(rng: np.random.Generator, width: float, depth: float, chairs: int) -> Piece:
    """A table with chairs around it."""
    piece, color = furniture.table(rng, width, depth), pick(rng, furniture.WOODS)
    faces = list(piece.faces)
    for number in range(chairs):
        side = -1 if number % 2 else 1
        x = (number // 2 + 0.5) / (chairs / 2) * width - width / 2
        seat = furniture.chair(rng, color)
        faces += moved(seat.faces, 1 - side, x, side * (depth / 2 + 0.1))
    return Piece("table", tuple(faces), width, depth + 0.7)


def _dining_table(rng: np.random.Generator) -> Piece:
    return _of_table(rng, rng.uniform(1.4, 1.9), 0.9, 4)


def _conference_table(rng: np.random.Generator) -> Piece:
    return _of_table(rng, rng.uniform(2.6, 3.4), 1.2, 8)


def _coffee_table(rng: np.random.Generator) -> Piece:
    piece = furniture.table(rng, 1.0, 0.6)
    # Half as high.
    low = tuple(Face(f.corners * (1, 0.55, 1), f.color) for f in piece.faces)
    return Piece("table", low, 1.0, 0.6)


def _armchair(rng: np.random.Generator) -> Piece:
    return furniture.sofa(rng, 0.9)


KINDS = {
    "bathroom": RoomKind(
        (2.2, 3.0), (2.4, 3.4), "tiles", (furniture.bathtub, furniture.sink, furniture.toilet)
    ),
    "bedroom": RoomKind(
        *((3.0, 4.4), (3.4, 4.8), "planks"),
        (furniture.bed, furniture.nightstand, furniture.wardrobe, furniture.lamp),
    ),
    "bookstore": RoomKind(
        *((5.0, 7.0), (6.0, 9.0), "planks", (furniture.shelf,) * 6),
        (furniture.shelf, furniture.shelf, _coffee_table),
    ),
    "classroom": RoomKind(
        *((6.0, 7.5), (7.0, 9.0), "", (furniture.shelf,)),
        (furniture.desk,) * 5 + (furniture.chair,) * 4,
    ),
    "conference room": RoomKind(
        *((4.5, 6.0), (5.5, 7.5), "", (furniture.plant, furniture.television)),
        (_conference_table,),
    ),
    "dining room": RoomKind(
        *((3.4, 4.6), (3.8, 5.4), "planks", (furniture.wardrobe, furniture.plant, furniture.lamp)),
        (_dining_table,),
    ),
    "kitchen": RoomKind(
        *((2.6, 4.0), (3.2, 4.8), "tiles"),
        (furniture.counter, furniture.refrigerator, furniture.stove),
        (furniture.chair,),
    ),
    "laundry room": RoomKind(
        *((2.2, 3.2), (2.6, 3.8), "tiles"),
        (furniture.washing_machine, furniture.washing_machine, furniture.shelf, furniture.sink),
    ),
    "living room": RoomKind(
        *((3.8, 5.4), (4.4, 6.4), "planks"),
        (furniture.sofa, furniture.television, furniture.shelf, furniture.plant),
        (_coffee_table, _armchair),
    ),
    "office": RoomKind(
        *((3.2, 4.8), (3.8, 5.6), "", (furniture.desk, furniture.desk, furniture.shelf)),
        (furniture.chair, furniture.chair),
    ),
    "playroom": RoomKind(
        *((3.4, 4.6), (3.6, 5.2), "", (furniture.shelf, furniture.bed)),
        (furniture.toy,) * 6,
    ),
    "study": RoomKind(
        *((2.8, 3.8), (3.2, 4.4), "planks", (furniture.desk, furniture.shelf, furniture.lamp)),
        (furniture.chair, _armchair),
    ),
}


class Furniture(NamedTuple):
    """Something that can be counted.

    Attributes:
        noun: what it is called.
        start, stop: its faces, from and before these places in the room's.
    """

    noun: str
    start: int
    stop: int


@dataclass(frozen=True)
class Room:
    """A room as it is seen.

    Attributes:
        kind: a key of `KINDS`.
        width, height: of the image, pixels.
        faces: everything, in meters, in the room's own coordinates.
        things: what can be mentioned.
        eye: where the camera is, meters.
        turn, tilt: of the camera, to the right and downwards, radians.
        focal: pixels.
        light: where the lamp is, meters.
    """

    kind: str
    width: int
    height: int
    faces: tuple[Face, ...]
    things: tuple[Furniture, ...]
    eye: tuple[float, float, float]
    turn: float
    tilt: float
    focal: float
    light: tuple[float, float, float]


def sample_room(rng: np.random.Generator, kind: str, size: tuple[int, int] = SIZE) -> Room:
    """A random room of a kind.

    Args:
        rng: source of all choices.
        kind: a key of `KINDS`.
        size: width and height of the image.
    """
    plan = KINDS[kind]
    width, depth, height = rng.uniform(*plan.width), rng.uniform(*plan.depth), rng.uniform(2.4, 3.0)
    eye = (rng.uniform(-0.25, 0.25) * width, rng.uniform(1.2, 1.65), 0.3)
    taken = [(eye[0] - 0.5, eye[0] + 0.5, 0.0, 1.3)]
    faces, things = _shell(rng, plan, width, depth, height), []
    for maker, at_wall in (*((m, True) for m in plan.walls), *((m, False) for m in plan.middle)):
        piece = maker(rng)
        placed = _placed(piece, rng, (width, depth), taken, at_wall)
        if placed:
            things.append(Furniture(piece.noun, len(faces), len(faces) + len(placed)))
            faces += placed
    return Room(
        kind=kind,
        width=size[0],
        height=size[1],
        faces=tuple(faces),
        things=tuple(things),
        eye=eye,
        turn=rng.uniform(-0.45, 0.45),
        tilt=rng.uniform(0.0, 0.3),
        focal=_FOCAL * size[0],
        light=(rng.uniform(-0.2, 0.2) * width, height - 0.3, rng.uniform(0.35, 0.65) * depth),
    )


def _placed(
    piece: Piece,
    rng: np.random.Generator,
    floor: tuple[float, float],
    taken: list[tuple[float, float, float, float]],
    at_wall: bool,
) -> Sequence[Face]:
    """The faces of a piece in a free place, which it then takes; none if there is no such place."""
    width, depth = floor
    for _ in range(_TRIES):
        # It looks to the viewer, or from the right (-1) or the left wall (1) into the room.
        turn = int(rng.integers(-1, 2))
        along, across = (piece.width, piece.depth) if turn == 0 else (piece.depth, piece.width)
        if along + 0.1 > width or across + 0.1 > depth:
            continue
        room = (width - along) / 2 - 0.03
        x = rng.uniform(-room, room)
        z = rng.uniform(across / 2 + 0.03, depth - across / 2 - 0.03)
        if at_wall and turn == 0:
            z = depth - across / 2 - 0.03
        elif at_wall:
            x = -turn * room
        box = (x - along / 2, x + along / 2, z - across / 2, z + across / 2)
        if not any(_meet(box, other) for other in taken):
            taken.append(box)
            return moved(piece.faces, turn, x, z)
    return ()


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[1] + _GAP and b[0] < a[1] + _GAP and a[2] < b[3] + _GAP and b[2] < a[3] + _GAP


def _shell(
    rng: np.random.Generator, kind: RoomKind, width: float, depth: float, height: float
) -> list[Face]:
    """Floor, ceiling and walls, with a window or a painting."""
    wall, floor = pick(rng, _WALLS), pick(rng, _FLOORS[kind.floor])
    w, d, h = width / 2, depth, height
    # Each goes on behind the others, so that no seam is open.
    x, y, z = (-w - _SEAM, w + _SEAM), (-_SEAM, h + _SEAM), (-_SEAM, d + _SEAM)
    faces = [
        quad([(x[i], level, z[j]) for i, j in _AROUND], color, texture=texture)
        for level, color, texture in ((0, floor, kind.floor), (h, _CEILING, ""))
    ]
    faces.append(quad([(x[i], y[j], d) for i, j in _AROUND], wall))
    faces += [quad([(side, y[i], z[j]) for i, j in _AROUND], wall) for side in (-w, w)]
    for turn in rng.permutation([-1, 0, 1])[: rng.integers(1, 4)]:
        faces += _on_wall(rng, int(turn), width, depth, height)
    return faces


def _on_wall(
    rng: np.random.Generator, turn: int, width: float, depth: float, height: float
) -> list[Face]:
    """A window or a painting on the left (1), far (0) or right (-1) wall."""
    length = width if turn == 0 else depth
    wide, high = rng.uniform(0.5, min(1.4, length / 3)), rng.uniform(0.5, 1.0)
    low = rng.uniform(1.0, max(1.05, height - high - 0.2))
    x = rng.uniform(-0.5, 0.5) * (length - wide - 0.4)
    span, rows = (x - wide / 2, x + wide / 2), (low, low + high)
    inner = (span[0] + 0.05, span[1] - 0.05), (low + 0.05, low + high - 0.05)
    faces = [furniture.front(span, rows, 0.0, pick(rng, (*furniture.WOODS, furniture.WHITE)))]
    if rng.random() < 0.5:
        faces.append(furniture.front(*inner, -0.005, (214, 232, 246), hole=True))
    else:
        faces.append(furniture.front(*inner, -0.005, pick(rng, furniture.FABRICS)))
    place = {0: (0.0, depth), 1: (-width / 2, depth / 2), -1: (width / 2, depth / 2)}[turn]
    return list(moved(faces, turn, *place))


def describe(room: Room, shares: np.ndarray) -> str:
    """One sentence about a room, such as "a bedroom with a bed and two nightstands".

    Args:
        shares: of the image that each face covers; what can hardly be seen is left out.
    """
    seen = Counter(t.noun for t in room.things if shares[t.start : t.stop].sum() > _NOTICED)
    things = [counted(number, noun) for noun, number in seen.items()]
    sentence = counted(1, room.kind)
    return f"{sentence} with {listed(things)}" if things else sentence
