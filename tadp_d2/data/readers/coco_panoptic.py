"""COCO's panoptic format as ground truth: a JSON file that describes the segments of PNG files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

from tadp_d2.data.images import read_stored_rgb
from tadp_d2.errors import UserError, reason

# The segment id of pixels that belong to no segment.
VOID = 0


@dataclass(frozen=True)
class Category:
    """A class of the format, by its id in the file."""

    id: int
    name: str
    is_thing: bool


@dataclass(frozen=True)
class Segment:
    """A segment of the ground truth.

    Attributes:
        category: id of its class.
        area: pixels, as the JSON file has it.
        is_crowd: whether it stands for a group of objects that are not separated.
    """

    category: int
    area: int
    is_crowd: bool


@dataclass(frozen=True)
class PanopticImage:
    """The ground truth of an image: its PNG file, and the segments by their ids."""

    file: Path
    segments: Mapping[int, Segment]

    def read_ids(self) -> np.ndarray:
        """The segment id of every pixel, H x W int64; `VOID` where there is no segment.

        Raises:
            UserError: the file is damaged, or its ids are not those of the JSON file.
        """
        ids = read_segment_ids(self.file)
        found = set(np.unique(ids).tolist()) - {VOID}
        for id_ in sorted(found - set(self.segments)):
            raise UserError(
                f"{self.file}: has the segment id {id_}, which the JSON file does not describe; "
                "take both from the same archive"
            )
        for id_ in sorted(set(self.segments) - found):
            raise UserError(
                f"{self.file}: has no pixel of the segment id {id_}, which the JSON file "
                "describes; take both from the same archive"
            )
        return ids


def read_segment_ids(path: Path) -> np.ndarray:
    """R + 256 G + 65536 B of every pixel, H x W int64.

    Raises:
        UserError: the file is no such PNG, or damaged.
    """
    return read_stored_rgb(path).astype(np.int64) @ [1, 256, 65536]


def read_panoptic(file: Path, folder: Path) -> tuple[list[Category], dict[str, PanopticImage]]:
    """The classes in the order of the file, and the ground truth by image id.

    Args:
        folder: with the PNG files, which are not looked at.

    Raises:
        UserError: the file is no such annotation, or it contradicts itself.
    """
    try:
        content = json.loads(file.read_bytes())
        categories = [
            Category(index(row["id"]), str(row["name"]), bool(index(row["isthing"])))
            for row in content["categories"]
        ]
        known = {category.id for category in categories}
        if len(known) < len(categories):
            raise UserError(f"{file}: two categories have the same id")
        images: dict[str, PanopticImage] = {}
        for row in content["annotations"]:
            image_id = str(row["image_id"])
            if image_id in images:
                raise UserError(f"{file}: image {image_id} has two annotations; expected one")
            where = f"{file}: image {image_id}"
            segments = _segments(row["segments_info"], known, where)
            images[image_id] = PanopticImage(folder / row["file_name"], segments)
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{file}: not an annotation file in COCO's panoptic format "
            f"({type(error).__name__}: {reason(error)}); expected an object with "
            '"annotations" and "categories", and an "id", "category_id", "area" and "iscrowd" for '
            "each segment"
        ) from None
    return categories, images


def _segments(rows: list[dict[str, Any]] | None, known: set[int], where: str) -> dict[int, Segment]:
    if rows is None:
        raise UserError(
            f'{where}: its segments are not described ("segments_info" is null); expected a list, '
            "empty for an image without segments"
        )
    segments: dict[int, Segment] = {}
    for row in rows:
        id_, category = index(row["id"]), index(row["category_id"])
        if not VOID < id_ < 256**3:
            raise UserError(f"{where}: segment id {id_} is not within 1..{256**3 - 1}")
        if id_ in segments:
            raise UserError(f"{where}: two segments have the id {id_}; expected one")
        if category not in known:
            raise UserError(f"{where}: segment {id_} has the category {category}, which is unknown")
        segments[id_] = Segment(category, index(row["area"]), bool(index(row["iscrowd"])))
    return segments
