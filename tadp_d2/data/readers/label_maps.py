"""Folders of images and label maps: pairing them by name and checking them, strictly.

An image `<images>/<nesting>/<name><image suffix>` has its label map at
`<labels>/<nesting>/<name><label suffix>`: a PNG of one channel, gray or with a palette, whose
stored values are class indices. Nothing is written.
"""

import itertools
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from tadp_d2.data.images import (
    check_each,
    count_labels,
    names_below,
    read_pair_size,
    read_size,
    read_stored_size,
)
from tadp_d2.data.root import not_found
from tadp_d2.errors import Report, UserError, stop
from tadp_d2.remembered import Remembered


@dataclass(frozen=True)
class Folders:
    """Where the images and label maps of a split lie.

    Attributes:
        images: folder of the split's images.
        nesting: the folders between `images` and the images, as a pattern: "*", "night/*", "."
            for none, "**" for any.
        image_suffix: how the name of every image ends.
        labels: folder of the split's label maps; None for a split without labels.
        label_suffix: what stands there in the name of a label map.
        if_no_labels: what to do about absent label maps, for the message.
        label_kind: what messages call a label map.
    """

    images: Path
    nesting: str
    image_suffix: str
    labels: Path | None = None
    label_suffix: str = ""
    if_no_labels: str = "complete the download"
    label_kind: str = "label map"


@dataclass(frozen=True)
class Pair:
    """One image.

    Attributes:
        image_id: its path below the split's folder, such as `night/GOPR0356/..._rgb_anon.png`.
        image: the name of its file.
        label: that of its label map, if it has one.
        width, height: of both, pixels.
    """

    image_id: str
    image: str
    label: str | None
    width: int
    height: int


def read_pairs(folders: Folders, dataset: str, report: Report = stop) -> list[Pair]:
    """The images of a split, sorted by id, with their label maps. Only file headers are read.

    Args:
        report: gets what is wrong with single images, which are then left out.

    Raises:
        UserError: the split is absent, empty or without its nested folders, an image or label
            map is unreadable or without its counterpart, or the two differ in size.
    """
    images = _find_images(folders, dataset, report)
    # Texts, not paths: to make those of 100 000 files takes seconds.
    above = len(_start(folders.images))
    ids = [name[above:] for name in images]
    labels: list[str | None] = [None] * len(ids)
    if folders.labels is not None:
        start, suffix = _start(folders.labels), folders.image_suffix
        labels = [f"{start}{name.removesuffix(suffix)}{folders.label_suffix}" for name in ids]
        absent = _check_counterparts(folders, images, labels, report)
    pairs = []
    with Remembered(folders.images, "sizes of images and their label maps") as sizes:
        for image_id, image, label in zip(ids, images, labels, strict=True):
            if label is None or label not in absent:
                # As `reporting`, which would cost as much as what is done in it.
                try:
                    pairs.append(_pair(image_id, image, label, sizes))
                except UserError as error:
                    report(error)
    return pairs


def _start(folder: Path) -> str:
    """What the names of a folder's files begin with."""
    return "" if folder == Path() else os.path.join(folder, "")


def _find_images(folders: Folders, dataset: str, report: Report) -> list[str]:
    pattern = f"{folders.nesting}/*{folders.image_suffix}"
    if not folders.images.is_dir():
        raise not_found(dataset, folders.images, f"{folders.images}/{pattern}")
    images, elsewhere = _find(folders.images, folders.nesting, folders.image_suffix)
    advice = "keep the nested folders of the published archive"
    if not images and elsewhere:
        raise UserError(
            f"{folders.images}: no image at {pattern}, but {len(elsewhere)} elsewhere, such as "
            f"{elsewhere[0]}; {advice}"
        )
    if not images:
        raise UserError(
            f"{folders.images}: holds no image for data set {dataset!r}; expected {pattern}"
        )
    # Other parts of an archive, such as those of the day, lie beside the first folder.
    part = folders.images.joinpath(*itertools.takewhile(str.isalpha, _parts(folders.nesting)))
    strays = [name for name in elsewhere if Path(name).is_relative_to(part)]
    if strays:
        report(
            UserError(
                f"{strays[0]}: is not at {folders.images}/{pattern} ({len(strays)} such, and "
                f"{len(images)} that are); {advice}"
            )
        )
    return images


def _find(folder: Path, nesting: str, suffix: str) -> tuple[list[str], list[str]]:
    """The files below a folder that end in `suffix`: those within `nesting`, and the others."""
    found: tuple[list[str], list[str]] = ([], [])
    fitting: dict[str, bool] = {}
    depth = len(_parts(nesting))
    for name in names_below(folder):
        if name.endswith(suffix):
            parent = name.rpartition(os.sep)[0]
            if parent not in fitting:
                within = Path(parent).relative_to(folder)
                # Path(".") has no parts, and matches no pattern.
                fits = len(within.parts) == depth and (nesting == "." or within.match(nesting))
                fitting[parent] = nesting == "**" or fits
            found[not fitting[parent]].append(name)
    return found


def _parts(nesting: str) -> tuple[str, ...]:
    return Path(nesting).parts


def _check_counterparts(
    folders: Folders, images: Sequence[str], labels: Sequence[str], report: Report
) -> set[str]:
    """Reports images and label maps without the other; returns the label maps that are absent."""
    present: set[str] = set()
    if folders.labels.is_dir():
        present.update(_find(folders.labels, folders.nesting, folders.label_suffix)[0])
    unlabelled = [
        (image, label) for image, label in zip(images, labels, strict=True) if label not in present
    ]
    for image, label in unlabelled:
        report(
            UserError(
                f"{image}: has no {folders.label_kind}, expected {label} ({len(unlabelled)} such "
                f"of {len(images)}); {folders.if_no_labels}"
            )
        )
    orphans = sorted(present - set(labels))
    for orphan in orphans:
        report(
            UserError(
                f"{orphan}: a {folders.label_kind} without its image ({len(orphans)} such); "
                f"complete the images in {folders.images}, or remove it"
            )
        )
    return set(labels) - present


def _pair(image_id: str, image: str, label: str | None, sizes: Remembered) -> Pair:
    size = sizes.get(image, lambda path: list(read_size(path)))
    if label is not None and sizes.get(label, lambda path: list(read_stored_size(path))) != size:
        read_pair_size(image, label)  # raises
    return Pair(image_id, image, label, *size)


def check_values(
    labels: Sequence[str | Path],
    allowed: Collection[int],
    report: Report = stop,
    advice: str = "",
) -> None:
    """Reads label maps completely.

    Args:
        allowed: the values that may occur, of 0..255.
        advice: where other values may come from, for the message.
        report: gets what is wrong with single ones.

    Raises:
        UserError: one is damaged or has another value.
    """
    if not labels:
        return
    folder = Path(os.path.commonpath({os.path.dirname(path) for path in labels}))
    with Remembered(folder, "values") as known:
        new = []
        for path in labels:
            values = known.find(path)
            if values is None:
                new.append(path)
            else:
                try:
                    _check(path, values, allowed, advice)
                except UserError as error:
                    report(error)
        check_each(
            lambda path: _check(path, known.get(path, _values), allowed, advice),
            new,
            "label maps checked",
            report,
        )


def _values(path: str | Path) -> list[int]:
    """The values that occur, in their order."""
    return count_labels(path).nonzero()[0].tolist()


def _check(path: str | Path, values: Sequence[int], allowed: Collection[int], advice: str) -> None:
    found = [value for value in values if value not in allowed]
    if found:
        raise UserError(
            f"{path}: has the value {found[0]} in {count_labels(path)[found[0]]} pixels; expected "
            "train ids, the indices of the classes, and the ignored value 255"
            + (f": {advice}" if advice else "")
        )


def load_label_maps(folders: Folders, dataset: str, report: Report = stop) -> list[dict[str, Any]]:
    """Detectron2's dicts of a split; those of a split without labels lack "sem_seg_file_name".

    Raises:
        UserError: as `read_pairs`.
    """
    return [
        {
            "file_name": pair.image,
            "image_id": pair.image_id,
            "height": pair.height,
            "width": pair.width,
        }
        | ({"sem_seg_file_name": pair.label} if pair.label else {})
        for pair in read_pairs(folders, dataset, report)
    ]


def read_label_maps(dataset: str, report: Report = stop) -> list[dict[str, Any]]:
    """Reads a registered data set with label maps strictly, all label maps completely.

    Raises:
        UserError: as `read_pairs` and `check_values`.
    """
    meta = MetadataCatalog.get(dataset)
    folders = meta.get("folders")
    entries = load_label_maps(folders, dataset, report) if folders else DatasetCatalog.get(dataset)
    labels = [entry["sem_seg_file_name"] for entry in entries if "sem_seg_file_name" in entry]
    allowed = {*range(len(meta.stuff_classes)), meta.get("ignore_label", 255)}
    check_values(labels, allowed, report, meta.get("if_other_values", ""))
    return entries
