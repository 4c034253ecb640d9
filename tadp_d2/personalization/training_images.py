"""The images to learn from: read, and cropped to squares."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tadp_d2.data.images import UnreadableImage, read_rgb
from tadp_d2.errors import UserError


@dataclass(frozen=True)
class TrainingImage:
    """An image to learn from.

    Attributes:
        path: its file.
        sha256: of the file.
        pixels: 3 x H x W, uint8 RGB, upright; the shorter side has the size of the crops.
    """

    path: Path
    sha256: str
    pixels: Tensor


def read_pictures(
    paths: Sequence[Path],
    size: int,
    skip_unreadable: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[TrainingImage], dict[Path, str]]:
    """Reads images of any size and mode; small ones are enlarged.

    Args:
        size: the length that the shorter side gets, pixels.
        skip_unreadable: leave out what cannot be read.
        progress: called with the number of images read and to be read.

    Returns:
        The images, and for each file that was skipped the reason.

    Raises:
        UserError: a file cannot be read, or none can.
    """
    pictures, skipped = [], {}
    for number, path in enumerate(paths, start=1):
        try:
            pictures.append(_read(path, size))
        except UnreadableImage as error:
            skipped[path] = error.why
            if not skip_unreadable:
                raise UserError(f"{error}; --skip-unreadable leaves such files out") from None
        if progress:
            progress(number, len(paths))
    if not pictures:
        first = next(iter(skipped))
        raise UserError(
            f"none of {len(paths)} images can be read; {first}: {skipped[first]}"
        ) from None
    return pictures, skipped


def _read(path: Path, size: int) -> TrainingImage:
    rgb, digest = read_rgb(path)
    scale = size / min(rgb.size)
    resized = rgb.resize(
        (max(size, round(rgb.width * scale)), max(size, round(rgb.height * scale))),
        Image.Resampling.LANCZOS,
    )
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()
    return TrainingImage(path, digest, pixels)


class Crop(NamedTuple):
    """A square of an image."""

    index: int
    top: int
    left: int
    flip: bool


class Crops:
    """Squares of images in random order: every image once before one comes again."""

    def __init__(
        self, pictures: Sequence[TrainingImage], size: int, flip: bool = True, center: bool = False
    ):
        """
        Args:
            size: side of the crops, pixels, at most the images' shorter side.
            flip: mirror half of them.
            center: always the middle of an image.
        """
        self.pictures = pictures
        self.size = size
        self.flip = flip
        self.center = center
        # Indices of images that are still to come before all were seen again.
        self.order: list[int] = []

    def draw(self, generator: torch.Generator) -> Crop:
        """The next image's crop."""
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
        """The middle of an image, not mirrored."""
        _, height, width = self.pictures[index].pixels.shape
        return Crop(index, (height - self.size) // 2, (width - self.size) // 2, False)

    def middles(self, count: int) -> Tensor:
        """Those of the first images, count x 3 x size x size."""
        return torch.stack([self.pixels(self.middle(index)) for index in range(count)])

    def pixels(self, crop: Crop) -> Tensor:
        """3 x size x size, in [-1, 1] as Stable Diffusion was trained."""
        pixels = self.pictures[crop.index].pixels[
            :, crop.top : crop.top + self.size, crop.left : crop.left + self.size
        ]
        return (pixels.flip(-1) if crop.flip else pixels).float() / 127.5 - 1


def _integer(bound: int, generator: torch.Generator) -> int:
    return int(torch.randint(bound, (), generator=generator))
