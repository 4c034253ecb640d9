"""What the pixels of an image file mean: 8-bit sRGB on white, or why that is not known."""

import functools
import io

import numpy as np
from PIL import ExifTags, Image, ImageCms

from tadp_d2.errors import reason

# Pillow's names of the kinds of pixels whose meaning is known.
_GRAY, DEEP = ("1", "L", "LA"), ("I;16", "I;16L", "I;16B", "I;16N")
_MODES = (*_GRAY, *DEEP, "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
# By what Pillow multiplies stored gray values, by its name of how they are packed.
_SCALES = {"L;2": 85, "L;4": 17}
# Levels of 255 by which a profile may differ from sRGB and count as it.
_SAME = 3
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}


class UnknownColors(Exception):
    """Why pixels have no known meaning; `advice` is what to do about it."""

    def __init__(self, why: str, advice: str = "convert it to 8 bits, RGB"):
        super().__init__(why)
        self.advice = advice


def check_colors(image: Image.Image) -> None:
    """
    Args:
        image: opened, not yet decoded.

    Raises:
        UnknownColors: `to_rgb` would raise it.
    """
    if image.mode not in _MODES:
        raise UnknownColors(f"pixels of mode {image.mode}, whose range is not known")
    if image.format == "TIFF" and image.mode in DEEP:
        (bits, *_) = image.tag_v2[ExifTags.Base.BitsPerSample]
        if bits != 16 or not image.tag_v2.get(ExifTags.Base.PhotometricInterpretation):
            raise UnknownColors(f"a gray TIFF of {bits} bits, or one whose 0 is white")
    # Pillow compares it with 8 bits.
    if packing(image) == "RGB;16B" and "transparency" in image.info:
        raise UnknownColors("a color of 16 bits that stands for transparent")
    _profile_of(image)


def packing(image: Image.Image) -> str:
    """Pillow's name of how the pixels of a PNG are stored, until they are decoded."""
    return str(image.tile[0][3]) if image.format == "PNG" and image.tile else ""


def scale(image: Image.Image) -> int:
    """By what Pillow multiplies the gray values of a PNG of few bits."""
    return _SCALES.get(packing(image), 1)


def to_rgb(image: Image.Image) -> Image.Image:
    """The colors of an image, decoded now, in mode RGB.

    Args:
        image: opened, not yet decoded, and passed by `check_colors`.
    """
    profile, gray, key = _profile_of(image), image.mode in _GRAY, image.info.get("transparency")
    if gray and isinstance(key, int):
        image.info["transparency"] = key * scale(image)
    alpha = None
    if image.mode in DEEP:
        values = np.asarray(image)
        if key is not None:
            alpha = Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.has_transparency_data:
        transparent = image.convert("RGBA")
        alpha = transparent.getchannel("A")
        image = transparent.getchannel("R") if gray else transparent.convert("RGB")
    if profile is not None:
        mode, transform = profile
        image = ImageCms.applyTransform(image.convert(mode), transform)
    image = image.convert("RGB")
    if alpha is None:
        return image
    image.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _profile_of(image: Image.Image) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """What an image's color profile asks for; None for nothing."""
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    if image.mode == "CMYK":
        return _read_profile(profile, ("CMYK",))
    # A gray image may have a profile for RGB.
    return _read_profile(profile, ("RGB", "L") if image.mode in (*_GRAY, *DEEP) else ("RGB",))


@functools.lru_cache(maxsize=64)
def _read_profile(
    profile: bytes, modes: tuple[str, ...]
) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """How to come from an ICC profile to sRGB; None if it is sRGB.

    Args:
        modes: Pillow's, which the image can be brought to; the transform takes one of them.
    """
    advice = "convert it to sRGB, or remove its color profile if the colors are right without"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        mode = next((mode for mode in modes if _SPACES[mode] == space), None)
        if mode is None:
            raise UnknownColors(f"its color profile is for {space} pixels", advice)
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError) as error:
        raise UnknownColors(f"its color profile is damaged: {reason(error)}", advice) from None
    if mode != "CMYK" and _largest_change(transform, mode) <= _SAME:
        return None
    return mode, transform


def _largest_change(transform: ImageCms.ImageCmsTransform, mode: str) -> int:
    """In levels, over all grays, or over colors that are 15 levels apart."""
    levels = np.arange(0, 256, 15, np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    probe = Image.fromarray(colors if mode == "RGB" else np.arange(256, dtype=np.uint8)[None])
    changed = ImageCms.applyTransform(probe, transform)
    return np.abs(np.asarray(changed, int) - np.asarray(probe.convert("RGB"), int)).max()
