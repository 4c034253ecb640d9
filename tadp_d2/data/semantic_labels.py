"""Folders of pictures and label maps: pairing them by name and checking them, strictly.

A picture `<images>/<nesting>/<name><image suffix>` has its label map at
`<labels>/<nesting>/<name><label suffix>`: an 8-bit grey PNG whose values are class indices. Nothing
is written.
"""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from tadp_d2.data.root import not_found
from tadp_d2.errors import UserError
from tadp_d2.progress import progress_line

# From how many label maps on a check takes long enough to show its progress.
_MANY = 1000


@dataclass(frozen=True)
class Folders:
    """Where the pictures and label maps of a split lie.

    Attributes:
        images: folder of the split's pictures.
        nesting: the folders between `images` and the pictures, as a pattern: "*", "night/*".
        image_suffix: how the name of every picture ends.
        labels: folder of the split's label maps; None for a split without labels.
        label_suffix: what stands there in the name of a label map.
        if_no_labels: what to do about absent label maps, for the message.
    """

    images: Path
    nesting: str
    image_suffix: str
    labels: Path | None = None
    label_suffix: str = ""
    if_no_labels: str = "complete the download"


@dataclass(frozen=True)
class Pair:
    """One picture.

    Attributes:
        image_id: its path below the split's folder, such as `night/GOPR0356/..._rgb_anon.png`.
        image: its file.
        label: the file of its label map, if it has one.
        width, height: of both, pixels.
    """

    image_id: str
    image: Path
    label: Path | None
    width: int
    height: int


def read_pairs(folders: Folders, dataset: str) -> list[Pair]:
    """The pictures of a split, sorted by id, with their label maps. Only file headers are read.

    Raises:
        UserError: the split is absent, empty or without its nested folders, a picture or label
            map is unreadable or without its counterpart, or the two differ in size.
    """
    images = _find_images(folders, dataset)
    ids = [path.relative_to(folders.images).as_posix() for path in images]
    labels: list[Path | None] = [None] * len(ids)
    if folders.labels is not None:
        labels = [
            folders.labels / (image_id.removesuffix(folders.image_suffix) + folders.label_suffix)
            for image_id in ids
        ]
        _check_counterparts(folders, images, labels)
    return [_pair(*parts) for parts in zip(ids, images, labels, strict=True)]


def _find_images(folders: Folders, dataset: str) -> list[Path]:
    pattern = f"{folders.nesting}/*{folders.image_suffix}"
    if not folders.images.is_dir():
        raise not_found(dataset, folders.images, f"{folders.images}/{pattern}")
    images = sorted(folders.images.glob(pattern))
    if images:
        return images
    elsewhere = sorted(folders.images.rglob(f"*{folders.image_suffix}"))
    if elsewhere:
        raise UserError(
            f"{folders.images}: no picture at {pattern}, but {len(elsewhere)} elsewhere, such as "
            f"{elsewhere[0]}; keep the nested folders of the published archive"
        )
    raise UserError(
        f"{folders.images}: holds no picture for data set {dataset!r}; expected {pattern}"
    )


def _check_counterparts(folders: Folders, images: Sequence[Path], labels: Sequence[Path]) -> None:
    present = set(folders.labels.glob(f"{folders.nesting}/*{folders.label_suffix}"))
    unlabelled = [
        (image, label) for image, label in zip(images, labels, strict=True) if label not in present
    ]
    if unlabelled:
        image, label = unlabelled[0]
        raise UserError(
            f"{image}: has no label map, expected {label} ({len(unlabelled)} such of "
            f"{len(images)}); {folders.if_no_labels}"
        )
    orphans = sorted(present - set(labels))
    if orphans:
        raise UserError(
            f"{orphans[0]}: a label map without its picture ({len(orphans)} such); complete the "
            f"pictures in {folders.images}, or remove it"
        )


def _pair(image_id: str, image: Path, label: Path | None) -> Pair:
    (width, height), _ = _header(image)
    if label is not None:
        size, mode = _header(label)
        if size != (width, height):
            raise UserError(
                f"{label}: {size[0]} x {size[1]} pixels, but its picture {image} has "
                f"{width} x {height}; take both from the same archive"
            )
        if mode != "L":
            raise UserError(
                f"{label}: a label map must be an 8-bit grey PNG (mode L) of class indices; this "
                f"one has mode {mode}"
            )
    return Pair(image_id, image, label, width, height)


def _header(path: Path) -> tuple[tuple[int, int], str]:
    try:
        with Image.open(path) as image:
            return image.size, image.mode
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as a picture ({error}); replace it") from None


def check_values(labels: Sequence[Path], allowed: Collection[int]) -> None:
    """Reads label maps completely.

    Args:
        allowed: the values that may occur, of 0..255.

    Raises:
        UserError: one is damaged or has another value.
    """
    forbidden = [value for value in range(256) if value not in allowed]
    show = progress_line("label maps checked") if len(labels) >= _MANY else None
    # PIL decodes outside of Python's lock.
    with ThreadPoolExecutor() as pool:
        for done, _ in enumerate(pool.map(lambda path: _check(path, forbidden), labels), start=1):
            if show:
                show(done, len(labels))


def _check(path: Path, forbidden: Sequence[int]) -> None:
    try:
        with Image.open(path) as image:
            counts = image.histogram()
    except (OSError, SyntaxError) as error:
        raise UserError(f"{path}: cannot be read as a label map ({error}); replace it") from None
    found = [value for value in forbidden if counts[value]]
    if found:
        raise UserError(
            f"{path}: has the value {found[0]} in {counts[found[0]]} pixels; expected train ids, "
            "the indices of the classes, and the ignored value 255. Label ids are others: "
            "csCreateTrainIdLabelImgs makes train ids of Cityscapes'"
        )
