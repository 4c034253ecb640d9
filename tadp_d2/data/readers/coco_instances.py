"""COCO's JSON of instances, by Detectron2's reader, with checks of what that takes as it comes."""

import contextlib
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode

from tadp_d2.data.root import not_found
from tadp_d2.errors import Report, UserError, reason, stop

# Of all boxes of a file, how many may reach out of their images.
_OVERHANGING = 0.1


def load_coco(annotations: Path, images: Path, dataset: str) -> list[dict[str, Any]]:
    """Detectron2's dicts of a COCO-style data set; its classes go into its metadata.

    Raises:
        UserError: the file or the folder of images is absent, or the file is no such annotation.
    """
    for path, present in ((annotations, annotations.is_file()), (images, images.is_dir())):
        if not present:
            raise not_found(dataset, path, f"{annotations} of COCO's format and images in {images}")
    try:
        # pycocotools prints.
        with contextlib.redirect_stdout(io.StringIO()):
            return load_coco_json(str(annotations), str(images), dataset)
    # What is in a file may be of any kind.
    except (OSError, LookupError, TypeError, ValueError, AssertionError, AttributeError) as error:
        raise UserError(
            f"{annotations}: not an annotation file in COCO's format ({reason(error)}); expected "
            'an object with "images", "annotations" and "categories"'
        ) from None


def read_coco(dataset: str, report: Report = stop) -> list[dict[str, Any]]:
    """Reads a registered COCO-style data set; of its images only the names are looked at.

    Args:
        report: gets the images that are not there, which are left out, and the objects whose values
            cannot be meant.

    Raises:
        UserError: as `load_coco`.
    """
    file = MetadataCatalog.get(dataset).get("json_file", dataset)
    try:
        entries = DatasetCatalog.get(dataset)
    except (OSError, json.JSONDecodeError, AssertionError) as error:
        raise UserError(f"data set {dataset!r} cannot be read from {file} ({error})") from None
    found = leave_out_missing(dataset, entries, report)
    check_objects(entries, file, report)
    return found


def leave_out_missing(
    dataset: str, entries: list[dict[str, Any]], report: Report
) -> list[dict[str, Any]]:
    """The entries whose images are there.

    Args:
        report: gets the others.
    """
    folders = {os.path.dirname(entry["file_name"]) for entry in entries}
    here = {
        os.path.join(folder, name)
        for folder in folders
        if os.path.isdir(folder)
        for name in os.listdir(folder)
    }
    missing = [entry["file_name"] for entry in entries if entry["file_name"] not in here]
    for file in missing:
        report(
            UserError(
                f"{file}: named by data set {dataset!r}, and not there ({len(missing)} such of "
                f"{len(entries)}); complete the download"
            )
        )
    absent = set(missing)
    return [entry for entry in entries if entry["file_name"] not in absent]


def check_objects(entries: Sequence[Mapping[str, Any]], file: str, report: Report) -> None:
    """Reports objects whose values cannot be meant.

    A box may reach out of its image, as those of people do that are hidden in part. Many that do
    are no such boxes.
    """
    overhanging, count = [], 0
    for entry in entries:
        width, height = (entry.get(side, math.inf) for side in ("width", "height"))
        for obj in entry.get("annotations", ()):
            if obj.get("bbox_mode") not in (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS):
                continue
            told = f"{' '.join(map(str, obj.get('bbox', ())))[:80]}, of {entry['file_name']}"
            why = _misread(obj, width, height)
            if why:
                report(UserError(f"{file}: the object with the box {told}, {why}"))
                continue
            left, top, right, bottom = _corners(obj)
            count += 1
            if min(left, top) < -1 or right > width + 1 or bottom > height + 1:
                overhanging.append(told)
    if len(overhanging) > _OVERHANGING * count:
        report(
            UserError(
                f"{file}: {len(overhanging)} of {count} boxes reach out of their images, such as "
                f"{overhanging[0]}: a box is x, y, width and height in pixels, and not two corners"
            )
        )


def _misread(obj: Mapping[str, Any], width: float, height: float) -> str:
    """Why an object cannot be meant as it is written; empty if it can."""
    box = obj.get("bbox", ())
    if len(box) != 4 or not all(isinstance(n, int | float) and math.isfinite(n) for n in box):
        return "has no four numbers"
    if obj.get("iscrowd", 0) not in (0, 1):
        return f"has iscrowd {obj['iscrowd']!r}: expected 0 or 1"
    left, top, right, bottom = _corners(obj)
    if right < left or bottom < top:
        return "has a negative size"
    if left > width or top > height or right < 0 or bottom < 0:
        return f"lies outside of the image of {width} x {height} pixels"
    # No object is so small. Boxes of four zeros or ones stand for images that nobody labeled.
    if (right <= 1 and bottom <= 1) or all(number == 1 for number in box):
        return "lies within a pixel: it is a dummy, or in shares of the image's size; use pixels"
    return ""


def _corners(obj: Mapping[str, Any]) -> tuple[float, float, float, float]:
    left, top, right, bottom = obj["bbox"]
    if obj["bbox_mode"] == BoxMode.XYWH_ABS:
        return left, top, left + right, top + bottom
    return left, top, right, bottom
