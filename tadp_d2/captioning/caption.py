"""Making the captions that are missing, batch by batch, each on disk before the next begins.

Where texts come from is not known here, nor how they are kept.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from tadp_d2.captioning.sets import CaptionImage
from tadp_d2.captioning.sources import Source
from tadp_d2.captioning.store import CaptionStore
from tadp_d2.data.images import UnreadableImage, read_rgb
from tadp_d2.data.texts import Caption, read_captions
from tadp_d2.errors import UserError, reason
from tadp_d2.files import sha256


@dataclass
class Report:
    """What a run did.

    Attributes:
        present: number of images that had a caption before.
        made: number of captions that were made.
        empty: ids of the images whose new caption is empty.
        skipped: image id -> why its image could not be read.
    """

    present: int = 0
    made: int = 0
    empty: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Read:
    image: CaptionImage
    sha256: str = ""
    picture: Image.Image | None = None
    error: str = ""


def caption_images(
    images: Sequence[CaptionImage],
    source: Source,
    path: Path,
    dataset: str,
    batch_size: int = 16,
    skip_unreadable: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Gives a caption to every image that has none yet in a caption file.

    It may be killed at any moment: a later run goes on where the file ends.

    Args:
        path: the caption file, ends in `.jsonl`; it is begun when the first captions are there.
        dataset: the name that the file states.
        batch_size: how many images are captioned, and written, together.
        skip_unreadable: leave out images that cannot be read.
        progress: called with the number of captions made and to be made.

    Raises:
        UserError: the file is malformed, was made with other settings or is open in another
            process, or an image cannot be read. Captions made until then are kept.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: expected 1 or more")
    report = Report()
    with contextlib.ExitStack() as stack:
        store = None
        if path.exists():
            _check_origin(path, source)
            store = stack.enter_context(CaptionStore(path, dataset, source.made_by))
        known = store.records if store else {}
        missing = [image for image in images if image.image_id not in known]
        report.present = len(images) - len(missing)
        for batch in _read_ahead(missing, batch_size, source.needs_pictures):
            captions = _caption(batch, source, skip_unreadable, report)
            # A file is begun with its first captions, not before: settings that turn out not to
            # work leave none behind.
            if store is None and captions:
                store = stack.enter_context(CaptionStore(path, dataset, source.made_by))
            if captions:
                # Another run may have ended between the two looks at the file.
                store.add_captions({i: c for i, c in captions.items() if i not in store.records})
            report.made += len(captions)
            report.empty += [i for i, caption in captions.items() if not caption.raw]
            if progress:
                done = report.made + len(report.skipped)
                for n in range(done - len(batch) + 1, done + 1):
                    progress(n, len(missing))
    return report


def _check_origin(path: Path, source: Source) -> None:
    """The store checks all settings; of quite another origin it would name any one setting."""
    made_by = read_captions(path).made_by
    if any(made_by.get(key) != source.made_by.get(key) for key in ("tool", "source")):
        origin = " ".join(str(made_by[key]) for key in ("tool", "source") if key in made_by)
        raise UserError(
            f"{path}: its captions were made by {origin or 'something else'}, these would be by "
            f"{source.made_by['tool']} {source.made_by['source']}; write them into another folder "
            "with --caption-dir"
        )


def _caption(
    batch: Sequence[_Read], source: Source, skip_unreadable: bool, report: Report
) -> dict[str, Caption]:
    for read in batch:
        if read.error and not skip_unreadable:
            advice = ", or leave such images out with --skip-unreadable" * source.needs_pictures
            raise UserError(
                f"{read.image.path}: cannot be read as an image ({read.error}); replace it"
                f"{advice}. Captions made so far are kept"
            )
        if read.error:
            report.skipped[read.image.image_id] = read.error
    readable = [read for read in batch if not read.error]
    if not readable:
        return {}
    pictures = [read.picture for read in readable if read.picture is not None]
    texts = source.texts([read.image for read in readable], pictures)
    return {
        read.image.image_id: Caption(text, image_sha256=read.sha256)
        for read, text in zip(readable, texts, strict=True)
    }


def _read_ahead(
    images: Sequence[CaptionImage], batch_size: int, decode: bool
) -> Iterator[list[_Read]]:
    """Batches of images; the next one is read while the caller works on this one."""
    # PIL decodes outside of Python's lock.
    with ThreadPoolExecutor() as pool:

        def begin(start: int) -> list:
            batch = images[start : start + batch_size]
            return [pool.submit(_read, image, decode) for image in batch]

        ahead = begin(0)
        for start in range(batch_size, len(images) + batch_size, batch_size):
            current, ahead = ahead, begin(start)
            yield [future.result() for future in current]


def _read(image: CaptionImage, decode: bool) -> _Read:
    try:
        picture, digest = read_rgb(image.path) if decode else (None, sha256(image.path))
    except UnreadableImage as error:
        return _Read(image, error=error.why)
    except OSError as error:
        return _Read(image, error=reason(error))
    return _Read(image, digest, picture)
