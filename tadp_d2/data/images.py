"""Image files: found, measured and read, by one rule for all. The only file with `Image.open`.

What a file means is its first frame, upright (`orientation`), in 8-bit sRGB on white (`colors`).
Preparing images for a model is not done here.
"""

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from tadp_d2.data.colors import DEEP, UnknownColors, check_colors, packing, scale, to_rgb
from tadp_d2.data.orientation import LYING, UPRIGHT, orientation
from tadp_d2.errors import Report, UserError, reason, stop
from tadp_d2.files import sha256
from tadp_d2.progress import progress_line

# Other formats that Pillow knows start programs (EPS), or are read by rarely tested code.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
# A format of many variants, which a file that is called .jpg does not mean.
_TIFF = (".tif", ".tiff")
# How the names of images in a folder end, in lower case.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", *_TIFF, ".gif")
# Those of images that are not read: they are found, so that they are named and not passed over.
_OTHERS = (".avif", ".heic", ".heif", ".jp2", ".jxl")
# A label map's values have 8 bits.
_LARGEST_CLASS = 255
# From how many files on a check takes long enough to show its progress.
_MANY = 1000


class UnreadableImage(UserError):
    """A file is not what it is read as, is damaged, or of unknown meaning.

    Attributes:
        why: what is wrong with it.
    """

    def __init__(self, path: str | os.PathLike, what: str, why: str, advice: str = ""):
        advice = advice or "replace it or take it out of the data set"
        super().__init__(f"{path}: cannot be read as {what} ({why}); {advice}")
        self.why = why


class Size(NamedTuple):
    """Of an upright image, in pixels."""

    width: int
    height: int


def set_pixel_limit(pixels: int) -> None:
    """Makes this process refuse images of more pixels, and those that are forked from it.

    A small file can be an image that takes all memory when it is decoded.
    """
    Image.MAX_IMAGE_PIXELS = pixels
    # Up to twice the limit Pillow only warns, and we refuse.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def pixel_limit() -> int:
    """What a process that is started anew has to be given."""
    return Image.MAX_IMAGE_PIXELS


def read_rgb(path: str | os.PathLike) -> tuple[Image.Image, str]:
    """An image, in mode RGB, and the SHA-256 of its file.

    Raises:
        UnreadableImage: there is no such image, it is damaged, larger than `set_pixel_limit`
            allows, or what it means is not known.
    """
    return decode(path), sha256(path)


def decode(path: str | os.PathLike) -> Image.Image:
    """The image alone."""
    with _opened(path) as image:
        upright = UPRIGHT.get(orientation(image))
        pixels = to_rgb(image)
        return pixels if upright is None else pixels.transpose(upright)


def read_size(path: str | os.PathLike) -> Size:
    """The size that `read_rgb` gives, without decoding the file.

    Raises:
        UnreadableImage: as `read_rgb`, as far as that is known before.
    """
    with _opened(path) as image:
        width, height = image.size
        return Size(height, width) if orientation(image) in LYING else Size(width, height)


def other_size(
    path: str | os.PathLike, found: tuple[int, int], annotated: tuple[int, int]
) -> UserError:
    """The error that an image has another width and height than annotated."""
    sizes = " x ".join(map(str, found)), " x ".join(map(str, annotated))
    return UserError(f"{path}: {sizes[0]} pixels, but its annotation has {sizes[1]}")


def read_stored(path: str | os.PathLike) -> np.ndarray:
    """The numbers of a map of values, such as a label map, as they are stored in 1 to 16 bits.

    Returns:
        H x W, uint8 or uint16. Of a palette the indices.

    Raises:
        UnreadableImage: the file is no PNG of one channel, is to be turned, or damaged.
    """
    with _opened_map(path) as image:
        factor = scale(image)
        values = np.asarray(image)
        return values.astype(np.uint16 if values.itemsize == 2 else np.uint8) // factor


def read_stored_rgb(path: str | os.PathLike) -> np.ndarray:
    """As `read_stored`, of a map whose numbers are spread over the 8-bit channels of an RGB PNG.

    Returns:
        H x W x 3, uint8. Profiles and colors that stand for transparent do not count.

    Raises:
        UnreadableImage: the file is no RGB PNG of 8 bits, is to be turned, or damaged.
    """
    with _opened_map(path, ("RGB",), "store it as a PNG of mode RGB") as image:
        if packing(image) != "RGB":
            raise UnknownColors("it has 16 bits", "store 8 bits")
        return np.array(image)


def read_stored_size(path: str | os.PathLike) -> Size:
    """The size of what `read_stored` gives, without decoding the file.

    Raises:
        UnreadableImage: as `read_stored`, as far as that is known before.
    """
    with _opened_map(path) as image:
        return Size(*image.size)


def read_pair_size(image: str | os.PathLike, labels: str | os.PathLike) -> Size:
    """The size of an image and of its label map, neither of which is decoded.

    Raises:
        UserError: one cannot be read, or they differ.
    """
    size, found = read_size(image), read_stored_size(labels)
    if found != size:
        raise UserError(
            f"{labels}: {found.width} x {found.height} pixels, but its image {image} has "
            f"{size.width} x {size.height}; take both from the same archive"
        )
    return size


def read_label_map(path: str | os.PathLike) -> np.ndarray:
    """The class indices of a label map, H x W, uint8.

    Raises:
        UserError: it cannot be read as a map of values, or one has more than 8 bits.
    """
    values = read_stored(path)
    largest = int(values.max(initial=0))
    if largest > _LARGEST_CLASS:
        raise UserError(
            f"{path}: has the value {largest}; class indices are at most {_LARGEST_CLASS}"
        )
    return values.astype(np.uint8)


def count_labels(path: str | os.PathLike) -> np.ndarray:
    """How many pixels of a label map have each of the values 0 to 255.

    Raises:
        UserError: as `read_label_map`.
    """
    return np.bincount(read_label_map(path).ravel(), minlength=_LARGEST_CLASS + 1)


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Image.Image]:
    formats = (*FORMATS, "TIFF") if Path(path).suffix.lower() in _TIFF else FORMATS
    with _open(path, "an image", formats) as image:
        check_colors(image)
        yield image


@contextlib.contextmanager
def _opened_map(
    path: str | os.PathLike,
    modes: Sequence[str] = ("1", "L", "P", *DEEP),
    advice: str = "store one channel, as a PNG",
) -> Iterator[Image.Image]:
    with _open(path, "a map of values", ("PNG",)) as image:
        if image.mode not in modes:
            raise UnknownColors(f"it has mode {image.mode}", advice)
        if orientation(image) != 1:
            raise UnknownColors("it is to be turned", "store it upright")
        yield image


@contextlib.contextmanager
def _open(path: str | os.PathLike, what: str, formats: Sequence[str]) -> Iterator[Image.Image]:
    """A file that is closed behind the block; what goes wrong in it is the file's fault."""
    try:
        # To open a pipe would wait for ever.
        if not os.path.isfile(path):
            raise FileNotFoundError("there is no such file")
        # By a path Pillow would map a TIFF that is to be turned into memory, in a wrong shape.
        with open(path, "rb") as file, Image.open(file, formats=formats) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Image.DecompressionBombError(
                    f"{image.width} x {image.height} are more than {Image.MAX_IMAGE_PIXELS} pixels"
                )
            yield image
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        advice = "if you trust it, raise INPUT.MAX_PIXELS"
        raise UnreadableImage(path, what, f"too large: {reason(error)}", advice) from None
    except UnknownColors as error:
        raise UnreadableImage(path, what, str(error), error.advice) from None
    except UnidentifiedImageError:
        raise UnreadableImage(path, what, f"no readable {', '.join(formats)}") from None
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise UnreadableImage(path, what, reason(error)) from None


def find_image_files(sources: Sequence[str | Path], output: Path | None = None) -> dict[Path, str]:
    """The files among `sources`, and all images in and below the folders, each once, by name.

    Args:
        output: the folder of --output: what an earlier run drew into it is left out.

    Returns:
        Image file -> its path below the folder in which it was found, or its name.

    Raises:
        UserError: a source does not exist or cannot be searched, or there is no image.
    """
    found: dict[str, tuple[Path, str]] = {}
    for source in map(Path, sources):
        if not source.exists():
            raise UserError(f"{source}: no such file or folder of images")
        folder = source.is_dir()
        files = filter(_is_image, files_below(source)) if folder else [source]
        for file in files:
            name = file.relative_to(source).as_posix() if folder else file.name
            # By their names: two links to a file are two images.
            found.setdefault(os.path.abspath(file), (file, name))
    if not found:
        names = ", ".join(map(str, sources))
        raise UserError(f"{names}: no image; expected files that end in {', '.join(SUFFIXES)}")
    entries = list(found.values())
    if output:
        drawn = output.resolve()
        entries = [entry for entry in entries if drawn not in entry[0].resolve().parents]
        if not entries:
            raise UserError(f"the images lie in {output}: choose another folder with --output")
    return dict(entries)


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in (*SUFFIXES, *_OTHERS)


def files_below(folder: Path) -> list[Path]:
    """All files in and below a folder, also behind links, sorted.

    The companions that macOS puts beside files into archives, such as `._image.jpg`, are left out.

    Raises:
        UserError: a folder cannot be searched, or a link leads nowhere.
    """
    return [Path(name) for name in names_below(folder)]


def names_below(folder: Path) -> list[str]:
    """As `files_below`, as texts: paths of 100 000 files take seconds to make and to compare."""
    # As paths compare themselves.
    return sorted(_walk(str(folder), ()), key=lambda name: name.split(os.sep))


def _walk(folder: str, above: tuple[str, ...]) -> Iterator[str]:
    here = os.path.realpath(folder)
    if here in above:  # a link back: what is there was found already
        return
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not entry.name.startswith("._")]
        # What is no link was asked for its kind with the folder; of a link its target is.
        folders = [
            Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir() for entry in entries
        ]
    except OSError as error:
        raise UserError(f"{folder}: cannot be searched ({reason(error)})") from None
    for entry, is_folder in zip(entries, folders, strict=True):
        name = entry.name if folder == os.curdir else entry.path
        if is_folder:
            yield from _walk(name, (*above, here))
        # An absent image is named when it is read; anything else may be a whole folder.
        elif not entry.is_symlink() or _is_image(Path(name)) or os.path.exists(name):
            yield name
        else:
            raise UserError(f"{name}: a link that leads nowhere; mend it or remove it")


def check_each(
    check: Callable[[Any], Any], paths: Sequence[str | Path], what: str, report: Report = stop
) -> None:
    """Runs a check on every file, in threads: Pillow decodes outside of Python's lock.

    Args:
        check: raises `UserError`.
        what: the files, for the progress line that is shown if they are many.
        report: gets the problems, in the order of the files.
    """
    show = progress_line(what) if len(paths) >= _MANY else None

    def problem(path: str | Path) -> UserError | None:
        try:
            check(path)
        except UserError as error:
            return error
        return None

    # Closing drops the checks that have not begun when `report` stops.
    with ThreadPoolExecutor() as pool, contextlib.closing(pool.map(problem, paths)) as problems:
        for done, error in enumerate(problems, start=1):
            if error:
                report(error)
            if show:
                show(done, len(paths))
