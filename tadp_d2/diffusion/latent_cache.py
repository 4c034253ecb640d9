"""The latents of images, kept on disk: from the second look on the frozen VAE does not run again.

One file for each image, mirrored or not, named by a hash of all that decides on it: the bytes of
the image's file, what is done to it, and the VAE. So nothing in the cache can be out of date,
several processes may share it, and it can be removed at any time. A file is used for exactly the
input that it was looked up for: who changes that input afterwards, as test-time augmentation does,
is noticed.
"""

import hashlib
import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from tadp_d2.diffusion.families import open_diffusion_model
from tadp_d2.errors import UserError
from tadp_d2.files import replacing, sha256, writing

# Also of how a file becomes pixels.
_FORMAT = "tadp_d2 latents, version 4"
# Files are spread over as many folders, by the first byte of their names.
_FOLDERS = 256
# Bytes of a file before its numbers: their SHA-256, by which a damaged file is known.
_HEADER = 32


@dataclass(frozen=True)
class CachedLatents:
    """The latents of one input.

    Attributes:
        file: where they are kept.
        value: C x h x w, float16; None where there are none yet.
        limit: bytes that the folder of `file` may take.
        image: fingerprint of the input's image, which may not be changed afterwards.
    """

    file: Path
    value: Tensor | None
    limit: float
    image: str = ""

    def placeholder(self, height: int, width: int) -> np.ndarray:
        """What stands in for the image, H x W x 3 uint8 noise: who changes it is noticed."""
        digest = hashlib.sha256(self.file.name.encode()).digest()
        generator = np.random.default_rng(list(digest))
        return generator.integers(256, size=(height, width, 3), dtype=np.uint8)

    def of(self, image: Tensor) -> "CachedLatents":
        """The latents for an input with this image, 3 x H x W uint8."""
        return replace(self, image=_fingerprint(image))

    def belong_to(self, image: Tensor) -> bool:
        """Whether an image is the one that they were looked up for."""
        return self.image == _fingerprint(image)

    def keep(self, value: Tensor) -> None:
        """Writes the latents, whole or not at all, unless the cache is full.

        Args:
            value: C x h x w, float16.

        Raises:
            UserError: the folder cannot be written to.
        """
        numbers = value.cpu().contiguous().numpy().tobytes()
        with writing(self.file):
            folder = self.file.parent
            folder.mkdir(parents=True, exist_ok=True)
            taken = sum(entry.stat().st_size for entry in os.scandir(folder))
        if taken + _HEADER + len(numbers) <= self.limit:
            with replacing(self.file) as temporary:
                temporary.write_bytes(hashlib.sha256(numbers).digest() + numbers)


@dataclass(frozen=True)
class LatentCache:
    """A folder of latents. Models whose caches are equal may share them.

    Attributes:
        limit: GiB that the folder may take.
        made_of: what decides on latents besides the image, its size and whether it is mirrored,
            as JSON.
    """

    folder: Path
    limit: float
    made_of: str

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "LatentCache | None":
        """The cache that a config asks for, if it does."""
        options = cfg.MODEL.DIFFUSION.LATENT_CACHE
        if not options.FOLDER:
            return None
        model = open_diffusion_model(cfg.MODEL.DIFFUSION.WEIGHTS, cfg.MODEL.DIFFUSION.REVISION)
        tiny = cfg.MODEL.DIFFUSION.TINY_ENCODER
        made_of = {
            "format": _FORMAT,
            # Its decoders and its resizing make the pixels.
            "pillow": PIL.__version__,
            # Its factor counts in the place of the VAE, too.
            "vae": _sums(model.folder / "vae"),
            **({"tiny_encoder": _sums(Path(tiny))} if tiny else {}),
            "channels": model.latents.channels,
            "stride": model.latents.stride,
            # Images are padded to a multiple of the deepest level's stride.
            "multiple": max(model.strides.values()),
            "scaled": cfg.MODEL.DIFFUSION.LATENT_SCALING,
            "format_of_pixels": cfg.INPUT.FORMAT,
            "mean": list(cfg.MODEL.PIXEL_MEAN),
            "std": list(cfg.MODEL.PIXEL_STD),
        }
        cache = cls(Path(options.FOLDER), options.LIMIT, json.dumps(made_of, sort_keys=True))
        cache._check_room(cfg.INPUT.FIXED_SIZE_TRAIN, cfg.INPUT.FIXED_SIZE_TEST)
        return cache

    def _check_room(self, *sizes: tuple[int, int]) -> None:
        """
        Raises:
            UserError: the limit leaves no room for one image in each of the folders.
        """
        largest = max(math.prod(self._shape(size)) for size in sizes)
        needed = _FOLDERS * (largest * np.float16().nbytes + _HEADER) / 2**30
        if self.limit < needed:
            raise UserError(
                f"MODEL.DIFFUSION.LATENT_CACHE.LIMIT is {self.limit} GiB: expected {needed:.2g} or "
                "more for images of this size; an empty FOLDER switches the cache off"
            )

    def _shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """C x h x w of the latents of an image of that width and height, pixels."""
        made_of = json.loads(self.made_of)
        multiple, stride = made_of["multiple"], made_of["stride"]
        width, height = (-(-side // multiple) * multiple // stride for side in size)
        return made_of["channels"], height, width

    def look_up(self, picture: bytes, size: tuple[int, int], mirrored: bool) -> CachedLatents:
        """What is kept of an image, or where it is to be kept.

        Args:
            picture: the content of its file.
            size: width and height that it is resized to, pixels.
        """
        key = hashlib.sha256(self.made_of.encode())
        key.update(json.dumps([*size, mirrored]).encode())
        key.update(hashlib.sha256(picture).digest())
        name = key.hexdigest()
        file = self.folder / name[:2] / f"{name[2:]}.fp16"
        return CachedLatents(file, _read(file, self._shape(size)), self.limit * 2**30 / _FOLDERS)


def _sums(folder: Path) -> dict[str, str]:
    return {file.name: sha256(file) for file in sorted(folder.iterdir()) if file.is_file()}


def _fingerprint(image: Tensor) -> str:
    return hashlib.sha256(image.cpu().contiguous().numpy()).hexdigest()


def _read(file: Path, shape: tuple[int, int, int]) -> Tensor | None:
    """None for a file that is absent, damaged or of another shape: it will be written anew."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    digest, numbers = content[:_HEADER], content[_HEADER:]
    size = math.prod(shape) * np.float16().nbytes
    if len(numbers) != size or hashlib.sha256(numbers).digest() != digest:
        return None
    return torch.frombuffer(bytearray(numbers), dtype=torch.float16).view(shape)
