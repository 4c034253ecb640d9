"""Referring segmentation: references of a split, read strictly, and their masks.

`tadp-d2 prepare` writes the file of a split from what is published (`refer_release`). It is JSON:
`{"format": "tadp_d2 references", "version": 1, "made_of": {...}, "references": [...]}`. A reference
is one object of an image with all its expressions; the fields are those of `Reference`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask

from tadp_d2.data.images import read_size
from tadp_d2.data.root import data_set_guide
from tadp_d2.errors import Report, UserError, reason, reporting, stop
from tadp_d2.files import replacing

FORMAT = "tadp_d2 references"
VERSION = 1
# Characters of an expression; the longest of RefCOCOg has about 250.
_LONGEST = 2000


@dataclass(frozen=True)
class Reference:
    """An object that is referred to.

    Attributes:
        ref_id, ann_id, image_id: as published.
        file_name: of the image, without folder.
        width, height: of the image, pixels.
        polygons: of the object: x0, y0, x1, y1, ... in pixels.
        expressions: pairs of sentence id and expression.
    """

    ref_id: int
    ann_id: int
    image_id: int
    file_name: str
    width: int
    height: int
    polygons: Sequence[Sequence[float]]
    expressions: Sequence[tuple[int, str]]


def check_reference(record: Any, where: str) -> Reference:
    """
    Args:
        record: may be anything.
        where: the file, for the message.

    Raises:
        UserError: it is no reference, has no area or an empty expression.
    """
    if not isinstance(record, Mapping) or set(record) != set(Reference.__annotations__):
        fields = ", ".join(Reference.__annotations__)
        raise UserError(f"{where}: a reference has the fields {fields}")
    where = f"{where}: reference {record['ref_id']!r}"
    for key in ("ref_id", "ann_id", "image_id"):
        if not is_id(record[key]):
            raise UserError(f"{where}: its {key} is {record[key]!r}, expected a whole number")
    name = record["file_name"]
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise UserError(f"{where}: its file_name is {name!r}, expected the name of an image file")
    size = (record["width"], record["height"])
    if not all(is_id(side) and side > 0 for side in size):
        raise UserError(f"{where}: its image has the size {size}, expected pixels")
    polygons = _check_polygons(record["polygons"], size, where)
    expressions = _check_expressions(record["expressions"], where)
    return Reference(**{**record, "polygons": polygons, "expressions": expressions})


def is_id(value: Any) -> bool:
    """Whether a value is a whole number, 0 or more, of 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _check_polygons(polygons: Any, size: tuple[int, int], where: str) -> list[list[float]]:
    if not isinstance(polygons, list) or not all(isinstance(p, list) for p in polygons):
        raise UserError(f"{where}: its segmentation is no list of polygons")
    for polygon in polygons:
        if len(polygon) % 2 or not all(isinstance(value, int | float) for value in polygon):
            raise UserError(f"{where}: a polygon is no list of x and y in turn")
        for axis, side in enumerate(size):
            if not all(-side <= value <= 2 * side for value in polygon[axis::2]):
                raise UserError(
                    f"{where}: a polygon lies far outside of its image of {size[0]} x {size[1]}"
                )
    # One or two points enclose nothing.
    enclosing = [polygon for polygon in polygons if len(polygon) >= 6]
    if not enclosing:
        raise UserError(f"{where}: its segmentation has no polygon of three points or more")
    return enclosing


def _check_expressions(expressions: Any, where: str) -> list[tuple[int, str]]:
    if not isinstance(expressions, list) or not expressions:
        raise UserError(f"{where}: has no expression")
    checked = []
    for pair in expressions:
        try:
            number, text = pair
        except (TypeError, ValueError):
            raise UserError(f"{where}: an expression is no pair of id and text") from None
        if not is_id(number) or not isinstance(text, str):
            raise UserError(f"{where}: an expression is no pair of id and text")
        if not text.strip():
            raise UserError(f"{where}: its expression {number} is empty; remove it, or complete it")
        if len(text) > _LONGEST:
            raise UserError(
                f"{where}: its expression {number} has {len(text)} characters, expected at most "
                f"{_LONGEST}"
            )
        checked.append((number, text))
    return checked


def write_references(
    path: Path, references: Sequence[Reference], made_of: Mapping[str, str]
) -> None:
    """Writes the file of a split.

    Args:
        made_of: names and fingerprints of the files that it was made of.
    """
    records = [asdict(reference) for reference in references]
    content = {"format": FORMAT, "version": VERSION, "made_of": made_of, "references": records}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n")


def read_references(path: Path) -> list[Reference]:
    """
    Raises:
        UserError: the file is damaged or no such file, or something in it is wrong.
    """
    content = read_json(path)
    known = isinstance(content, dict) and content.get("format") == FORMAT
    if not known or content.get("version") != VERSION:
        raise UserError(
            f"{path}: expected references as tadp-d2 prepare writes them, "
            f'{{"format": "{FORMAT}", "version": {VERSION}, ...}}'
        )
    records = content.get("references")
    if not isinstance(records, list) or not records:
        raise UserError(f"{path}: holds no references")
    references = [check_reference(record, str(path)) for record in records]
    check_unique(references, str(path))
    return references


def check_unique(references: Sequence[Reference], where: str) -> None:
    """
    Raises:
        UserError: two references or two expressions have the same id.
    """
    refs, expressions = set(), set()
    for reference in references:
        for known, number, kind in (
            (refs, reference.ref_id, "reference"),
            *((expressions, number, "expression") for number, _ in reference.expressions),
        ):
            if number in known:
                raise UserError(f"{where}: has the {kind} {number} twice")
            known.add(number)


def read_json(path: Path) -> Any:
    """
    Raises:
        UserError: there is no such file, or it is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({reason(error)})") from None


def load_refer(file: Path, images: Path, report: Report = stop) -> list[dict[str, Any]]:
    """Detectron2's dicts of a split, one for each expression, those of an image in a row.

    Besides Detectron2's keys they have "ref_id", "expression_id", "expression" and "polygons".

    Args:
        file: of the split's references.
        images: folder of the images.
        report: gets what is wrong with single images, which are then left out.

    Raises:
        UserError: as `read_references`; an image is missing, unreadable or of another size.
    """
    by_image: dict[int, list[Reference]] = {}
    for reference in read_references(file):
        by_image.setdefault(reference.image_id, []).append(reference)
    entries = []
    for references in by_image.values():
        with reporting(report):
            _check_image(images, references, file)
            entries += [
                {
                    "file_name": str(images / reference.file_name),
                    "height": reference.height,
                    "width": reference.width,
                    "image_id": reference.image_id,
                    "ref_id": reference.ref_id,
                    "expression_id": number,
                    "expression": text,
                    "polygons": reference.polygons,
                }
                for reference in references
                for number, text in reference.expressions
            ]
    return entries


def _check_image(images: Path, references: Sequence[Reference], file: Path) -> None:
    first = references[0]
    stated = (first.file_name, first.width, first.height)
    for other in references:
        if (other.file_name, other.width, other.height) != stated:
            raise UserError(
                f"{file}: references {first.ref_id} and {other.ref_id} are of the image "
                f"{first.image_id}, but state another file or size"
            )
    header = read_size(images / first.file_name)
    if (header.width, header.height) != (first.width, first.height):
        raise UserError(
            f"{images / first.file_name}: {header.width} x {header.height} pixels, but {file} has "
            f"{first.width} x {first.height}; take the image from COCO's train2014"
        )


def read_refer(dataset: str, report: Report = stop) -> list[dict[str, Any]]:
    """Reads a registered data set of references strictly.

    Raises:
        UserError: it is absent, or as `load_refer`.
    """
    # Here, because what writes synthetic references works without Detectron2.
    from detectron2.data import MetadataCatalog

    meta = MetadataCatalog.get(dataset)
    file = Path(meta.location)
    if not file.is_file():
        raise UserError(
            f"data set {dataset!r} not found: there is no {file}. tadp-d2 prepare "
            f"{file.parent.name} makes it of the published files; {data_set_guide()} says where "
            "they come from. Set DETECTRON2_DATASETS to the folder that holds the data sets, or "
            "write small synthetic ones: tadp-d2 synth FOLDER"
        )
    return load_refer(file, Path(meta.images), report)


def draw_mask(entry: Mapping[str, Any], overlaps: bool = True) -> np.ndarray:
    """The mask of an object, H x W bool at the size of its image.

    Args:
        entry: with "polygons", "height" and "width".
        overlaps: whether pixels of several polygons belong to it. The released code adds polygons
            and takes what is 1, so that they do not.
    """
    codes = coco_mask.frPyObjects(list(entry["polygons"]), entry["height"], entry["width"])
    counts = coco_mask.decode(codes).sum(axis=2)
    return counts > 0 if overlaps else counts == 1
