"""Where the texts of a caption file can come from, besides a captioning model.

A source gives every image its text. Writing texts down is not done here.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

import tadp_d2
from tadp_d2.captioning.sets import CaptionImage
from tadp_d2.data.nouns import load_noun_tagger
from tadp_d2.data.present_classes import name_classes
from tadp_d2.data.texts import CaptionFile
from tadp_d2.errors import UserError


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
