"""Where the texts of a caption file can come from, besides a captioning model.

A source gives every image its text. Writing texts down is not done here.
"""

import hashlib
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

import tadp_d2
from tadp_d2.captioning.sets import CaptionImage
from tadp_d2.data.nouns import load_noun_tagger
from tadp_d2.data.present_classes import name_classes
from tadp_d2.data.tags import join_tags
from tadp_d2.data.texts import CaptionFile
from tadp_d2.errors import UserError, reason
from tadp_d2.files import sha256


@dataclass(frozen=True)
class Source:
    """A source of texts.

    Attributes:
        made_by: provenance: all that decides on the texts.
        texts: some images and their pixels (RGB; none if they are not needed) -> their texts.
        needs_pictures: whether it looks at the images.
    """

    made_by: Mapping[str, Any]
    texts: Callable[[Sequence[CaptionImage], Sequence[Image.Image]], list[str]]
    needs_pictures: bool = False


def provenance(source: str, **settings: Any) -> dict[str, Any]:
    """What a caption file records of how it was made."""
    version = tadp_d2.__version__
    return {"tool": "tadp_d2 caption", "version": version, "source": source, **settings}


def _each(text: Callable[[CaptionImage], str]) -> Callable[..., list[str]]:
    return lambda images, _: [text(image) for image in images]


def fixed_text(text: str) -> Source:
    """The same text for every image."""
    return Source(provenance("text", text=text), _each(lambda _: text))


def class_names() -> Source:
    """The names of all classes of the data set, in class order (TADP, section 3: ClassNames)."""
    return Source(provenance("class-names"), _each(lambda image: " ".join(_vocabulary(image))))


def oracle(precision: float = 1.0, recall: float = 1.0, seed: int = 0) -> Source:
    """The names of the classes that the annotation holds: `name_classes`, with its errors.

    Raises:
        UserError: `precision` or `recall` is not in (0, 1].
    """
    for name, value in (("precision", precision), ("recall", recall)):
        if not 0 < value <= 1:
            raise UserError(f"--{name} {value}: expected a number above 0, at most 1")

    def text(image: CaptionImage) -> str:
        vocabulary, present = _vocabulary(image), image.classes()
        return " ".join(name_classes(present, vocabulary, image.image_id, precision, recall, seed))

    return Source(provenance("oracle", precision=precision, recall=recall, seed=seed), _each(text))


def _vocabulary(image: CaptionImage) -> tuple[str, ...]:
    if not image.vocabulary:
        raise UserError(
            f"{image.path}: belongs to no data set with classes; only registered data sets have "
            "class names"
        )
    return image.vocabulary


def published(captions: CaptionFile, images: Collection[CaptionImage]) -> Source:
    """The captions of a file as published with TADP, or of any other caption file.

    Raises:
        UserError: it lacks one of the images.
    """
    check_complete(captions, images)
    return Source(
        provenance("published", **_origin(captions)),
        _each(lambda image: captions[image.image_id]),
    )


def tag_file(
    path: Path, images: Collection[CaptionImage], names: Sequence[str] | None = None
) -> Source:
    """The tags of a file as RAM's and Tag2Text's batch_inference.py write it.

    A line has an image, as its path below the folder of images without the suffix, and its tags,
    with commas between them: `2007_000032,airplane,sky`. Tag2Text writes numbers of tags. Of
    images of one name in several folders, the line counts whose folders are the image's.

    Args:
        names: of the tags of those numbers, from 0 on; None where the file has the tags themselves.

    Raises:
        UserError: the file is malformed, lacks one of the images, or has a line that may be that
            of several.
    """
    rows = _read_tag_file(path, names)
    by_end: dict[str, list[str]] = {}
    for name in rows:
        by_end.setdefault(name.rsplit("/", 1)[-1], []).append(name)
    found: dict[str, str] = {}
    taken: dict[str, str] = {}
    for image in images:
        keys = (image.image_id, image.path.stem, image.path.name)
        named = next((by_end[key] for key in keys if key in by_end), [])
        fits = [image.image_id] if image.image_id in rows else _nearest(named, image.path)
        if not fits:
            raise UserError(
                f"{path}: no line for image {image.image_id!r}; expected "
                f"'{image.path.stem},tag,tag,...' among its {len(rows)} lines"
            )
        if len(fits) > 1:
            raise UserError(
                f"{path}: the lines of {' and '.join(fits)} may both be that of {image.path}; "
                "expected one that names its folder"
            )
        other = taken.setdefault(fits[0], image.image_id)
        if other != image.image_id:
            raise UserError(
                f"{path}: the line of {fits[0]} may be that of image {other!r} or of "
                f"{image.image_id!r}; expected a line for each that names its folder"
            )
        found[image.image_id] = join_tags(rows[fits[0]])
    made_by = provenance(
        "tag-file",
        **{"from": path.name, "from_sha256": sha256(path)},
        **({"names_sha256": names_fingerprint(names)} if names else {}),
    )
    return Source(made_by, _each(lambda image: found[image.image_id]))


def _nearest(names: Sequence[str], image: Path) -> list[str]:
    """Those of the names that share most folders with an image, seen from the end."""

    def shared(name: str) -> int:
        pairs = zip(reversed(name.split("/")[:-1]), reversed(image.parts[:-1]), strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    most = max(map(shared, names), default=0)
    return [name for name in names if shared(name) == most]


def _read_tag_file(path: Path, names: Sequence[str] | None) -> dict[str, list[str]]:
    """Image -> tags."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({reason(error)})") from None
    rows: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        image, *tags = (part.strip() for part in line.split(","))
        if not image or image in rows:
            why = "names no image" if not image else f"has image {image!r} again"
            raise UserError(f"{path}:{number}: {why}; expected 'image,tag,tag,...'")
        numbers = [tag for tag in tags if tag.isdecimal()]
        if numbers and names is None:
            raise UserError(
                f"{path}:{number}: {numbers[0]} is the number of a tag, as Tag2Text writes it; "
                "--names must name its list of tags"
            )
        unknown = [tag for tag in numbers if int(tag) >= len(names or ())]
        if unknown:
            raise UserError(
                f"{path}:{number}: there is no tag {unknown[0]} among the {len(names)} of --names"
            )
        known = (names[int(tag)] if tag.isdecimal() else tag for tag in tags)
        rows[image] = list(dict.fromkeys(tag for tag in known if tag))
    return rows


def names_fingerprint(names: Sequence[str]) -> str:
    """SHA-256 of a list of names, in its order."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def nouns(captions: CaptionFile, images: Collection[CaptionImage]) -> Source:
    """The nouns of other captions, each once, in their order (TADP, section 4.2: nouns only).

    Raises:
        UserError: the tagger is not installed, or `captions` lack one of the images.
    """
    tagger, version = load_noun_tagger()
    check_complete(captions, images)
    return Source(
        provenance("nouns", tagger=version, **_origin(captions)),
        _each(lambda image: " ".join(tagger(captions[image.image_id]))),
    )


def _origin(captions: CaptionFile) -> dict[str, Any]:
    return {
        "from": captions.path.name,
        "from_sha256": captions.fingerprint(),
        "from_made_by": dict(captions.made_by),
    }


def check_complete(captions: CaptionFile, images: Collection[CaptionImage]) -> None:
    """
    Raises:
        UserError: an image has no caption in the file.
    """
    missing = [image.image_id for image in images if image.image_id not in captions.records]
    if missing:
        raise UserError(
            f"{captions.path}: no caption for image {missing[0]!r} ({len(missing)} such of "
            f"{len(images)})"
        )
