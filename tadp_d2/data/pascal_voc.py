"""Pascal VOC folders: reading a split and its annotations, strictly. Nothing is written.

A folder holds `Annotations/<id>.xml`, `ImageSets/Main/<split>.txt` and `JPEGImages/<id>.jpg`. Here
an annotation's `pose`, `truncated` and `difficult` may be absent, as in Watercolor2k and Comic2k.
"""

import xml.etree.ElementTree as ET
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tadp_d2.data.root import not_found
from tadp_d2.errors import UserError

# The tags of a box, in VOC's order.
SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VOCObject:
    """One object of a picture.

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
    """What an annotation file says of a picture of `width` x `height` pixels."""

    width: int
    height: int
    objects: tuple[VOCObject, ...]


def read_split(root: Path, split: str, dataset: str) -> list[str]:
    """The image ids of a split.

    Raises:
        UserError: the folder or a part of it is absent, the split is empty, or an image or
            annotation that it lists is absent.
    """
    split_file = root / "ImageSets" / "Main" / f"{split}.txt"
    for path in (root / "Annotations", root / "JPEGImages", split_file):
        if not path.exists():
            layout = f"{root} with Annotations/, JPEGImages/ and ImageSets/Main/{split}.txt"
            raise not_found(dataset, path, layout)
    ids = split_file.read_text().split()
    if not ids:
        raise UserError(f"{split_file}: the split is empty; expected one image id per line")
    for folder, suffix in (("Annotations", ".xml"), ("JPEGImages", ".jpg")):
        present = {path.name for path in (root / folder).iterdir()}
        absent = [image_id for image_id in ids if image_id + suffix not in present]
        if absent:
            raise UserError(
                f"{split_file}: lists {absent[0]!r}, but there is no "
                f"{root / folder / absent[0]}{suffix} ({len(absent)} such of {len(ids)})"
            )
    return ids


def read_annotation(path: Path, class_names: Collection[str]) -> VOCAnnotation:
    """Reads an annotation file.

    A box may reach one pixel beyond the picture, because some tools count from 0.

    Raises:
        UserError: the file is not such an annotation, names a class that is not among
            `class_names`, or has a box outside the picture or without area.
    """
    try:
        root = ET.parse(path).getroot()
        width, height = (int(_text(root, f"size/{side}")) for side in ("width", "height"))
        objects = tuple(_read_object(element) for element in root.iter("object"))
    except (ET.ParseError, ValueError) as error:
        raise UserError(f"{path}: not a VOC annotation ({error})") from None
    for obj in objects:
        if obj.name not in class_names:
            raise UserError(
                f"{path}: unknown class {obj.name!r}; expected one of {', '.join(class_names)}"
            )
        left, top, right, bottom = obj.box
        inside = 0 <= left and 0 <= top and right <= width + 1 and bottom <= height + 1
        if not inside or right < left or bottom < top:
            raise UserError(
                f"{path}: the box of {obj.name!r}, {left:g} {top:g} {right:g} {bottom:g}, is not "
                f"inside the picture of {width} x {height} pixels (xmin ymin xmax ymax, from 1)"
            )
    return VOCAnnotation(width, height, objects)


def _read_object(element: ET.Element) -> VOCObject:
    box = tuple(float(_text(element, f"bndbox/{side}")) for side in SIDES)
    return VOCObject(_text(element, "name"), box, element.findtext("difficult", "0").strip() == "1")


def _text(element: ET.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"<{element.tag}> without {path}")
    return text.strip()
