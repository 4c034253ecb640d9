"""Pascal VOC folders: reading a split and its annotations, strictly. Nothing is written.

A folder holds `Annotations/<id>.xml`, `ImageSets/Main/<split>.txt` and `JPEGImages/<id>.jpg`. Here
an annotation's `pose`, `truncated` and `difficult` may be absent, as in Watercolor2k and Comic2k.
"""

import xml.etree.ElementTree as ET
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from tadp_d2.data.images import read_pair_size, read_size
from tadp_d2.data.root import not_found
from tadp_d2.errors import Report, UserError, reason, reporting, stop

# Folder -> how the names of its files end.
FILES = {"Annotations": ".xml", "JPEGImages": ".jpg"}
# The tags of a box, in VOC's order.
SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VOCObject:
    """One object of an image.

    Attributes:
        name: its class.
        box: xmin, ymin, xmax, ymax in pixels, 1-based and inclusive as VOC writes them.
        difficult: whether the evaluation neither asks for it nor counts it against a detector.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool = False


@dataclass(frozen=True)
class VOCAnnotation:
    """What an annotation file holds of an image of `width` x `height` pixels."""

    width: int
    height: int
    objects: tuple[VOCObject, ...]


def read_split(
    root: Path,
    split: str,
    dataset: str,
    report: Report = stop,
    lists: str = "Main",
    files: Mapping[str, str] = FILES,
) -> list[str]:
    """The image ids of a split, of which all files are there.

    Args:
        report: gets what is wrong with single ids.
        lists: the folder in `ImageSets` of the list of ids.
        files: folder -> how the names of its files end.

    Raises:
        UserError: the folder or a part of it is absent, or the split is unreadable or empty.
    """
    split_file = root / "ImageSets" / lists / f"{split}.txt"
    folders = {suffix: root / name for name, suffix in files.items()}
    for path, present in (
        *((folder, folder.is_dir()) for folder in folders.values()),
        (split_file, split_file.is_file()),
    ):
        if not present:
            layout = f"{root} with {'/, '.join(files)}/ and ImageSets/{lists}/{split}.txt"
            raise not_found(dataset, path, layout)
    ids = _read_ids(split_file, report)
    missing = set()
    for suffix, folder in folders.items():
        present = {path.name for path in folder.iterdir()}
        absent = [image_id for image_id in ids if image_id + suffix not in present]
        for image_id in absent:
            report(
                UserError(
                    f"{split_file}: lists {image_id!r}, but there is no {folder / image_id}"
                    f"{suffix} ({len(absent)} such of {len(ids)}); complete the download, or take "
                    "it out of the list"
                )
            )
        missing.update(absent)
    return [image_id for image_id in ids if image_id not in missing]


def _read_ids(split_file: Path, report: Report) -> list[str]:
    try:
        # Some editors put a byte-order mark in front.
        lines = split_file.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{split_file}: cannot be read as UTF-8 text ({reason(error)})") from None
    ids: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        image_id = line.strip()
        if not image_id:
            continue
        is_name = "/" not in image_id and len(image_id) < 200 and image_id.isprintable()
        if len(image_id.split()) > 1 or not is_name:
            expected = "expected the name of one image, without folder and ending"
            report(UserError(f"{split_file}:{number}: {expected}; found {image_id[:80]!r}"))
        elif image_id in ids:
            first = ids[image_id]
            report(
                UserError(
                    f"{split_file}:{number}: {image_id!r} is listed already in line {first}; "
                    "remove one of the two"
                )
            )
        else:
            ids[image_id] = number
    if not ids:
        raise UserError(f"{split_file}: the split is empty; expected one image id per line")
    return list(ids)


def read_annotation(
    path: Path, class_names: Collection[str], report: Report = stop
) -> VOCAnnotation:
    """Reads an annotation file.

    A box may reach one pixel beyond the image, because some tools count from 0.

    Args:
        report: gets what is wrong with single objects: a class that is not among `class_names`, a
            box outside the image or of values that cannot be meant.

    Raises:
        UserError: the file is not such an annotation.
    """
    try:
        # To open a pipe would wait for ever.
        if not path.is_file():
            raise FileNotFoundError("there is no such file")
        root = ET.parse(path, ET.XMLParser(target=_Tree())).getroot()
        width, height = (int(_text(root, f"size/{side}")) for side in ("width", "height"))
        objects = tuple(_read_object(element) for element in root.iterfind("object"))
    # An unknown encoding is a LookupError.
    except (OSError, ET.ParseError, ValueError, LookupError) as error:
        raise UserError(
            f"{path}: not a VOC annotation ({reason(error)}); replace it or take the image out "
            "of the split"
        ) from None
    for obj in objects:
        with reporting(report):
            _check_object(obj, path, width, height, class_names)
    return VOCAnnotation(width, height, objects)


class _Tree(ET.TreeBuilder):
    """Builds a tree of elements, and refuses what could make it grow or reach for other files."""

    def doctype(self, *_: str | None) -> None:
        raise ValueError("it declares a document type, which could define entities; remove it")


def _check_object(
    obj: VOCObject, path: Path, width: int, height: int, class_names: Collection[str]
) -> None:
    if obj.name not in class_names:
        raise UserError(
            f"{path}: unknown class {obj.name[:80]!r}; expected one of {', '.join(class_names)}"
        )
    left, top, right, bottom = obj.box
    inside = 0 <= left and 0 <= top and right <= width + 1 and bottom <= height + 1
    if not inside or right < left or bottom < top:
        raise UserError(
            f"{path}: the box of {obj.name!r}, {_numbers(obj)}, is not inside the image of "
            f"{width} x {height} pixels (xmin ymin xmax ymax, from 1); correct it or remove the "
            "object"
        )
    # No object is so small. Boxes of 1 1 1 1 stand for images that nobody labeled.
    if len(set(obj.box)) == 1:
        raise UserError(
            f"{path}: the box of {obj.name!r}, {_numbers(obj)}, has four equal sides: it is a "
            "dummy and no label; remove the object, or take the image out of the split"
        )
    if right <= 1 and bottom <= 1:
        raise UserError(
            f"{path}: the box of {obj.name!r}, {_numbers(obj)}, lies within the first pixel: "
            "coordinates are pixels, from 1, and no shares of the image's size; convert them"
        )


def _numbers(obj: VOCObject) -> str:
    return " ".join(f"{side:g}" for side in obj.box)


def _read_object(element: ET.Element) -> VOCObject:
    box = tuple(float(_text(element, f"bndbox/{side}")) for side in SIDES)
    difficult = element.findtext("difficult", "0").strip()
    if difficult not in ("0", "1"):
        raise ValueError(f"difficult is {difficult[:80]!r}: expected 0 or 1")
    return VOCObject(_text(element, "name"), box, difficult == "1")


def _text(element: ET.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"<{element.tag}> without {path}")
    return text.strip()


def load_voc(
    root: Path, split: str, dataset: str, class_names: Sequence[str], report: Report = stop
) -> list[dict]:
    """Detectron2's dicts of a VOC-style split: RGB files, boxes as 0-based absolute XYXY pixels.

    Args:
        report: gets what is wrong with single images, which are then left out.

    Raises:
        UserError: as `read_split` and `read_annotation`, or an image is not the one annotated.
    """
    entries = []
    for image_id in read_split(root, split, dataset, report):
        with reporting(report):
            entries.append(_to_dict(root, image_id, class_names, report))
    return entries


def _to_dict(root: Path, image_id: str, class_names: Sequence[str], report: Report) -> dict:
    annotation_file = root / "Annotations" / f"{image_id}.xml"
    annotation = read_annotation(annotation_file, class_names, report)
    picture = root / "JPEGImages" / f"{image_id}.jpg"
    width, height = read_size(picture)
    if (annotation.width, annotation.height) != (width, height):
        raise UserError(
            f"{annotation_file}: of an image of {annotation.width} x {annotation.height} pixels, "
            f"but {picture} has {width} x {height}; take both from the same archive"
        )
    instances = [
        {
            "category_id": class_names.index(obj.name),
            # From pixel indices, 1-based and inclusive, to coordinates: (1, W) covers 0 to W.
            "bbox": [obj.box[0] - 1, obj.box[1] - 1, obj.box[2], obj.box[3]],
            "bbox_mode": BoxMode.XYXY_ABS,
        }
        for obj in annotation.objects
        if obj.name in class_names  # others were reported
    ]
    return {
        "file_name": str(picture),
        "image_id": image_id,
        "height": height,
        "width": width,
        "annotations": instances,
    }


def read_voc(dataset: str, report: Report = stop) -> list[dict[str, Any]]:
    """Reads a registered VOC-style data set strictly, also one that Detectron2 itself registers.

    Raises:
        UserError: as `load_voc`.
    """
    meta = MetadataCatalog.get(dataset)
    return load_voc(voc_folder(dataset), meta.split, dataset, meta.thing_classes, report)


def voc_folder(dataset: str) -> Path:
    """Where a registered VOC-style data set is. Detectron2 0.5 keeps the "~" of its root."""
    return Path(MetadataCatalog.get(dataset).dirname).expanduser()


def load_voc_segmentation(
    root: Path,
    split: str,
    dataset: str,
    report: Report = stop,
    labels: str = "SegmentationClass",
) -> list[dict[str, Any]]:
    """Detectron2's dicts of a split of `ImageSets/Segmentation`, whose label maps are classes.

    The values of the PNGs are indices, whatever colors their palette has.

    Args:
        labels: the folder of the PNGs.
        report: gets what is wrong with single images, which are then left out.

    Raises:
        UserError: as `read_split`, or a label map is not one of its image.
    """
    entries = []
    files = {"JPEGImages": ".jpg", labels: ".png"}
    for image_id in read_split(root, split, dataset, report, "Segmentation", files):
        image = root / "JPEGImages" / f"{image_id}.jpg"
        label_map = root / labels / f"{image_id}.png"
        with reporting(report):
            width, height = read_pair_size(image, label_map)
            entries.append(
                {
                    "file_name": str(image),
                    "image_id": image_id,
                    "height": height,
                    "width": width,
                    "sem_seg_file_name": str(label_map),
                }
            )
    return entries
