"""A room by day, by night and as a watercolor, and the exact depth of every pixel.

Depth is what NYUv2's is: the distance along the camera's axis. The image is lit and grained; the
depth is that of the faces, and nothing that a style adds changes it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from tadp_d2.synthetic.drawing.pixels import (
    blurred,
    on_paper,
    painted_part,
    paper_grain,
    photographed,
    smooth_noise,
    to_image,
)
from tadp_d2.synthetic.drawing.rooms import Room

# Nothing nearer is seen, meters.
_NEAR = 0.1
# Samples of a pixel, each way; an odd number, so that one is in the middle.
_SAMPLES = 3


@dataclass(frozen=True)
class _View:
    """What covers each sample.

    Attributes:
        face: H x W, index of the face.
        depth: H x W, meters along the axis.
        place: H x W x 3, in the room's coordinates.
    """

    face: np.ndarray
    depth: np.ndarray
    place: np.ndarray


class RenderedRoom(NamedTuple):
    """
    Attributes:
        image: RGB.
        depth: H x W float32, meters, 0 for a hole; equal in all styles.
        shares: of the image that each face of the room covers.
    """

    image: Image.Image
    depth: np.ndarray
    shares: np.ndarray


def render_room(room: Room, style: str, rng: np.random.Generator) -> RenderedRoom:
    """Renders a room.

    Args:
        style: a key of `STYLES`.
        rng: source of everything that varies between two renderings of a room.
    """
    view = _look(room)
    canvas = _lit(room, view, **STYLES[style].light)
    steps = range(_SAMPLES)
    canvas = sum(canvas[i::_SAMPLES, j::_SAMPLES] for i in steps for j in steps) / _SAMPLES**2
    middle = slice(_SAMPLES // 2, None, _SAMPLES)
    holes = np.array([face.hole for face in room.faces])[view.face[middle, middle]]
    depth = np.where(holes, 0, view.depth[middle, middle])
    shares = np.bincount(view.face.ravel(), minlength=len(room.faces)) / view.face.size
    return RenderedRoom(STYLES[style].finish(canvas, rng), depth, shares)


def _rotation(room: Room) -> np.ndarray:
    """3 x 3: a direction in the room -> in the camera, x to the right, y down, z ahead."""
    c, s = np.cos(room.turn), np.sin(room.turn)
    turned = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    c, s = np.cos(room.tilt), np.sin(room.tilt)
    tilted = np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    return np.diag([1.0, -1.0, 1.0]) @ tilted @ turned


def _slopes(room: Room) -> tuple[np.ndarray, np.ndarray]:
    """x / z of each column and y / z of each row of samples, in the camera."""
    columns, rows = (np.arange(side * _SAMPLES) for side in (room.width, room.height))
    x = ((columns + 0.5) / _SAMPLES - room.width / 2) / room.focal
    y = ((rows + 0.5) / _SAMPLES - room.height / 2) / room.focal
    return x.astype(np.float32), y.astype(np.float32)


def _look(room: Room) -> _View:
    """Each sample shows the nearest face that covers it."""
    rotation, (x, y) = _rotation(room), _slopes(room)
    nearness = np.zeros((len(y), len(x)), np.float32)
    shown = np.zeros(nearness.shape, np.int16)
    for index, face in enumerate(room.faces):
        corners = _clipped((face.corners - room.eye) @ rotation.T)
        if len(corners) < 3:
            continue
        points = corners[:, :2] / corners[:, 2:] * room.focal + (room.width / 2, room.height / 2)
        window = _window(points * _SAMPLES, nearness.shape)
        if window is None:
            continue
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        offset = normal @ corners[0]
        if abs(offset) < 1e-9:  # seen from its edge
            continue
        # 1 / depth is a linear function of the slopes on every plane.
        a, b, c = (normal / offset).astype(np.float32)
        new = a * x[window[1]] + (b * y[window[0], None] + c)
        mask = _covered(points * _SAMPLES, window) & (new > nearness[window])
        nearness[window][mask] = new[mask]
        shown[window][mask] = index
    depth = 1 / np.maximum(nearness, 1e-6)
    place = depth[..., None] * _directions(rotation, x, y) + np.float32(room.eye)
    return _View(shown, depth, place)


def _directions(rotation: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """H x W x 3: of each sample in the room, of length 1 along the camera's axis."""
    right, down, ahead = rotation.astype(np.float32)
    return x[None, :, None] * right + (y[:, None, None] * down + ahead)


def _clipped(corners: np.ndarray) -> np.ndarray:
    """The part of a polygon (K x 3, in the camera) that is in front of it."""
    kept = []
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if start[2] >= _NEAR:
            kept.append(start)
        if (start[2] >= _NEAR) != (end[2] >= _NEAR):
            kept.append(start + (end - start) * (_NEAR - start[2]) / (end[2] - start[2]))
    return np.array(kept)


def _window(points: np.ndarray, shape: tuple[int, int]) -> tuple[slice, slice] | None:
    low = np.floor(points.min(axis=0)).astype(int).clip(0)
    high = np.ceil(points.max(axis=0)).astype(int) + 1
    high = np.minimum(high, (shape[1], shape[0]))
    if (low >= high).any():
        return None
    return slice(low[1], high[1]), slice(low[0], high[0])


def _covered(points: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
    """Which samples of a window lie in a polygon."""
    rows, columns = window
    mask = Image.new("1", (columns.stop - columns.start, rows.stop - rows.start))
    # Pillow's integer coordinates are the middles of pixels.
    moved = points - (columns.start + 0.5, rows.start + 0.5)
    ImageDraw.Draw(mask).polygon(moved.ravel().tolist(), fill=1)
    return np.asarray(mask)


def _lit(
    room: Room, view: _View, ambient: tuple[float, ...], lamp: tuple[float, ...]
) -> np.ndarray:
    """H x W x 3, 0 to 1: the colors under even light and that of the lamp."""
    colors = np.array([face.color for face in room.faces], np.float32) / 255
    normals = np.array([_normal(face.corners) for face in room.faces], np.float32)
    painted = colors[view.face] * _texture(room, view)[..., None]
    towards = np.float32(room.light) - view.place
    distance = np.sqrt(_dot(towards, towards))
    # Faces have no front and back.
    slope = np.abs(_dot(normals[view.face], towards)) / np.maximum(distance, 1e-6)
    strength = (0.25 + 0.75 * slope) / (1 + (distance / 2.5) ** 2)
    light = np.float32(ambient) + strength[..., None] * np.float32(lamp)
    return painted * light


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("hwc,hwc->hw", a, b)


def _normal(corners: np.ndarray) -> np.ndarray:
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    return normal / np.linalg.norm(normal)


def _planks(place: np.ndarray) -> np.ndarray:
    x = place[:, 0]
    return np.where((x % 0.14) < 0.01, 0.7, 0.93 + 0.07 * np.sin(9.1 * np.floor(x / 0.14)))


def _tiles(place: np.ndarray) -> np.ndarray:
    joint = (place[:, [0, 2]] % 0.33 < 0.012).any(axis=1)
    return np.where(joint, 0.7, 1)


_TEXTURES = {"planks": _planks, "tiles": _tiles}


def _texture(room: Room, view: _View) -> np.ndarray:
    """H x W factors of brightness: joints of planks and tiles."""
    factors = np.ones(view.face.shape, np.float32)
    for index, face in enumerate(room.faces):
        if face.texture:
            here = view.face == index
            factors[here] = _TEXTURES[face.texture](view.place[here])
    return factors


@dataclass(frozen=True)
class _Style:
    """
    Attributes:
        light: arguments of `_lit`.
        finish: makes an image of the lit room.
    """

    light: dict[str, tuple[float, float, float]]
    finish: Callable[[np.ndarray, np.random.Generator], Image.Image]


def _day(canvas: np.ndarray, rng: np.random.Generator) -> Image.Image:
    blotches = 1 + 0.03 * smooth_noise(rng, *canvas.shape[:2], 12)[..., None]
    return photographed(canvas * blotches, (1.02, 1.0, 0.97), 0.014, rng)


def _night(canvas: np.ndarray, rng: np.random.Generator) -> Image.Image:
    gray = canvas.mean(axis=2, keepdims=True)
    return photographed(gray + (canvas - gray) * 0.7, (1.0, 1.0, 1.0), 0.035, rng)


def _watercolor(canvas: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Pale uneven washes, darker along their borders, on grainy paper that is white at the rim."""
    height, width = canvas.shape[:2]
    grain, sheet = paper_grain(rng, height, width), painted_part(rng, height, width)
    washes = _wobbled(canvas.clip(0.05, 1), rng)
    gray = washes.mean(axis=2)
    borders = np.abs(gray - blurred(gray, 2.0))
    patches = 0.26 * smooth_noise(rng, height, width, 26) + 0.14 * smooth_noise(
        rng, height, width, 9
    )
    # A wash as dense as this lets through a power of what its color lets through.
    density = sheet * np.clip(0.6 + patches + 4 * borders, 0.2, 1.4)
    return to_image(on_paper(washes ** density[..., None], grain))


def _wobbled(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As drawn by an unsteady hand: pixels are moved by up to 1.5, neighbors together."""
    height, width = canvas.shape[:2]
    y, x = (
        (place + 1.5 * smooth_noise(rng, height, width, 24)).round().astype(int).clip(0, side - 1)
        for place, side in zip(np.mgrid[:height, :width], (height, width), strict=True)
    )
    return canvas[y, x]


STYLES = {
    "day": _Style({"ambient": (0.5, 0.5, 0.5), "lamp": (0.75, 0.72, 0.66)}, _day),
    "night": _Style({"ambient": (0.09, 0.11, 0.16), "lamp": (0.85, 0.66, 0.42)}, _night),
    # Even light: painters leave the paper bright.
    "watercolor": _Style({"ambient": (0.8, 0.8, 0.8), "lamp": (0.3, 0.3, 0.28)}, _watercolor),
}
