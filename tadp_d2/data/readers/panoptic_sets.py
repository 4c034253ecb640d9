"""Registered data sets in COCO's panoptic format, and the segments of their entries.

`coco_panoptic` reads the files; here they become Detectron2's dicts and class indices.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from tadp_d2.data.readers.coco_instances import leave_out_missing
from tadp_d2.data.readers.coco_panoptic import PanopticImage, Segment, read_panoptic
from tadp_d2.data.root import not_found
from tadp_d2.errors import Report, UserError, reason, stop


class Segments(NamedTuple):
    """The ground truth of an image.

    Attributes:
        ids: H x W, the segment id of every pixel; 0 where there is no segment.
        described: of each id "id", "category_id" (a class index), "isthing" and "iscrowd".
    """

    ids: np.ndarray
    described: list[dict[str, Any]]


def read_panoptic_set(dataset: str, report: Report = stop) -> list[dict[str, Any]]:
    """Reads a registered data set whose metadata name a panoptic JSON file.

    Args:
        report: gets the images that are not there, which are left out.

    Raises:
        UserError: a file is absent, malformed, or contradicts itself.
    """
    meta = MetadataCatalog.get(dataset)
    file = Path(meta.panoptic_json)
    if not file.is_file():
        raise not_found(dataset, file, "a JSON file and PNG files of COCO's panoptic format")
    # Detectron2's own readers end with a traceback where this one has a message.
    categories, _ = read_panoptic(file, Path(meta.panoptic_root))
    known = {**meta.thing_dataset_id_to_contiguous_id, **meta.stuff_dataset_id_to_contiguous_id}
    for category in categories:
        if category.id not in known:
            raise UserError(
                f"{file}: category {category.id} ({category.name}) is none of the classes of "
                f"{dataset!r}; take the file that was published with the images"
            )
    try:
        entries = DatasetCatalog.get(dataset)
    except (OSError, AssertionError, LookupError, json.JSONDecodeError) as error:
        raise UserError(f"data set {dataset!r} cannot be read ({reason(error)})") from None
    things = set(meta.thing_dataset_id_to_contiguous_id.values())
    for entry in entries:
        for row in entry.get("segments_info", ()):
            row["isthing"] = row["category_id"] in things
        if "segments_info" in entry:
            # The classes of the pixels are those of the segments.
            entry.pop("sem_seg_file_name", None)
    return leave_out_missing(dataset, entries, report)


def read_segments(entry: Mapping[str, Any]) -> Segments:
    """The segments of an entry with "pan_seg_file_name" and "segments_info".

    Raises:
        UserError: the file is absent or damaged, or the ids are not those of the description.
    """
    file = Path(entry["pan_seg_file_name"])
    described = entry["segments_info"]
    if described is None:
        raise UserError(
            f"{file}: its segments are not described (segments_info is None); expected a list"
        )
    segments = {
        row["id"]: Segment(row["category_id"], row.get("area", 0), bool(row.get("iscrowd", 0)))
        for row in described
    }
    if len(segments) < len(described):
        raise UserError(f"{file}: two of its segments have the same id; expected one of each")
    return Segments(PanopticImage(file, segments).read_ids(), list(described))


def class_map(segments: Segments, ignored: int) -> np.ndarray:
    """The class index of every pixel, H x W; `ignored` where there is no segment."""
    ids, places = np.unique(segments.ids, return_inverse=True)
    classes = {row["id"]: row["category_id"] for row in segments.described}
    values = np.array([classes.get(id_, ignored) for id_ in ids.tolist()])
    return values[places.reshape(segments.ids.shape)]
