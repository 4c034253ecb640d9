"""The images that a visitor may choose: those of data sets, and what was uploaded.

A visitor names an image by its key, never by a path.
"""

import functools
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from tadp_d2.data.catalog import entry_id, location, read_known
from tadp_d2.data.images import UnreadableImage, decode
from tadp_d2.data.loader import load_dataset
from tadp_d2.errors import UserError

# Uploads that are kept, and the largest, in bytes.
KEPT, LARGEST = 20, 32 * 2**20
PAGE = 12


class ImageShelf:
    """Data sets of configs, as far as they are there, and uploads in a folder."""

    def __init__(self, configs: Sequence[CfgNode], folder: Path):
        """
        Args:
            configs: of the models; the first that names a data set says which texts it has.
            folder: for uploads; it belongs to this shelf alone.
        """
        self._configs = {
            name: cfg
            for cfg in reversed(configs)
            for name in (*reversed(cfg.DATASETS.TRAIN), *cfg.DATASETS.TEST)
        }
        self._folder = folder
        # Key -> what the visitor calls it.
        self._uploads: OrderedDict[str, str] = OrderedDict()

    def datasets(self) -> list[str]:
        """Those that are there, the target of the first model first: it is tested last."""
        return [n for n in reversed(self._configs) if (place := location(n)) and place.exists()]

    def page(self, dataset: str, start: int) -> dict[str, Any]:
        """The images of a data set from one on, with their texts.

        Raises:
            UserError: it is none of `datasets`, or is malformed.
        """
        entries, note = self._entries(dataset)
        start = max(0, min(start, len(entries) - 1))
        images = [
            {
                "key": f"{dataset}:{number}",
                "name": entry_id(entry) if "image_id" in entry else Path(entry["file_name"]).name,
                "text": entry.get("expression", entry.get("caption", "")),
            }
            for number, entry in enumerate(entries[start : start + PAGE], start)
        ]
        return {"images": images, "start": start, "total": len(entries), "note": note}

    @functools.cache  # noqa: B019 (a shelf lives as long as its process)
    def _entries(self, dataset: str) -> tuple[list[dict[str, Any]], str]:
        """The entries, and why they have no texts if they have none."""
        if dataset not in self.datasets():
            raise UserError(f"{dataset!r} is none of the data sets {', '.join(self.datasets())}")
        try:
            return load_dataset(self._configs[dataset], dataset), ""
        except UserError as error:
            return read_known(dataset), str(error)

    def add(self, name: str, data: bytes) -> str:
        """The key of an uploaded image; an old one makes room.

        Raises:
            UserError: it is too large, or cannot be read as an image.
        """
        if len(data) > LARGEST:
            raise UserError(f"{name}: is larger than the {LARGEST // 2**20} MiB of an upload")
        key = secrets.token_hex(16)
        file = self._folder / key
        file.write_bytes(data)
        try:
            decode(file)
        except UnreadableImage as error:
            file.unlink()
            raise UserError(f"{name}: cannot be read as an image ({error.why})") from None
        self._uploads[key] = Path(name).name or "image"
        while len(self._uploads) > KEPT:
            (self._folder / self._uploads.popitem(last=False)[0]).unlink(missing_ok=True)
        return key

    def find(self, key: str) -> tuple[Path, str]:
        """The file of an image, and what a command line calls it.

        Raises:
            UserError: there is none of that key.
        """
        if key in self._uploads:
            return self._folder / key, self._uploads[key]
        dataset, _, number = key.rpartition(":")
        if dataset in self.datasets() and number.isascii() and number.isdigit():
            entries, _ = self._entries(dataset)
            if int(number) < len(entries):
                file = entries[int(number)]["file_name"]
                return Path(file), file
        raise UserError("this image is no longer here: choose it again")
