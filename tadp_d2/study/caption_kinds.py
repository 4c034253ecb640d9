"""What a model reads with the synthetic images, besides their own captions.

A kind of captions is made of their own captions and of the classes that the images show. Where
something is drawn at random it is drawn by a hash of a seed, the image and the word: the same for
every order of the images, and what is damaged at a small rate is damaged at a greater one, too.
"""

import functools
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from detectron2.data import MetadataCatalog

from tadp_d2.data.catalog import read_entries
from tadp_d2.data.datasets.art import SHARED_CLASSES
from tadp_d2.data.present_classes import name_classes
from tadp_d2.data.root import datasets_root
from tadp_d2.data.texts import find_caption_file, read_captions, write_captions
from tadp_d2.synthetic.sentences import listed, plural

OWN, EMPTY, CLASS_NAMES = "captions", "empty", "class names"
# Read as class names, and replaced by their embeddings (`class_embeddings`).
CLASS_EMBEDDINGS = "class embeddings"
ORACLE = "oracle"
# In place of captions, what a data set for referring segmentation asks for.
EXPRESSIONS = "expressions"
STYLES = ("watercolor", "comic")
# Precision or recall of an oracle (TADP, table S2); share of the things in a caption.
ORACLE_RATES = (0.75, 0.5)
RATES = (0.25, 0.5, 1.0)
# A place begins here in a caption of the world: "a dog and two birds in a park".
_PLACE = re.compile(r" (?=(?:in|on) a )")
_PLURALS = {name: plural(name) for name in SHARED_CLASSES}
_NOUN = re.compile(rf"\b({'|'.join((*SHARED_CLASSES, *_PLURALS.values()))})\b")

Item = TypeVar("Item", bound=tuple)


class CaptionedImage(NamedTuple):
    """An image's id, its caption, and the classes that it shows."""

    image_id: str
    caption: str
    classes: frozenset[str]


def read_pictures(dataset: str) -> list[CaptionedImage]:
    """The images of a registered data set; without classes where they are given by pixels."""
    captions = read_captions(find_caption_file(datasets_root() / "captions", dataset))
    names = MetadataCatalog.get(dataset).get("thing_classes", [])
    return [
        CaptionedImage(
            str(entry["image_id"]),
            captions[str(entry["image_id"])],
            frozenset(names[thing["category_id"]] for thing in entry.get("annotations", ())),
        )
        for entry in read_entries(dataset)
    ]


def write_texts(file: Path, dataset: str, kind: str, seed: int) -> None:
    """Writes the captions of a kind, one of `KINDS`, for a registered data set."""
    captions = KINDS[kind](read_pictures(dataset), seed)
    # Without the seed: reports average over runs whose caption files are equal.
    write_captions(file, dataset, captions, {"tool": "tadp_d2 study", "kind": kind})


def choose(items: Iterable[Item], number: int, seed: int) -> set[Item]:
    """This many of the items, at random; of a smaller number a part of them."""
    return set(_shuffled(items, seed)[:number])


def _shuffled(items: Iterable[Item], seed: int) -> list[Item]:
    def draw(item: Item) -> bytes:
        return hashlib.sha256(repr((seed, *item)).encode()).digest()

    return sorted(items, key=draw)


def oracle(
    images: Sequence[CaptionedImage], seed: int, precision: float = 1.0, recall: float = 1.0
) -> dict[str, str]:
    """The names of the classes in each image, some of them lost, others added (TADP, table S2).

    Args:
        precision, recall: as `name_classes`.
    """
    return {
        p.image_id: " ".join(
            name_classes(p.classes, SHARED_CLASSES, p.image_id, precision, recall, seed)
        )
        for p in images
    }


def drop_words(images: Sequence[CaptionedImage], seed: int, rate: float) -> dict[str, str]:
    """Captions without this share of the things that they name, exact up to one thing.

    Such as "two birds in a park" of "a dog and two birds in a park".
    """
    return _spoiled(images, seed, rate, _without)


def replace_words(images: Sequence[CaptionedImage], seed: int, rate: float) -> dict[str, str]:
    """Captions in which this share of the things is named as a class that is not in the image.

    Such as "a cat and two birds in a park" of "a dog and two birds in a park".
    """

    def replace(image: CaptionedImage, spoiled: set[int]) -> str:
        absent = [(image.image_id, c) for c in SHARED_CLASSES if c not in image.classes]
        others = itertools.cycle(name for _, name in _shuffled(absent, seed))
        place = itertools.count()

        def other(match: re.Match) -> str:
            noun = match[0]
            if next(place) not in spoiled:
                return noun
            return next(others) if noun in _PLURALS else _PLURALS[next(others)]

        return _NOUN.sub(other, image.caption)

    return _spoiled(images, seed, rate, replace)


def _spoiled(
    images: Sequence[CaptionedImage],
    seed: int,
    rate: float,
    spoil: Callable[[CaptionedImage, set[int]], str],
) -> dict[str, str]:
    """Captions in which `spoil` has changed the things at the given places of their lists."""
    things = [
        (image.image_id, place)
        for image in images
        for place in range(len(_NOUN.findall(image.caption)))
    ]
    chosen = choose(things, round(rate * len(things)), seed)
    return {
        p.image_id: spoil(p, {place for image_id, place in chosen if image_id == p.image_id})
        for p in images
    }


def _without(image: CaptionedImage, lost: set[int]) -> str:
    things, *where = _PLACE.split(image.caption, maxsplit=1)
    named = re.split(", | and ", things)
    kept = [thing for place, thing in enumerate(named) if place not in lost]
    return " ".join([*([listed(kept)] if kept else []), *where])


def _name_style(images: Sequence[CaptionedImage], seed: int, style: str) -> dict[str, str]:
    """As a captioner describes a target's images, before cleaning (TADP, section 4.3)."""
    return {p.image_id: f"a {style} painting of {p.caption}" for p in images}


def _own(images: Sequence[CaptionedImage], seed: int) -> dict[str, str]:
    return {p.image_id: p.caption for p in images}


def _same(images: Sequence[CaptionedImage], seed: int, text: str) -> dict[str, str]:
    return {p.image_id: text for p in images}


_ALL = functools.partial(_same, text=" ".join(SHARED_CLASSES))
# Name -> images and seed -> image id -> caption.
KINDS: Mapping[str, Callable[[Sequence[CaptionedImage], int], dict[str, str]]] = {
    OWN: _own,
    EMPTY: functools.partial(_same, text=""),
    CLASS_NAMES: _ALL,
    CLASS_EMBEDDINGS: _ALL,
    ORACLE: oracle,
    **{f"oracle, precision {p}": functools.partial(oracle, precision=p) for p in ORACLE_RATES},
    **{f"oracle, recall {r}": functools.partial(oracle, recall=r) for r in ORACLE_RATES},
    **{f"uncleaned {style}": functools.partial(_name_style, style=style) for style in STYLES},
    **{f"words dropped: {rate}": functools.partial(drop_words, rate=rate) for rate in RATES},
    **{f"words wrong: {rate}": functools.partial(replace_words, rate=rate) for rate in RATES},
}
