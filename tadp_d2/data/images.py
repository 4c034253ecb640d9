"""Picture files: opened, measured and decoded without trusting them."""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError

from tadp_d2.errors import Report, UserError, reason, stop
from tadp_d2.progress import progress_line

# Other formats that Pillow knows start programs (EPS), or are read by rarely tested code.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
# From how many files on a check takes long enough to show its progress.
_MANY = 1000
# Values of EXIF's orientation that turn a picture by a quarter.
_LYING = (5, 6, 7, 8)


class Header(NamedTuple):
    """What can be told of a picture without decoding it.

    Attributes:
        width, height: pixels, of the picture as it is looked at.
        mode: Pillow's name for the kind of pixels: L is 8-bit grey.
    """

    width: int
    height: int
    mode: str


def set_pixel_limit(pixels: int) -> None:
    """Makes Pillow refuse pictures of more pixels, in this process and those forked from it.

    A small file can be a picture that takes all memory when it is decoded.
    """
    Image.MAX_IMAGE_PIXELS = pixels
    # Up to twice the limit Pillow would only warn.
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def read_header(path: str | os.PathLike, formats: Sequence[str] = FORMATS) -> Header:
    """
    Args:
        formats: Pillow's names of those that are read.

    Raises:
        UserError: there is no such picture, or it is larger than `set_pixel_limit` allows.
    """
    with _opened(path, formats) as image:
        width, height = image.size
        # Not asked for in general: for a PNG without it Pillow would decode everything.
        if "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation) in _LYING:
            width, height = height, width
        return Header(width, height, image.mode)


def check_decodes(path: str | os.PathLike) -> None:
    """
    Raises:
        UserError: as `read_header`, or the picture is damaged.
    """
    with _opened(path, FORMATS) as image:
        image.load()


@contextlib.contextmanager
def _opened(path: str | os.PathLike, formats: Sequence[str]) -> Iterator[Image.Image]:
    try:
        # To open a pipe would wait for ever.
        if not os.path.isfile(path):
            raise FileNotFoundError("there is no such file")
        with Image.open(path, formats=formats) as image:
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(
            f"{path}: too large ({reason(error)}); if you trust it, raise INPUT.MAX_PIXELS"
        ) from None
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise UserError(
            f"{path}: cannot be read as a picture, it is no {' or '.join(formats)}; replace it or "
            "take it out of the data set"
        ) from None
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise UserError(
            f"{path}: cannot be read as a picture ({reason(error)}); replace it or take it out of "
            "the data set"
        ) from None


def check_each(
    check: Callable[[Path], Any], paths: Sequence[Path], what: str, report: Report = stop
) -> None:
    """Runs a check on every file, in threads: Pillow decodes outside of Python's lock.

    Args:
        check: raises `UserError`.
        what: the files, for the progress line that is shown if they are many.
        report: gets the problems, in the order of the files.
    """
    show = progress_line(what) if len(paths) >= _MANY else None

    def problem(path: Path) -> UserError | None:
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
