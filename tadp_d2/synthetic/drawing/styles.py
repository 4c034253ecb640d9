"""Renderings of a scene: photo-like, watercolor-like, comic-like, and the boxes of its objects.

A style is a `Renderer`: it turns a scene into pixels and one alpha mask per object. Boxes follow
from the masks and know nothing of the style, so they are tight whatever it does. Each style
decides how a fill and an edge are drawn (its pens) as well as what happens to the pixels after.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tadp_d2.synthetic.drawing.backdrops import Backdrop, backdrop, region_map
from tadp_d2.synthetic.drawing.pixels import (
    LIGHTS,
    blend,
    blurred,
    gradient,
    on_paper,
    painted_part,
    paper_grain,
    photographed,
    smooth_noise,
    smoothstep,
    to_image,
    unit_rgb,
)
from tadp_d2.synthetic.drawing.scenes import Scene, SceneObject
from tadp_d2.synthetic.drawing.shapes import (
    INK,
    Color,
    Layer,
    Shape,
    fill,
    rasterize,
    shaded,
    soft_pen,
)


class Box(NamedTuple):
    """The visible part of an object, as Pascal VOC gives it.

    Attributes:
        xmin, ymin, xmax, ymax: first and last pixel column and row, counted from 1.
        truncated: whether the object reaches beyond the box, hidden by a nearer one.
    """

    xmin: int
    ymin: int
    xmax: int
    ymax: int
    truncated: bool


@dataclass(frozen=True)
class Painting:
    """A rendered scene.

    Attributes:
        image: RGB.
        alphas: one H x W float32 mask per object of the scene, coverage 0 to 1, as if nothing
            stood before it. Shadows do not count.
        bare: H x W bool, where neither objects nor what is behind them are drawn: the margin of a
            watercolor, the frame of a comic.
    """

    image: Image.Image
    alphas: tuple[np.ndarray, ...]
    bare: np.ndarray

    def visible(self) -> list[np.ndarray]:
        """One H x W mask per object: what nearer objects leave of its alpha."""
        masks, free = [], np.ones(self.image.size[::-1], dtype=np.float32)
        for alpha in reversed(self.alphas):
            masks.append(alpha * free)
            free = free * (1 - alpha)
        return masks[::-1]


Renderer = Callable[[Scene, np.random.Generator], Painting]


class Rendering(NamedTuple):
    """An image and where its objects are, in the order of `scene.objects`.

    Attributes:
        image: RGB.
        boxes: the tight bounds of the masks.
        masks: H x W bool, the pixels of which the object covers at least half and nearer ones
            leave it so much. They share no pixel.
        behind: H x W uint8, category ids of the stuff behind the objects; 0 where the style leaves
            the image bare.
    """

    image: Image.Image
    boxes: list[Box]
    masks: list[np.ndarray]
    behind: np.ndarray


def render(scene: Scene, style: str, rng: np.random.Generator) -> Rendering:
    """Renders a scene and finds its objects.

    Args:
        scene: what to draw.
        style: one of `STYLES`.
        rng: source of everything that varies between two renderings of a scene.
    """
    painting = STYLES[style](scene, rng)
    masks = [visible >= 0.5 for visible in painting.visible()]
    boxes = [_box(mask, alpha) for mask, alpha in zip(masks, painting.alphas, strict=True)]
    stuff = region_map(_backdrop(scene), (scene.width, scene.height))
    return Rendering(painting.image, boxes, masks, np.where(painting.bare, 0, stuff))


def _box(mask: np.ndarray, alpha: np.ndarray) -> Box:
    seen = _extent(mask)
    return Box(*seen, truncated=seen != _extent(alpha >= 0.5))


def _extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """First and last column and row of a mask, from 1."""
    columns, rows = (np.flatnonzero(mask.any(axis=axis)) + 1 for axis in (0, 1))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


# --- pixels -------------------------------------------------------------------------------------


def _rngs(scene: Scene, rng: np.random.Generator) -> tuple[np.random.Generator, list]:
    """A generator for the image and one for each object.

    Each object has its own, so that what happens to one says nothing about the others.
    """
    seeds = rng.integers(2**63, size=1 + len(scene.objects))
    first, *others = (np.random.default_rng(seed) for seed in seeds)
    return first, others


def _backdrop(scene: Scene) -> Backdrop:
    size = (scene.width, scene.height)
    return backdrop(scene.setting, scene.light, size, scene.horizon, scene.seed)


def _in_image(layer: Layer, alpha: np.ndarray, scene: Scene) -> np.ndarray:
    """A mask of a layer's window as a mask of the image."""
    mask = np.zeros((scene.height, scene.width), dtype=np.float32)
    mask[layer.window] = alpha
    return mask


def _relief(alpha: np.ndarray, radius: float) -> np.ndarray:
    """How much a form of this outline faces light from the upper left: about -1 to 1."""
    soft = blurred(alpha, radius)
    step = max(1, round(radius * 0.8))
    relief = np.zeros_like(soft)
    relief[step:-step, step:-step] = soft[2 * step :, 2 * step :] - soft[: -2 * step, : -2 * step]
    return relief


# --- photo --------------------------------------------------------------------------------------


def _photo(scene: Scene, rng: np.random.Generator) -> Painting:
    """Natural colors, soft light, shadows on the ground, grain and a slight vignette."""
    rng, object_rngs = _rngs(scene, rng)
    canvas = _photo_backdrop(scene, rng)
    slant, alphas = rng.uniform(-0.7, 0.7), []
    for item, item_rng in zip(scene.objects, object_rngs, strict=True):
        layer = rasterize(item.shapes(), (scene.width, scene.height), soft_pen)
        if item.grounded:
            _cast_shadow(canvas, layer, item, slant)
        rgb = layer.rgb * _photo_shading(layer, item, item_rng)[..., None]
        blend(canvas, layer, rgb, layer.alpha)
        alphas.append(_in_image(layer, layer.alpha, scene))
    image = photographed(canvas, LIGHTS[scene.light], 0.014, rng)
    return Painting(image, tuple(alphas), np.zeros(canvas.shape[:2], bool))


def _photo_backdrop(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    drawn = _backdrop(scene)
    height, width = scene.height, scene.width
    top, low = map(unit_rgb, drawn.sky)
    canvas = top + (low - top) * gradient(height, 0, drawn.skyline)[..., None]
    clouds = smooth_noise(rng, height, width, 30, 3) + 0.6 * smooth_noise(
        rng, height, width, 11, 2.5
    )
    canvas = canvas + 0.55 * (1 - canvas) * smoothstep(0.1, 1.0, clouds)[..., None]

    start = int(drawn.horizon)
    far, near = map(unit_rgb, drawn.ground)
    ground = far + (near - far) * gradient(height, start, height)[start:, :, None]
    canvas[start:] = ground
    layer = rasterize(drawn.shapes, (width, height), soft_pen)
    blend(canvas, layer, layer.rgb, blurred(layer.alpha, 0.7))
    canvas[start:] *= 1 + _ground_texture(rng, height - start, width, drawn.roughness)[..., None]
    return canvas


def _ground_texture(
    rng: np.random.Generator, height: int, width: int, roughness: float
) -> np.ndarray:
    """Relative brightness of the ground: fine grain and blotches, coarser in front."""
    grain = rng.standard_normal((height, width), dtype=np.float32)
    blotches = smooth_noise(rng, height, width, 22) + 0.6 * smooth_noise(rng, height, width, 7)
    nearness = 0.35 + 0.65 * gradient(height, 0, height)
    return nearness * (0.06 * roughness * grain + (0.03 + 0.08 * roughness) * blotches)


def _cast_shadow(canvas: np.ndarray, layer: Layer, item: SceneObject, slant: float) -> None:
    """Darkens the ground behind an object by its own outline, laid flat, and beneath it."""
    height, width = canvas.shape[:2]
    mask = Image.fromarray((layer.alpha * 255).astype(np.uint8))
    flatness = 0.3
    # Maps a pixel of the image to the one of the object that shades it; the foot stays put.
    lying = mask.transform(
        (width, height),
        Image.Transform.AFFINE,
        (1, slant / flatness, -layer.left - slant / flatness * item.bottom,
         0, 1 / flatness, item.bottom - layer.top - item.bottom / flatness),
        Image.Resampling.BILINEAR,
    )  # fmt: skip
    draw = ImageDraw.Draw(lying)
    reach, depth = mask.width * 0.44, max(2.0, item.size * 0.03)
    x, y = item.x, item.bottom - depth * 0.4
    draw.ellipse((x - reach, y - depth, x + reach, y + depth), fill=255)
    soft = lying.filter(ImageFilter.GaussianBlur(1 + item.size * 0.018))
    canvas *= 1 - np.asarray(soft, dtype=np.float32)[..., None] * (0.42 / 255)


def _photo_shading(layer: Layer, item: SceneObject, rng: np.random.Generator) -> np.ndarray:
    height, width = layer.alpha.shape
    light = 1 + 0.42 * _relief(layer.alpha, max(1.5, item.size * 0.045))
    light += 0.06 - 0.14 * gradient(height, 0, height)
    grain = 0.035 * smooth_noise(rng, height, width, 5) + 0.03 * smooth_noise(rng, height, width, 2)
    return light + grain


# --- watercolor --------------------------------------------------------------------------------


def _wash_pen(draw: ImageDraw.ImageDraw, shape: Shape, points: np.ndarray, unit: float) -> None:
    """A fill whose pigment has pooled at its border."""
    fill(draw, shape, points, unit, shape.color)
    if not shape.outlined:
        return
    pooled = shaded(shape.color, 0.68)
    if not shape.width:
        rim = np.concatenate([points, points[:1]]).ravel().tolist()
        draw.line(rim, fill=pooled, width=round(1.1 * unit))
        return
    fill(draw, shape, points, unit, pooled)
    inner = replace(shape, width=max(shape.width - 1.6, shape.width * 0.5))
    fill(draw, inner, points, unit, shape.color)


def _wobbled(
    shapes: tuple[Shape, ...], rng: np.random.Generator, amount: float
) -> tuple[Shape, ...]:
    """Shapes drawn by an unsteady hand, at most `amount` pixels off; neighbors move together."""
    waves = rng.uniform(0.06, 0.16, (3, 2)) * rng.choice((-1, 1), (3, 2))
    phases = rng.uniform(0, 2 * np.pi, (2, 3))
    moved = []
    for shape in shapes:
        points = _subdivided(shape.points, closed=not shape.width)
        offsets = np.sin((points @ waves.T)[:, None] + phases).sum(axis=2) * (amount / 3)
        moved.append(replace(shape, points=points + offsets))
    return tuple(moved)


def _subdivided(points: np.ndarray, closed: bool) -> np.ndarray:
    """The same outline with a point every few pixels where it has long straight sides."""
    if len(points) > 12:
        return points
    ends = np.roll(points, -1, axis=0) if closed else points[1:]
    starts = points if closed else points[:-1]
    steps = np.linspace(0, 1, 9)[:, None, None]
    return (starts + (ends - starts) * steps).transpose(1, 0, 2).reshape(-1, 2)


def _watercolor(scene: Scene, rng: np.random.Generator) -> Painting:
    """Pale, uneven, translucent washes on grainy white paper that shows at the margins."""
    rng, object_rngs = _rngs(scene, rng)
    height, width = scene.height, scene.width
    grain = paper_grain(rng, height, width)
    canvas, sheet = _wet_backdrop(scene, rng)
    alphas = []
    for item, item_rng in zip(scene.objects, object_rngs, strict=True):
        shapes = _wobbled(item.shapes(), item_rng, amount=1.5)
        layer = rasterize(shapes, (width, height), _wash_pen, margin=6)
        alpha = _bled(layer.alpha, item_rng, uneven=0.22)
        # Painters leave paper white where an object will stand: the wash beneath hardly shows.
        blend(canvas, layer, np.float32(1), 0.9 * alpha)
        _lay_wash(canvas, layer, alpha, _pigment(layer.alpha, item_rng, strength=1.0))
        alphas.append(_in_image(layer, alpha, scene))
    return Painting(to_image(on_paper(canvas, grain)), tuple(alphas), sheet < 0.5)


def _bled(alpha: np.ndarray, rng: np.random.Generator, uneven: float) -> np.ndarray:
    """A mask whose border has run into dry paper here and stopped short of it there."""
    noise = smooth_noise(rng, *alpha.shape, 6) + 0.6 * smooth_noise(rng, *alpha.shape, 2.5)
    return smoothstep(0.3, 0.7, blurred(alpha, 0.8) + uneven * noise * (alpha > 0.02))


def _pigment(alpha: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """How much pigment lies where: patches where water stood, and more along the border."""
    patches = 0.26 * smooth_noise(rng, *alpha.shape, 26) + 0.14 * smooth_noise(rng, *alpha.shape, 9)
    border = 0.45 * (1 - blurred(alpha, 3.0))
    return np.clip(strength * (0.84 + patches + border), 0.25, 1.35)


def _lay_wash(canvas: np.ndarray, layer: Layer, alpha: np.ndarray, pigment: np.ndarray) -> None:
    """Glazes color over the window of a layer: what lies beneath shines through."""
    # A wash as dense as `pigment` says lets through a power of what its color lets through.
    through = np.maximum(layer.rgb, 0.05) ** pigment[..., None]
    canvas[layer.window] *= 1 - alpha[..., None] * (1 - through)


def _wet_backdrop(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The canvas, and where the washes reach."""
    drawn = _backdrop(scene)
    height, width = scene.height, scene.width
    canvas = np.ones((height, width, 3), dtype=np.float32)
    sheet = painted_part(rng, height, width)
    sky, ground = (
        np.broadcast_to(unit_rgb(c), canvas.shape) for c in (drawn.sky[0], drawn.ground[1])
    )
    rows = np.arange(height, dtype=np.float32)[:, None] + 3 * smooth_noise(rng, height, width, 18)
    above = 1 - smoothstep(drawn.skyline - 1.5, drawn.skyline + 1.5, rows)
    below = smoothstep(drawn.horizon - 1.5, drawn.horizon + 1.5, rows)
    clouds = smooth_noise(rng, height, width, 24, 2.6) + 0.5 * smooth_noise(
        rng, height, width, 8, 2
    )
    _lay_wash(
        canvas, Layer(0, 0, sky, above), above * sheet, 0.2 + 0.6 * smoothstep(-0.8, 0.8, clouds)
    )
    _lay_wash(
        canvas,
        Layer(0, 0, ground, below),
        below * sheet,
        _pigment(below * sheet, rng, strength=0.66),
    )

    layer = rasterize(_wobbled(drawn.shapes, rng, amount=2.5), (width, height), _wash_pen)
    alpha = _bled(layer.alpha, rng, uneven=0.3) * sheet[layer.window]
    blend(canvas, layer, np.float32(1), 0.85 * alpha)
    _lay_wash(canvas, layer, alpha, _pigment(alpha, rng, strength=0.6))
    return canvas, sheet


# --- comic --------------------------------------------------------------------------------------

# Pixels: the line around an object, for small and large ones, and the lines within it.
_CONTOUR, _INNER_LINE = (1.0, 2.0), 0.9


def _vivid(color: Color) -> Color:
    """The color with more saturation, in few steps, as cheap print has it."""
    gray = sum(color) / 3
    strong = (min(255, max(0, gray + (c - gray) * 1.6 + 8)) for c in color)
    return tuple(int(min(255, round(c / 42.5) * 42.5)) for c in strong)


def _ink_pen(draw: ImageDraw.ImageDraw, shape: Shape, points: np.ndarray, unit: float) -> None:
    """A flat fill with a black line around it."""
    if shape.outlined and shape.width:
        fill(draw, replace(shape, width=shape.width + 0.5 * _INNER_LINE), points, unit, INK)
    fill(draw, shape, points, unit, _vivid(shape.color))
    if shape.outlined and not shape.width:
        rim = np.concatenate([points, points[:2]]).ravel().tolist()
        draw.line(rim, fill=INK, width=round(_INNER_LINE * unit))


def _comic(scene: Scene, rng: np.random.Generator) -> Painting:
    """Thick black outlines, flat saturated colors, shade in halftone dots, a panel border."""
    rng, _ = _rngs(scene, rng)
    dots = _dots(scene, pitch=rng.uniform(3.6, 4.6), angle=rng.uniform(0.4, 0.7))
    canvas = _printed_backdrop(scene, dots)
    bare = _draw_panel(canvas)
    alphas = []
    for item in scene.objects:
        layer = rasterize(item.shapes(), (scene.width, scene.height), _ink_pen)
        contour = _contour(item, layer, scene)
        relief = _relief(layer.alpha, max(2.0, item.size * 0.06))
        shade = smoothstep(-0.02, 0.02, dots[layer.window] - 0.5 - 3.2 * (relief + 0.13))
        rgb = layer.rgb * (1 - 0.38 * shade[..., None])
        blend(canvas, layer, unit_rgb(INK), contour)
        blend(canvas, layer, rgb, layer.alpha)
        alphas.append(_in_image(layer, np.maximum(contour, layer.alpha), scene))
    return Painting(to_image(canvas), tuple(alphas), bare)


def _contour(item: SceneObject, layer: Layer, scene: Scene) -> np.ndarray:
    """The outline of an object with the thick line around it, in the window of its layer."""
    outlined = [shape for shape in item.shapes() if shape.outlined]
    silhouette = rasterize(outlined, (scene.width, scene.height), _ink_pen)
    contour = np.zeros_like(layer.alpha)
    width = float(np.clip(item.size * 0.014, *_CONTOUR))
    contour[_within(silhouette, layer)] = _thickened(silhouette.alpha, width)
    return contour


def _within(inner: Layer, outer: Layer) -> tuple[slice, slice]:
    """The window of one layer in the pixels of another that holds it."""
    top, left = inner.top - outer.top, inner.left - outer.left
    height, width = inner.alpha.shape
    return slice(top, top + height), slice(left, left + width)


def _thickened(alpha: np.ndarray, by: float) -> np.ndarray:
    """A mask grown by some pixels, with a smooth border."""
    soft = blurred(alpha, by)
    # Of a straight border blurred like this, a share of 0.16 lies one radius further out.
    return smoothstep(0.08, 0.24, soft)


def _dots(scene: Scene, pitch: float, angle: float) -> np.ndarray:
    """H x W screen of halftone dots: 0 at the middle of a dot to 1 between dots."""
    y, x = np.mgrid[: scene.height, : scene.width].astype(np.float32)
    u = (x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / pitch)
    v = (y * np.cos(angle) - x * np.sin(angle)) * (2 * np.pi / pitch)
    return 0.5 - 0.25 * (np.cos(u) + np.cos(v))


def _printed_backdrop(scene: Scene, dots: np.ndarray) -> np.ndarray:
    drawn = _backdrop(scene)
    height = scene.height
    canvas = np.empty((height, scene.width, 3), dtype=np.float32)
    top, low = (unit_rgb(_vivid(c)) for c in drawn.sky)
    # Dots shrink towards the skyline: the gradient of a sky in print.
    size = 0.62 * (1 - gradient(height, 0, drawn.skyline))
    canvas[:] = low + (top - low) * smoothstep(-0.12, 0.12, size - dots)[..., None]
    start = int(drawn.horizon)
    far, near = (unit_rgb(_vivid(c)) for c in drawn.ground)
    size = 0.6 * gradient(height, start, height * 1.15)
    canvas[start:] = (far + (near - far) * smoothstep(-0.12, 0.12, size - dots)[..., None])[start:]
    layer = rasterize(drawn.shapes, (scene.width, height), _ink_pen)
    blend(canvas, layer, layer.rgb, layer.alpha)
    return canvas


def _draw_panel(canvas: np.ndarray) -> np.ndarray:
    """A white gutter and a black frame around the image, in place; returns where: H x W bool."""
    gutter, frame = 3, 2
    for depth, value in ((gutter + frame, unit_rgb(INK)), (gutter, unit_rgb((255, 255, 255)))):
        inside = canvas[depth:-depth, depth:-depth].copy()
        canvas[:] = value
        canvas[depth:-depth, depth:-depth] = inside
    drawn_over = np.ones(canvas.shape[:2], bool)
    drawn_over[gutter + frame : -gutter - frame, gutter + frame : -gutter - frame] = False
    return drawn_over


STYLES: dict[str, Renderer] = {
    "photo": _photo,
    "watercolor": _watercolor,
    "comic": _comic,
}
