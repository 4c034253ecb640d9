"""What the frozen VAE says of a picture, kept on disk: from the second look on neither runs again.

One file for each picture, mirrored or not, named by a hash of all that decides on it: the picture's
bytes, what is done to it, and the VAE. So nothing in the cache can be out of date, several
processes may share it, and it can be removed at any time.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from tadp_d2.diffusion.model_folder import find_weights
from tadp_d2.files import replacing, sha256

_FORMAT = "tadp_d2 latents, version 1"
# Files are spread over as many folders, by the first byte of their names.
_FOLDERS = 256


@dataclass(frozen=True)
class CachedLatents:
    """The latents of one picture as the model gets it.

    Attributes:
        file: where they are kept.
        value: C x h x w, float16; None where there are none yet.
        limit: bytes that the folder of `file` may take.
    """

    file: Path
    value: Tensor | None
    limit: float

    def keep(self, value: Tensor) -> None:
        """Writes the latents, whole or not at all, unless the cache is full.

        Args:
            value: C x h x w, float16.
        """
        folder = self.file.parent
        folder.mkdir(parents=True, exist_ok=True)
        if (len(os.listdir(folder)) + 1) * value.nbytes <= self.limit:
            with replacing(self.file) as temporary, open(temporary, "wb") as file:
                np.save(file, value.cpu().numpy())


@dataclass(frozen=True)
class LatentCache:
    """A folder of latents. Models whose caches are equal may share them.

    Attributes:
        limit: GiB that the folder may take.
        made_of: what decides on latents besides the picture, its size and whether it is mirrored,
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
        model = find_weights(cfg.MODEL.DIFFUSION.WEIGHTS, cfg.MODEL.DIFFUSION.REVISION)
        vae = sorted((model / "vae").iterdir())
        unet = json.loads((model / "unet" / "config.json").read_text("utf-8"))
        made_of = {
            "format": _FORMAT,
            "vae": {file.name: sha256(file) for file in vae if file.is_file()},
            # Pictures are padded to a multiple of the deepest level's stride.
            "levels": len(unet["block_out_channels"]),
            "scaled": cfg.MODEL.DIFFUSION.LATENT_SCALING,
            "format_of_pixels": cfg.INPUT.FORMAT,
            "mean": list(cfg.MODEL.PIXEL_MEAN),
            "std": list(cfg.MODEL.PIXEL_STD),
        }
        return cls(Path(options.FOLDER), options.LIMIT, json.dumps(made_of, sort_keys=True))

    def look_up(self, picture: bytes, size: tuple[int, int], mirrored: bool) -> CachedLatents:
        """What is kept of a picture, or where it is to be kept.

        Args:
            picture: the content of its file.
            size: width and height that it is resized to, pixels.
        """
        key = hashlib.sha256(self.made_of.encode())
        key.update(json.dumps([*size, mirrored]).encode())
        key.update(hashlib.sha256(picture).digest())
        name = key.hexdigest()
        file = self.folder / name[:2] / f"{name[2:]}.npy"
        return CachedLatents(file, _read(file), self.limit * 2**30 / _FOLDERS)


def _read(file: Path) -> Tensor | None:
    """None for a file that is absent or damaged: it will be written anew."""
    try:
        value = np.load(file)
    except (OSError, ValueError, EOFError):
        return None
    return torch.from_numpy(value) if value.dtype == np.float16 and value.ndim == 3 else None
