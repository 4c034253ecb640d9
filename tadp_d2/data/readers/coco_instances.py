"""COCO's JSON of instances, by Detectron2's reader, with errors that name the file."""

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from tadp_d2.data.root import not_found
from tadp_d2.errors import Report, UserError, reason, stop


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
        report: gets the images that are not there, which are left out.

    Raises:
        UserError: as `load_coco`.
    """
    try:
        entries = DatasetCatalog.get(dataset)
    except (OSError, json.JSONDecodeError, AssertionError) as error:
        file = MetadataCatalog.get(dataset).get("json_file", dataset)
        raise UserError(f"data set {dataset!r} cannot be read from {file} ({error})") from None
    return leave_out_missing(dataset, entries, report)


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
