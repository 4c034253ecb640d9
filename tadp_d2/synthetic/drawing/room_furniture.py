"""Furniture of flat faces, in meters: what each piece looks like, seen from its front.

A piece stands on the floor around its own origin, x to the right, y up, z to the back, and faces
the viewer, towards smaller z. Where it stands in a room is not decided here.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tadp_d2.synthetic.drawing.shapes import Color, mixed, pick, shaded

WOODS: tuple[Color, ...] = ((150, 108, 70), (112, 78, 52), (186, 148, 104), (206, 184, 152))
FABRICS: tuple[Color, ...] = ((120, 60, 58), (66, 92, 128), (92, 112, 84), (142, 130, 116))
WHITE: Color = (236, 236, 232)
STEEL: Color = (172, 176, 182)
DARK: Color = (46, 46, 52)
_BOOKS: tuple[Color, ...] = ((150, 52, 48), (52, 84, 132), (196, 168, 84), (74, 112, 78), WHITE)
# How far a detail stands out from the face that it lies on.
_ON = 0.006


@dataclass(frozen=True)
class Face:
    """A flat convex polygon.

    Attributes:
        corners: K x 3, meters.
        color: RGB, 0 to 255, in even light.
        hole: whether a depth camera sees nothing there, as on glass and mirrors.
        texture: "planks", "tiles" or "" for plain.
    """

    corners: np.ndarray
    color: Color
    hole: bool = False
    texture: str = ""


Furniture = tuple[Face, ...]


@dataclass(frozen=True)
class Piece:
    """Furniture with a name and the room that it takes.

    Attributes:
        noun: what a caption calls it; empty for what none mentions.
        faces: of it.
        width, depth: of the floor that it covers, meters.
    """

    noun: str
    faces: Furniture
    width: float
    depth: float


def quad(corners: Sequence[tuple[float, float, float]], color: Color, **options) -> Face:
    return Face(np.asarray(corners, float), color, **options)


def cuboid(
    x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], color: Color
) -> list[Face]:
    """The six faces of a box that spans these intervals."""
    (x0, x1), (y0, y1), (z0, z1) = x, y, z
    return [
        quad([(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)], color),
        quad([(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)], color),
        quad([(x0, y0, z0), (x0, y0, z1), (x0, y1, z1), (x0, y1, z0)], color),
        quad([(x1, y0, z0), (x1, y0, z1), (x1, y1, z1), (x1, y1, z0)], color),
        quad([(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)], color),
        quad([(x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1)], color),
    ]


def front(
    x: tuple[float, float], y: tuple[float, float], z: float, color: Color, **options
) -> Face:
    """A detail that lies on a face at `z`, seen from its front."""
    (x0, x1), (y0, y1), near = x, y, z - _ON
    corners = [(x0, y0, near), (x1, y0, near), (x1, y1, near), (x0, y1, near)]
    return quad(corners, color, **options)


def moved(faces: Iterable[Face], turn: float, x: float, z: float) -> Furniture:
    """Faces turned by `turn` quarters, from the viewer to the left, and set down at (x, z)."""
    c, s = np.cos(turn * np.pi / 2), np.sin(turn * np.pi / 2)
    matrix = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return tuple(
        Face(face.corners @ matrix + (x, 0, z), face.color, face.hole, face.texture)
        for face in faces
    )


def _legs(width: float, depth: float, height: float, color: Color) -> list[Face]:
    faces, x, z = [], width / 2 - 0.03, depth / 2 - 0.03
    for sx in (-x, x):
        for sz in (-z, z):
            side = (sx - 0.025, sx + 0.025), (0, height), (sz - 0.025, sz + 0.025)
            faces += cuboid(*side, color)
    return faces


def _span(length: float) -> tuple[float, float]:
    return -length / 2, length / 2


def table(rng: np.random.Generator, width: float, depth: float, noun: str = "table") -> Piece:
    wood, height = pick(rng, WOODS), rng.uniform(0.7, 0.78)
    faces = cuboid(_span(width), (height - 0.04, height), _span(depth), wood)
    return Piece(
        noun, (*faces, *_legs(width, depth, height - 0.04, shaded(wood, 0.8))), width, depth
    )


def chair(rng: np.random.Generator, color: Color | None = None) -> Piece:
    color = color or pick(rng, (*WOODS, *FABRICS))
    faces = cuboid(_span(0.42), (0.42, 0.46), _span(0.42), color)
    faces += cuboid(_span(0.42), (0.46, 0.9), (0.17, 0.21), color)
    return Piece("chair", (*faces, *_legs(0.42, 0.42, 0.42, shaded(color, 0.7))), 0.45, 0.45)


def bed(rng: np.random.Generator) -> Piece:
    width, length, cover = pick(rng, (0.9, 1.4, 1.8)), 2.0, pick(rng, FABRICS)
    wood = pick(rng, WOODS)
    faces = cuboid(_span(width), (0.1, 0.3), _span(length), wood)
    faces += cuboid(_span(width), (0.3, 0.48), _span(length), WHITE)
    faces += cuboid(_span(width + 0.04), (0.3, 0.52), (-length / 2 - 0.02, 0.35), cover)
    faces += cuboid(
        _span(width), (0.1, rng.uniform(0.9, 1.2)), (length / 2, length / 2 + 0.06), wood
    )
    for x in (0.0,) if width < 1.2 else (-width / 4, width / 4):
        faces += cuboid((x - 0.28, x + 0.28), (0.48, 0.6), (0.5, 0.9), WHITE)
    return Piece("bed", tuple(faces), width, length)


def _drawers(x: tuple[float, float], y: tuple[float, float], z: float, rows: int, color: Color):
    """Fronts with handles, one above the other."""
    step = (y[1] - y[0]) / rows
    for row in range(rows):
        low, high = y[0] + row * step + 0.015, y[0] + (row + 1) * step - 0.015
        middle = (low + high) / 2
        yield front((x[0] + 0.015, x[1] - 0.015), (low, high), z, shaded(color, 1.12))
        center = (x[0] + x[1]) / 2
        yield front((center - 0.06, center + 0.06), (middle, middle + 0.025), z - 0.006, DARK)


def nightstand(rng: np.random.Generator) -> Piece:
    wood = pick(rng, WOODS)
    faces = cuboid(_span(0.45), (0, 0.55), _span(0.4), wood)
    faces += _drawers(_span(0.45), (0.05, 0.53), -0.2, 2, wood)
    return Piece("nightstand", tuple(faces), 0.45, 0.4)


def lamp(rng: np.random.Generator) -> Piece:
    height = rng.uniform(1.4, 1.7)
    faces = cuboid(_span(0.28), (0, 0.03), _span(0.28), DARK)
    faces += cuboid(_span(0.03), (0, height), _span(0.03), DARK)
    faces += cuboid(_span(0.36), (height, height + 0.3), _span(0.36), (250, 232, 180))
    return Piece("lamp", tuple(faces), 0.4, 0.4)


def wardrobe(rng: np.random.Generator) -> Piece:
    width, height, wood = rng.uniform(1.0, 1.8), rng.uniform(1.8, 2.2), pick(rng, (*WOODS, WHITE))
    faces = cuboid(_span(width), (0, height), _span(0.6), wood)
    for x in (-width / 2, 0.0):
        faces += _drawers((x, x + width / 2), (0.08, height - 0.03), -0.3, 1, wood)
    return Piece("wardrobe", tuple(faces), width, 0.6)


def shelf(rng: np.random.Generator, width: float | None = None) -> Piece:
    width, height = width or rng.uniform(0.8, 1.4), rng.uniform(1.7, 2.2)
    wood, rows = pick(rng, WOODS), 5
    faces = cuboid(_span(width), (0, height), (0.0, 0.16), shaded(wood, 0.6))
    for side in (-1, 1):
        x = side * width / 2
        faces += cuboid((x - 0.02, x + 0.02), (0, height), (-0.15, 0.16), wood)
    for row in range(rows + 1):
        y = row * (height - 0.03) / rows
        faces += cuboid(_span(width), (y, y + 0.03), (-0.15, 0.0), wood)
    for row in range(rows):
        x, y = -width / 2 + 0.03, row * (height - 0.03) / rows + 0.03
        while x < width / 2 - 0.09:
            thick = rng.uniform(0.03, 0.08)
            if rng.random() < 0.85:
                top = y + rng.uniform(0.2, 0.3)
                faces.append(front((x, x + thick), (y, top), -0.12, pick(rng, _BOOKS)))
            x += thick
    return Piece("bookshelf", tuple(faces), width, 0.32)


def sofa(rng: np.random.Generator, width: float | None = None) -> Piece:
    width, color = width or rng.uniform(1.6, 2.2), pick(rng, FABRICS)
    faces = cuboid(_span(width), (0.08, 0.42), _span(0.85), color)
    faces += cuboid(_span(width), (0.42, 0.82), (0.22, 0.42), shaded(color, 0.94))
    for side in (-1, 1):
        x = side * (width / 2 - 0.09)
        faces += cuboid((x - 0.09, x + 0.09), (0.08, 0.6), _span(0.85), shaded(color, 0.9))
    noun = "sofa" if width > 1.2 else "armchair"
    return Piece(noun, tuple(faces), width, 0.9)


def television(rng: np.random.Generator) -> Piece:
    wood, width = pick(rng, (*WOODS, WHITE)), rng.uniform(1.2, 1.6)
    faces = cuboid(_span(width), (0, 0.45), _span(0.4), wood)
    faces += cuboid(_span(width - 0.2), (0.5, 0.5 + (width - 0.2) * 0.58), (0.0, 0.06), DARK)
    return Piece("television", tuple(faces), width, 0.45)


def plant(rng: np.random.Generator) -> Piece:
    height = rng.uniform(0.7, 1.3)
    faces = cuboid(_span(0.3), (0, 0.3), _span(0.3), (150, 92, 66))
    for _ in range(9):
        x, z = rng.uniform(-0.25, 0.25, 2)
        y, green = rng.uniform(0.35, height), int(rng.integers(70, 130))
        faces += cuboid((x - 0.09, x + 0.09), (y, y + 0.14), (z - 0.09, z + 0.09), (50, green, 52))
    return Piece("plant", tuple(faces), 0.5, 0.5)


def counter(rng: np.random.Generator) -> Piece:
    width, color = rng.uniform(1.6, 2.6), pick(rng, (*WOODS, WHITE))
    faces = cuboid(_span(width), (0, 0.88), _span(0.6), color)
    faces += cuboid(
        _span(width + 0.02), (0.88, 0.92), (-0.32, 0.3), mixed(DARK, STEEL, rng.random())
    )
    faces += cuboid(_span(width), (1.45, 2.1), (-0.05, 0.3), color)
    doors = int(width / 0.5)
    for door in range(doors):
        x = -width / 2 + door * width / doors
        span = (x, x + width / doors)
        faces += _drawers(span, (0.1, 0.86), -0.3, int(rng.integers(1, 4)), color)
        faces += _drawers(span, (1.47, 2.08), -0.05, 1, color)
    return Piece("counter", tuple(faces), width, 0.62)


def refrigerator(rng: np.random.Generator) -> Piece:
    color, height = pick(rng, (WHITE, STEEL)), rng.uniform(1.6, 1.9)
    faces = cuboid(_span(0.65), (0, height), _span(0.65), color)
    faces += _drawers(_span(0.65), (0.05, 0.62 * height), -0.325, 1, color)
    faces += _drawers(_span(0.65), (0.62 * height, height), -0.325, 1, color)
    return Piece("refrigerator", tuple(faces), 0.65, 0.65)


def stove(rng: np.random.Generator) -> Piece:
    faces = cuboid(_span(0.6), (0, 0.9), _span(0.6), STEEL)
    faces.append(front((-0.25, 0.25), (0.15, 0.65), -0.3, DARK))
    top = [(x, 0.906, z) for x, z in ((-0.28, -0.28), (0.28, -0.28), (0.28, 0.28), (-0.28, 0.28))]
    faces.append(quad(top, DARK))
    return Piece("stove", tuple(faces), 0.6, 0.6)


def bathtub(rng: np.random.Generator) -> Piece:
    faces = cuboid(_span(1.6), (0, 0.55), _span(0.75), WHITE)
    rim = ((-0.72, -0.3), (0.72, -0.3), (0.72, 0.3), (-0.72, 0.3))
    faces.append(quad([(x, 0.556, z) for x, z in rim], (196, 206, 210)))
    return Piece("bathtub", tuple(faces), 1.6, 0.75)


def toilet(rng: np.random.Generator) -> Piece:
    faces = cuboid(_span(0.38), (0, 0.4), (-0.3, 0.2), WHITE)
    faces += cuboid(_span(0.4), (0.4, 0.43), (-0.32, 0.2), shaded(WHITE, 0.92))
    faces += cuboid(_span(0.42), (0.3, 0.8), (0.2, 0.36), WHITE)
    return Piece("toilet", tuple(faces), 0.45, 0.7)


def sink(rng: np.random.Generator) -> Piece:
    wood = pick(rng, (*WOODS, WHITE))
    faces = cuboid(_span(0.8), (0, 0.8), _span(0.5), wood)
    faces += _drawers(_span(0.8), (0.08, 0.78), -0.25, 1, wood)
    faces += cuboid(_span(0.84), (0.8, 0.86), _span(0.52), WHITE)
    faces.append(front((-0.35, 0.35), (1.15, 1.85), 0.24, (180, 196, 204), hole=True))
    return Piece("sink", tuple(faces), 0.84, 0.52)


def desk(rng: np.random.Generator) -> Piece:
    width = rng.uniform(1.2, 1.6)
    base = table(rng, width, 0.7)
    faces = list(base.faces)
    faces += cuboid((-0.28, 0.28), (0.86, 1.22), (0.05, 0.09), DARK)
    faces += cuboid((-0.04, 0.04), (0.74, 0.9), (0.08, 0.12), DARK)
    faces += cuboid((-0.22, 0.22), (0.76, 0.79), (-0.25, -0.1), (80, 80, 86))
    return Piece("desk", tuple(faces), width, 0.7)


def washing_machine(rng: np.random.Generator) -> Piece:
    faces = cuboid(_span(0.6), (0, 0.85), _span(0.6), WHITE)
    turns = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    for radius, color, out in ((0.2, STEEL, 0.0), (0.15, DARK, 0.004)):
        ring = [(radius * np.cos(t), 0.45 + radius * np.sin(t), -0.306 - out) for t in turns]
        faces.append(quad(ring, color))
    return Piece("washing machine", tuple(faces), 0.62, 0.62)


def toy(rng: np.random.Generator) -> Piece:
    size, color = rng.uniform(0.15, 0.4), pick(rng, ((206, 60, 52), (60, 110, 190), (228, 190, 70)))
    faces = cuboid(_span(size), (0, size), _span(size), color)
    return Piece("toy", tuple(faces), size, size)


Maker = Callable[[np.random.Generator], Piece]
