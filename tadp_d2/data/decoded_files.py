"""Detectron2's own code gets the images and label maps that this package reads.

Its mapper and its evaluator decode files by rules of their own, but open them through its
`PathManager`. A path that is made here opens as an uncompressed image of the right pixels.
"""

import io
import os
from typing import IO, Any

import numpy as np
from detectron2.utils.file_io import PathHandler, PathManager
from PIL import Image

from tadp_d2.data.images import decode, read_label_map

_IMAGE, _LABEL_MAP, _BLANK = "tadp_d2-image://", "tadp_d2-label-map://", "tadp_d2-blank://"
_STRETCHED = "tadp_d2-stretched-label-map://"


def as_image(path: str | os.PathLike) -> str:
    """A path under which Detectron2 finds the RGB pixels of an image file.

    To open it raises `UnreadableImage` where the file cannot be read.
    """
    return f"{_IMAGE}{path}"


def as_label_map(path: str | os.PathLike) -> str:
    """A path under which Detectron2 finds the values of a label map, in 8-bit gray.

    To open it raises `UnreadableImage` where the file cannot be read.
    """
    return f"{_LABEL_MAP}{path}"


def as_stretched_label_map(path: str | os.PathLike, width: int, height: int) -> str:
    """The same of another size, by `stretch`."""
    return f"{_STRETCHED}{width} {height} {path}"


def stretch(classes: np.ndarray, width: int, height: int) -> np.ndarray:
    """A map of another size: each pixel has the value that lies at its upper left corner.

    That is OpenCV's nearest neighbor, by which TADP's released code stretches label maps.
    """
    rows = np.arange(height) * classes.shape[0] // height
    columns = np.arange(width) * classes.shape[1] // width
    return classes[rows[:, None], columns]


def as_blank(width: int, height: int) -> str:
    """A path under which Detectron2 finds a black image of that size, pixels."""
    return f"{_BLANK}{width} {height}"


class _DecodedFiles(PathHandler):
    def _get_supported_prefixes(self) -> list[str]:
        return [_IMAGE, _LABEL_MAP, _BLANK, _STRETCHED]

    def _open(self, path: str, mode: str = "r", **_: Any) -> IO[bytes]:
        if path.startswith(_IMAGE):
            image = decode(path.removeprefix(_IMAGE))
        elif path.startswith(_BLANK):
            width, height = map(int, path.removeprefix(_BLANK).split())
            image = Image.new("L", (width, height))
        elif path.startswith(_STRETCHED):
            width, height, name = path.removeprefix(_STRETCHED).split(" ", 2)
            image = Image.fromarray(stretch(read_label_map(name), int(width), int(height)))
        else:
            image = Image.fromarray(read_label_map(path.removeprefix(_LABEL_MAP)))
        file = io.BytesIO()
        image.save(file, "PPM")
        file.seek(0)
        return file


PathManager.register_handler(_DecodedFiles())
