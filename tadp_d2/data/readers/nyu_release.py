"""NYU Depth V2 as it is published, in two files of Matlab's, turned into the official split.

`nyu_depth_v2_labeled.mat` holds images, raw depths and kinds of rooms, `splits.mat` which of them
are for training and which for testing.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tadp_d2.errors import UserError, reason
from tadp_d2.files import replacing, sha256, unfinished_folder, writing

IMAGES_FILE, SPLITS_FILE = "nyu_depth_v2_labeled.mat", "splits.mat"
# Where the splits stand in `splits.mat`, counted from 1.
_INDICES = {"train": "trainNdxs", "test": "testNdxs"}
# Beyond it an image is the white frame of the undistorted camera, and is made black.
_ROWS, _COLUMNS = slice(7, 474), slice(7, 632)
_MILLIMETERS = 1000.0
_QUALITY = 95


class _Release(NamedTuple):
    """
    Attributes:
        images: N x 3 x width x height uint8, as Matlab turns them; read one at a time.
        depths: N x width x height float32, meters, 0 for a hole; likewise.
        rooms: the kind of room of each.
        splits: name -> indices, from 0.
    """

    images: Any
    depths: Any
    rooms: Sequence[str]
    splits: Mapping[str, Sequence[int]]


def prepare_rooms(
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
    files: Sequence[Path] | None = None,
) -> dict[str, int]:
    """Writes `official_splits/{train,test}/<room>/` into the folder.

    As the script does that VPD and BTS use: raw depth in whole millimeters, rounded down, and
    images that are black beyond the part where the depth is. The folder appears when all of it is
    written; stopped before, the same call goes on in a hidden folder beside it.

    Args:
        folder: `nyu_depth_v2`.
        progress: called with the number of images that are there and that are to be there.
        files: the two published files; None for those in the folder.

    Returns:
        Name of a split -> its number of images.

    Raises:
        UserError: the folder is there already, a file is absent, damaged or another one, or a
            package that reads them is not installed.
    """
    target = folder / "official_splits"
    if target.exists():
        raise UserError(f"{target} exists already: remove it first, or keep it")
    files = files or [folder / IMAGES_FILE, folder / SPLITS_FILE]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: there is no such file; datasets/README.md lists its source")
    h5py, loadmat = _import()
    splits = _read_splits(files[1], loadmat)
    try:
        opened = h5py.File(files[0], "r")
    except OSError as error:
        raise UserError(
            f"{files[0]}: is no file of Matlab 7.3, or was not downloaded completely "
            f"({reason(error)})"
        ) from None
    with opened as content:
        release = _check(content, files[0], splits)
        unfinished = unfinished_folder(target, {file.name: sha256(file) for file in files})
        _write_all(release, unfinished, files[0], progress)
    with writing(target):
        unfinished.rename(target)
    return {name: len(indices) for name, indices in splits.items()}


def _import() -> tuple[Any, Any]:
    """What reads new and old files of Matlab's."""
    try:
        import h5py
        from scipy.io import loadmat
    except ImportError as error:
        raise UserError(
            f"files of Matlab's need a package that is not installed, {error.name}: "
            "pip install h5py scipy"
        ) from None
    return h5py, loadmat


def _read_splits(file: Path, loadmat: Callable[[Path], Mapping]) -> dict[str, list[int]]:
    try:
        content = loadmat(file)
        found = {name: content[key].ravel() for name, key in _INDICES.items()}
    # A damaged file ends scipy's reader in errors of many kinds.
    except Exception as error:
        raise UserError(
            f"{file}: holds no {' and '.join(_INDICES.values())} ({reason(error)}); expected the "
            "file of the official split"
        ) from None
    return {name: [int(index) - 1 for index in indices] for name, indices in found.items()}


def _check(content: Mapping, file: Path, splits: Mapping[str, Sequence[int]]) -> _Release:
    for name, dimensions in (("images", 4), ("rawDepths", 3), ("sceneTypes", 2)):
        if name not in content or len(getattr(content[name], "shape", ())) != dimensions:
            raise UserError(f"{file}: holds no {name}; expected the labeled part of NYU Depth V2")
    images, depths = content["images"], content["rawDepths"]
    number, channels, *size = images.shape
    if channels != 3 or images.dtype != np.uint8 or depths.shape != (number, *size):
        raise UserError(
            f"{file}: images are {images.shape} {images.dtype} and rawDepths {depths.shape}; "
            "expected N x 3 x width x height of 8 bits and N x width x height"
        )
    rooms = _read_rooms(content, file)
    chosen = sorted(index for indices in splits.values() for index in indices)
    if chosen != list(range(number)) or len(rooms) != number:
        raise UserError(
            f"{file}: {number} images, {len(rooms)} kinds of rooms, and {SPLITS_FILE} names "
            f"{len(chosen)}; expected each image in one split, so one file is not complete or "
            "another one"
        )
    return _Release(images, depths, rooms, splits)


def _read_rooms(content: Mapping, file: Path) -> list[str]:
    """Behind each reference stand the characters of a name such as `living_room`."""
    try:
        cells = [content[reference] for reference in content["sceneTypes"][()].ravel()]
        rooms = ["".join(map(chr, cell[()].ravel())) for cell in cells]
    except (AttributeError, KeyError, OSError, OverflowError, TypeError, ValueError):
        raise UserError(f"{file}: sceneTypes holds no texts; expected kinds of rooms") from None
    # They become folders.
    for room in rooms:
        if not re.fullmatch(r"\w+", room, re.ASCII):
            raise UserError(f"{file}: a kind of room is {room!r}; expected such as living_room")
    return rooms


def _write_all(
    release: _Release, folder: Path, file: Path, progress: Callable[[int, int], None] | None
) -> None:
    for index, (split, room) in enumerate(_places(release)):
        image = folder / split / room / f"rgb_{index:05d}.jpg"
        # Last, so that with it all of an image is there.
        if not image.exists():
            try:
                depth, pixels = release.depths[index], release.images[index]
            except OSError as error:
                raise UserError(f"{file}: image {index} is damaged ({reason(error)})") from None
            _write_depth(depth, image.with_name(f"sync_depth_{index:05d}.png"), file)
            _write_image(pixels, image)
        if progress:
            progress(index + 1, len(release.rooms))


def _places(release: _Release) -> list[tuple[str, str]]:
    """Split and room of each image."""
    split_of = {index: name for name, indices in release.splits.items() for index in indices}
    return [(split_of[index], room) for index, room in enumerate(release.rooms)]


def _write_depth(turned: np.ndarray, path: Path, file: Path) -> None:
    millimeters = turned.T * _MILLIMETERS
    if not ((millimeters >= 0) & (millimeters < 2**16)).all():
        raise UserError(f"{file}: depth {path.stem} is not within 0 and 65.5 m in all pixels")
    with replacing(path) as temporary:
        Image.fromarray(millimeters.astype(np.uint16)).save(temporary, format="PNG")


def _write_image(turned: np.ndarray, path: Path) -> None:
    pixels = turned.T
    framed = np.zeros_like(pixels)
    framed[_ROWS, _COLUMNS] = pixels[_ROWS, _COLUMNS]
    with replacing(path) as temporary:
        Image.fromarray(framed).save(temporary, format="JPEG", quality=_QUALITY)
