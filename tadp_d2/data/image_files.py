"""Picture files, whatever they are: found and read. Preparing them for a model is not done here."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tadp_d2.data.images import FORMATS
from tadp_d2.errors import UserError, reason
from tadp_d2.files import sha256

# Pillow's names of what is read: what data sets may hold, and scans.
READABLE = (*FORMATS, "TIFF")
# How the names of pictures in a folder end, in lower case.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


class UnreadablePicture(UserError):
    """A file is not a picture, or a damaged one; `why` says what is wrong with it."""

    def __init__(self, path: Path, why: str):
        super().__init__(f"{path}: cannot be read as a picture ({why})")
        self.why = why


def find_pictures(sources: Sequence[str | Path], output: Path | None = None) -> dict[Path, str]:
    """The files among `sources`, and all pictures in and below the folders, each once, by name.

    Args:
        output: the folder of --output: what an earlier run drew into it is left out.

    Returns:
        Picture -> its path below the folder in which it was found, or its name.

    Raises:
        UserError: a source does not exist, or there is no picture.
    """
    found: dict[Path, tuple[Path, str]] = {}
    for source in map(Path, sources):
        if not source.exists():
            raise UserError(f"{source}: no such file or folder of pictures")
        files = _pictures_below(source) if source.is_dir() else [source]
        for file in files:
            name = file.relative_to(source).as_posix() if source.is_dir() else file.name
            found.setdefault(file.resolve(), (file, name))
    if not found:
        names = ", ".join(map(str, sources))
        raise UserError(f"{names}: no picture; expected files that end in {', '.join(SUFFIXES)}")
    if output:
        drawn = output.resolve()
        found = {file: entry for file, entry in found.items() if drawn not in file.parents}
        if not found:
            raise UserError(f"the pictures lie in {output}: choose another folder with --output")
    return dict(found.values())


def _pictures_below(folder: Path) -> list[Path]:
    files = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    # Some systems leave hidden companions such as ._picture.jpg.
    return sorted(file for file in files if file.suffix.lower() in SUFFIXES and file.name[0] != ".")


def read_rgb(path: Path) -> tuple[Image.Image, str]:
    """A picture, upright and RGB, and the SHA-256 of its file.

    What is transparent lies on white, and 16 bits become 8. Any other picture has the pixels that
    Detectron2's `read_image` gives.

    Raises:
        UnreadablePicture: the file cannot be read, or is no picture.
    """
    try:
        with Image.open(path, formats=READABLE) as image:
            # Pillow would warn only. To make its warning an error is not safe among threads.
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                size = f"{image.width} x {image.height}"
                raise ValueError(f"{size} are more than {Image.MAX_IMAGE_PIXELS} pixels")
            return _to_rgb(image), sha256(path)
    # Pillow's readers raise many kinds for damaged files.
    except Exception as error:
        raise UnreadablePicture(path, reason(error)) from None


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow clips at 255 where it should scale.
        values = np.asarray(image, np.float64) / 257
        image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
