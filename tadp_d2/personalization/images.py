"""The pictures to learn from, whatever they are: found, read, and cropped to squares."""

import io
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from tadp_d2.errors import UserError

# How the names of pictures in a folder end, in lower case.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


@dataclass(frozen=True)
class Picture:
    """A picture to learn from.

    Attributes:
        path: its file.
        sha256: of the file.
        pixels: 3 x H x W, uint8 RGB, upright; the shorter side has the size of the crops.
    """

    path: Path
    sha256: str
    pixels: Tensor


def find_pictures(sources: Sequence[str | Path]) -> list[Path]:
    """The files among `sources`, and all pictures in and below the folders, each once, by name.

    Raises:
        UserError: a source does not exist, or there is no picture.
    """
    found: dict[Path, Path] = {}
    for source in map(Path, sources):
        if not source.exists():
            raise UserError(f"{source}: no such file or folder of pictures")
        files = _pictures_below(source) if source.is_dir() else [source]
        for file in files:
            found.setdefault(file.resolve(), file)
    if not found:
        names = ", ".join(map(str, sources))
        raise UserError(f"{names}: no picture; expected files that end in {', '.join(SUFFIXES)}")
    return list(found.values())


def _pictures_below(folder: Path) -> list[Path]:
    files = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sorted(file for file in files if file.suffix.lower() in SUFFIXES)


def read_pictures(
    paths: Sequence[Path],
    size: int,
    skip_unreadable: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Picture], dict[Path, str]]:
    """Reads pictures of any size and mode; small ones are enlarged.

    Args:
        size: the length that the shorter side gets, pixels.
        skip_unreadable: leave out what cannot be read.
        progress: called with the number of pictures read and to be read.

    Returns:
        The pictures, and for each file that was skipped the reason.

    Raises:
        UserError: a file cannot be read, or none can.
    """
    pictures, skipped = [], {}
    for number, path in enumerate(paths, start=1):
        try:
            pictures.append(_read(path, size))
        # Pillow's readers raise many kinds for damaged files.
        except Exception as error:
            skipped[path] = str(error).splitlines()[0] if str(error) else type(error).__name__
            if not skip_unreadable:
                raise UserError(
                    f"{path}: cannot be read as a picture ({skipped[path]}); --skip-unreadable "
                    "leaves such files out"
                ) from None
        if progress:
            progress(number, len(paths))
    if not pictures:
        first = next(iter(skipped))
        raise UserError(
            f"none of {len(paths)} pictures can be read; {first}: {skipped[first]}"
        ) from None
    return pictures, skipped


def _read(path: Path, size: int) -> Picture:
    data = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data)) as image:
            rgb = to_rgb(image)
    scale = size / min(rgb.size)
    resized = rgb.resize(
        (max(size, round(rgb.width * scale)), max(size, round(rgb.height * scale))),
        Image.Resampling.LANCZOS,
    )
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()
    return Picture(path, sha256(data).hexdigest(), pixels)


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright and RGB; what is transparent lies on white, and 16 bits become 8."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow clips at 255 where it should scale.
        values = np.asarray(image, np.float64) / 257
        image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


class Crop(NamedTuple):
    """A square of a picture."""

    index: int
    top: int
    left: int
    flip: bool


class Crops:
    """Squares of pictures in random order: every picture once before one comes again."""

    def __init__(
        self, pictures: Sequence[Picture], size: int, flip: bool = True, center: bool = False
    ):
        """
        Args:
            size: side of the crops, pixels, at most the pictures' shorter side.
            flip: mirror half of them.
            center: always the middle of a picture.
        """
        self.pictures = pictures
        self.size = size
        self.flip = flip
        self.center = center
        # Indices of pictures that are still to come before all were seen again.
        self.order: list[int] = []

    def draw(self, generator: torch.Generator) -> Crop:
        """The next picture's crop."""
        if not self.order:
            self.order = torch.randperm(len(self.pictures), generator=generator).tolist()
        index = self.order.pop()
        crop = self.middle(index)
        if not self.center:
            _, height, width = self.pictures[index].pixels.shape
            crop = crop._replace(
                top=_integer(height - self.size + 1, generator),
                left=_integer(width - self.size + 1, generator),
            )
        return crop._replace(flip=self.flip and bool(_integer(2, generator)))

    def middle(self, index: int) -> Crop:
        """The middle of a picture, not mirrored."""
        _, height, width = self.pictures[index].pixels.shape
        return Crop(index, (height - self.size) // 2, (width - self.size) // 2, False)

    def middles(self, count: int) -> Tensor:
        """Those of the first pictures, count x 3 x size x size."""
        return torch.stack([self.pixels(self.middle(index)) for index in range(count)])

    def pixels(self, crop: Crop) -> Tensor:
        """3 x size x size, in [-1, 1] as Stable Diffusion was trained."""
        pixels = self.pictures[crop.index].pixels[
            :, crop.top : crop.top + self.size, crop.left : crop.left + self.size
        ]
        return (pixels.flip(-1) if crop.flip else pixels).float() / 127.5 - 1


def _integer(bound: int, generator: torch.Generator) -> int:
    return int(torch.randint(bound, (), generator=generator))
