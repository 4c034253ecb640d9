"""Registered data sets in COCO's panoptic format, and the segments of their entries.

`coco_panoptic` reads the files; here they become Detectron2's dicts and class indices.
"""

import json
from collections.abc import Mapping
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.colormap import colormap

from tadp_d2.data.readers.coco_instances import check_objects, leave_out_missing
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
    if not meta.get("thing_classes"):
        # Of one's own, and made since it was registered.
        meta.set(**panoptic_metadata(file, Path(meta.panoptic_root)))
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
    found = leave_out_missing(dataset, entries, report)
    check_objects(entries, str(meta.get("json_file")), report)
    return found


def panoptic_metadata(file: Path, folder: Path) -> dict[str, Any]:
    """Detectron2's metadata of a data set of one's own: the classes of its file, in one range.

    Args:
        folder: with the PNG files.

    Raises:
        UserError: the file is malformed. One that is absent has no classes yet.
    """
    if not file.is_file():
        return {}
    categories, _ = read_panoptic(file, folder)
    names = [category.name for category in categories]
    if len(set(names)) < len(names):
        raise UserError(f"{file}: two categories have the same name; expected different names")
    palette = colormap(rgb=True).astype(int)
    colors = [palette[place % len(palette)].tolist() for place in range(len(names))]
    ids = {
        is_thing: {c.id: i for i, c in enumerate(categories) if c.is_thing == is_thing}
        for is_thing in (True, False)
    }
    return {
        **{f"{kind}_classes": names for kind in ("thing", "stuff")},
        **{f"{kind}_colors": colors for kind in ("thing", "stuff")},
        "thing_dataset_id_to_contiguous_id": ids[True],
        "stuff_dataset_id_to_contiguous_id": ids[False],
        "ignore_label": 255,
        "label_divisor": 1000,
    }


def load_panoptic(file: Path, images: Path, segments: Path) -> list[dict[str, Any]]:
    """Detectron2's dicts of a data set of one's own.

    Args:
        images: folder of the images that "images" of the file names.
        segments: folder of the PNG files.

    Raises:
        UserError: the file is malformed, or has an annotation of an image that it does not name.
    """
    categories, truth = read_panoptic(file, segments)
    indices = {category.id: place for place, category in enumerate(categories)}
    try:
        known = {str(row["id"]): row for row in json.loads(file.read_bytes())["images"]}
        return [
            {
                "file_name": str(images / known[image_id]["file_name"]),
                "image_id": known[image_id]["id"],
                "height": index(known[image_id]["height"]),
                "width": index(known[image_id]["width"]),
                "pan_seg_file_name": str(image.file),
                "segments_info": [
                    {
                        "id": id_,
                        "category_id": indices[segment.category],
                        "area": segment.area,
                        "iscrowd": int(segment.is_crowd),
                    }
                    for id_, segment in image.segments.items()
                ],
            }
            for image_id, image in truth.items()
        ]
    except (LookupError, TypeError) as error:
        raise UserError(
            f"{file}: not an annotation file in COCO's panoptic format ({reason(error)}); expected "
            'in "images" an "id", "file_name", "height" and "width" for each image of "annotations"'
        ) from None


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
