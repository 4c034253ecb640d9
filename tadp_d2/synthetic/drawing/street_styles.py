"""Renderings of a street scene by day, in fog and at night, and its label map.

The label map is drawn from the shapes of the images, and from nothing that a style adds.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tadp_d2.data.datasets.cityscapes_categories import IDS, IGNORE_LABEL
from tadp_d2.synthetic.drawing.backdrops import SKIES
from tadp_d2.synthetic.drawing.pixels import (
    LIGHTS,
    gradient,
    photographed,
    smooth_noise,
    smoothstep,
    to_image,
    unit_rgb,
)
from tadp_d2.synthetic.drawing.shapes import SUPERSAMPLING, Shape, fill, rasterize, soft_pen
from tadp_d2.synthetic.drawing.streets import Street

_GROUND = [IDS[name] for name in ("road", "sidewalk", "terrain")]
# Relative brightness of fine grain and of blotches, by class; others have little of both.
_TEXTURES = {
    "road": (0.05, 0.05),
    "sidewalk": (0.035, 0.05),
    "building": (0.03, 0.05),
    "wall": (0.06, 0.08),
    "vegetation": (0.16, 0.14),
    "terrain": (0.13, 0.12),
    "sky": (0.0, 0.0),
}
_PLAIN = (0.015, 0.03)

# Meters; what lamps beyond it light is dark anyway.
_FARTHEST_LAMP = 35

# Share of light that fog takes on each meter, and its color.
_FOG, _FOG_COLOR = 0.045, (0.78, 0.79, 0.8)


def render_street(
    street: Street, style: str, rng: np.random.Generator
) -> tuple[Image.Image, np.ndarray]:
    """Renders a scene.

    Args:
        street: what to draw.
        style: one of `STYLES`.
        rng: source of everything that varies between two renderings of a scene.

    Returns:
        The RGB image, and its labels (H x W uint8, class ids and 255), equal in all styles.
    """
    labels, nearness = _surfaces(street)
    return STYLES[style](street, labels, nearness, rng), labels


def _surfaces(street: Street) -> tuple[np.ndarray, np.ndarray]:
    """Label (H x W uint8) and 1 / meter (H x W float32) of what covers the middle of a pixel."""
    size = (street.width * SUPERSAMPLING, street.height * SUPERSAMPLING)
    # Bytes where they do: they are drawn faster.
    canvas = Image.new("L" if len(street.parts) <= 256 else "I", size)
    draw = ImageDraw.Draw(canvas)
    for number, part in enumerate(street.parts):
        for shape in part.shapes:
            fill(draw, shape, shape.points * SUPERSAMPLING, SUPERSAMPLING, number)
    middle = SUPERSAMPLING // 2
    numbers = np.asarray(canvas)[middle::SUPERSAMPLING, middle::SUPERSAMPLING]
    labels = np.array([part.label for part in street.parts], dtype=np.uint8)[numbers]
    planes = np.array([part.surface for part in street.parts], dtype=np.float32)[numbers]
    y, x = np.mgrid[: street.height, : street.width].astype(np.float32) + 0.5
    nearness = planes[..., 0] * x + planes[..., 1] * y + planes[..., 2]
    return labels, np.clip(nearness, 0, 1)


def _painted(street: Street, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The scene in even light: H x W x 3, 0 to 1."""
    shapes = [shape for part in street.parts for shape in part.shapes]
    canvas = rasterize(shapes, (street.width, street.height), soft_pen).rgb
    brightness = (1 + _texture(labels, rng)) * (1 - 0.55 * _shadow(street, labels))
    return canvas * brightness[..., None]


def _texture(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Relative brightness that the materials of the classes add: H x W, around 0."""
    height, width = labels.shape
    amounts = np.full((256, 2), _PLAIN, dtype=np.float32)
    for name, texture in _TEXTURES.items():
        amounts[IDS[name]] = texture
    grain = smooth_noise(rng, height, width, 1.5) + 0.65 * smooth_noise(rng, height, width, 3)
    blotches = smooth_noise(rng, height, width, 12, 1.6)
    return amounts[:, 0][labels] * grain + amounts[:, 1][labels] * blotches


def _shadow(street: Street, labels: np.ndarray) -> np.ndarray:
    """How much of the ground lies beneath things: H x W, 0 to 1."""
    shade = Image.new("L", (street.width, street.height))
    draw = ImageDraw.Draw(shade)
    for shape in street.shadows:
        draw.polygon(shape.points.ravel().tolist(), fill=255)
    soft = np.asarray(shade.filter(ImageFilter.GaussianBlur(2)), dtype=np.float32) / 255
    return soft * np.isin(labels, _GROUND)


def _sky(street: Street, rng: np.random.Generator) -> np.ndarray:
    """H x W x 3 sky of the scene's daylight, with clouds."""
    top, low = map(unit_rgb, SKIES[street.light])
    height, width = street.height, street.width
    sky = top + (low - top) * gradient(height, 0, street.camera.horizon)[..., None]
    clouds = smooth_noise(rng, height, width, 26, 3)
    clouds = clouds + 0.6 * smooth_noise(rng, height, width, 10, 2.5)
    return sky + 0.5 * (1 - sky) * smoothstep(0.1, 1.0, clouds)[..., None]


def _daylit(street: Street, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    canvas = _painted(street, labels, rng)
    is_sky = labels == IDS["sky"]
    canvas[is_sky] = _sky(street, rng)[is_sky]
    return canvas


def _day(
    street: Street, labels: np.ndarray, nearness: np.ndarray, rng: np.random.Generator
) -> Image.Image:
    """Natural colors, soft light, mild grain."""
    return photographed(_daylit(street, labels, rng), LIGHTS[street.light], 0.014, rng)


def _foggy(
    street: Street, labels: np.ndarray, nearness: np.ndarray, rng: np.random.Generator
) -> Image.Image:
    """The day behind fog that takes a share of the light on every meter."""
    canvas = _daylit(street, labels, rng)
    through = np.exp(-_FOG / np.maximum(nearness, 1e-4))[..., None]
    fog = np.asarray(_FOG_COLOR, dtype=np.float32)
    return photographed(fog + (canvas - fog) * through, (1, 1, 1), 0.014, rng)


def _night(
    street: Street, labels: np.ndarray, nearness: np.ndarray, rng: np.random.Generator
) -> Image.Image:
    """Faint bluish light, pools of lamplight, lit windows and headlights, a noisy sensor."""
    canvas = _painted(street, labels, rng)
    gray = canvas.mean(axis=2, keepdims=True)
    canvas = gray + (canvas - gray) * 0.55
    canvas *= np.float32((0.115, 0.13, 0.175)) + _lamplight(street, labels, nearness)
    sky = (
        np.float32((0.02, 0.025, 0.05))
        + np.float32((0.05, 0.04, 0.03))
        * gradient(street.height, -0.6 * street.camera.horizon, street.camera.horizon)[..., None]
    )
    canvas = np.where((labels == IDS["sky"])[..., None], sky, canvas)
    shining = _shining(street)
    canvas = np.maximum(canvas, shining)
    for step, radius, share in ((2, 1.0, 0.6), (4, 1.3, 0.9), (8, 1.8, 1.3)):
        canvas += share * _spread(shining, step, radius)
    canvas = canvas / (1 + 0.4 * canvas)
    noise = rng.standard_normal(canvas.shape, dtype=np.float32)
    return photographed(canvas + 0.022 * noise, (1, 1, 1), 0.03, rng)


def _spread(light: np.ndarray, step: int, radius: float) -> np.ndarray:
    """Light (H x W x 3, 0 to 1) scattered over `step * radius` pixels."""
    image = to_image(light)
    small = image.reduce(step).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(small.resize(image.size, Image.Resampling.BILINEAR), np.float32) / 255


def _shining(street: Street) -> np.ndarray:
    """What shines by itself and is not hidden: H x W x 3, 0 to 1."""
    shapes = []
    for part in street.parts:
        shapes += [Shape(s.points, (0, 0, 0), s.width) for s in part.shapes]
        shapes += part.lit
    return rasterize(shapes, (street.width, street.height), _flat_pen).rgb


def _flat_pen(draw: ImageDraw.ImageDraw, shape: Shape, points: np.ndarray, unit: float) -> None:
    fill(draw, shape, points, unit, shape.color)


def _lamplight(street: Street, labels: np.ndarray, nearness: np.ndarray) -> np.ndarray:
    """Light of street lamps and of the own headlights on each pixel: H x W x 3."""
    camera = street.camera
    z = 1 / np.maximum(nearness, 1 / 150)
    rows, columns = np.mgrid[: street.height, : street.width].astype(np.float32) + 0.5
    x = (columns - camera.x) * z / camera.focal
    y = camera.height - (rows - camera.horizon) * z / camera.focal
    total = np.zeros((*labels.shape, 3), dtype=np.float32)
    for lamp in street.lamps:
        lx, ly, lz = lamp.position
        if lz > _FARTHEST_LAMP:
            continue
        far = 9 + (x - lx) ** 2 + (y - ly) ** 2 + (z - lz) ** 2
        # Lamps are shielded: little light goes up.
        downwards = np.clip((ly - y) / 3, 0.05, 1)
        total += (58.0 * downwards / (far * np.sqrt(far)))[..., None] * np.float32(lamp.color)
    beam = np.exp(-((x / (0.28 * z + 0.8)) ** 2)) * np.clip(1.4 - y / 1.2, 0, 1)
    total += (beam * 2.4 / (4 + 0.25 * z * z))[..., None] * np.float32((1.0, 0.96, 0.86))
    return np.where((labels == IGNORE_LABEL)[..., None], 0, total)


STYLES: dict[str, Callable[[Street, np.ndarray, np.ndarray, np.random.Generator], Image.Image]] = {
    "day": _day,
    "foggy": _foggy,
    "night": _night,
}
