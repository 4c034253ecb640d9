"""Operations on pixels that several styles share: noise, blur, blending, a camera, paper.

A canvas is H x W x 3 float32, 0 to 1, and a mask H x W float32, 0 to 1.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from tadp_d2.synthetic.drawing.shapes import Color, Layer

# Color of the light and its strength, as factors of red, green and blue.
LIGHTS = {
    "morning": (1.04, 1.0, 0.95),
    "noon": (1.0, 1.0, 1.0),
    "overcast": (0.92, 0.94, 0.97),
    "evening": (1.08, 0.96, 0.86),
}


def unit_rgb(color: Color) -> np.ndarray:
    return np.asarray(color, dtype=np.float32) / 255


def smooth_noise(
    rng: np.random.Generator, height: int, width: int, scale: float, stretch: float = 1.0
) -> np.ndarray:
    """H x W smooth noise around 0, about -1 to 1, with blotches `scale` pixels high.

    They are `stretch` times as wide as high.
    """
    grid = rng.uniform(-1, 1, (int(height / scale) + 2, int(width / (scale * stretch)) + 2))
    image = Image.fromarray(grid.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def blurred(mask: np.ndarray, radius: float) -> np.ndarray:
    """A mask (H x W, 0 to 1) blurred by a Gaussian."""
    image = Image.fromarray((mask * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def gradient(height: int, start: float, stop: float) -> np.ndarray:
    """H x 1 ramp that is 0 at row `start` and 1 at row `stop`, and level beyond."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    return np.clip((rows - start) / max(stop - start, 1), 0, 1)


def blend(canvas: np.ndarray, layer: Layer, rgb: np.ndarray, alpha: np.ndarray) -> None:
    """Lays colors over the window of a layer, in place."""
    window = canvas[layer.window]
    window += (rgb - window) * alpha[..., None]


def to_image(canvas: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8))


def photographed(
    canvas: np.ndarray, tint: Sequence[float], grain: float, rng: np.random.Generator
) -> Image.Image:
    """What a camera adds: the tint of the light, a vignette, a soft lens and grain.

    Args:
        canvas: H x W x 3, 0 to 1.
        tint: factors of red, green and blue.
        grain: standard deviation of the noise of the sensor.
        rng: for softness and noise.
    """
    height, width = canvas.shape[:2]
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    vignette = (1.03 - 0.13 * (x**2 + y**2)).astype(np.float32)
    image = to_image(canvas * vignette[..., None] * np.asarray(tint, dtype=np.float32))
    soft = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.6)))
    noise = rng.standard_normal((height, width, 1), dtype=np.float32)
    return to_image(np.asarray(soft, dtype=np.float32) / 255 + grain * noise)


def paper_grain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """H x W: how high the grain of watercolor paper stands, around 0."""
    return 0.6 * smooth_noise(rng, height, width, 1.6) + 0.4 * smooth_noise(rng, height, width, 4)


def painted_part(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """H x W, 0 to 1: where washes reach, an irregular patch within the sheet of paper."""
    y, x = np.arange(height)[:, None], np.arange(width)[None]
    rim = np.minimum(np.minimum(x, width - 1 - x), np.minimum(y, height - 1 - y))
    ragged = (
        rim + 7 * smooth_noise(rng, height, width, 30) + 2.5 * smooth_noise(rng, height, width, 6)
    )
    return smoothstep(8, 11, ragged).astype(np.float32)


def on_paper(canvas: np.ndarray, grain: np.ndarray) -> np.ndarray:
    """Washes on watercolor paper instead of on white.

    Args:
        grain: as `paper_grain` gives it.
    """
    paper = np.asarray((0.985, 0.97, 0.94), dtype=np.float32)
    # Pigment settles in the hollows of the paper, so grain shows most where color is.
    color = 1 - canvas.mean(axis=2, keepdims=True)
    return canvas * paper * (1 + grain[..., None] * (0.018 + 0.1 * color))
