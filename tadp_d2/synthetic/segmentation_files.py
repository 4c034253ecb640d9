"""The masks of a VOC image as VOC and COCO write them: label maps, run lengths, panoptic segments.

Below the folder of a year, for every image:

* `SegmentationClass/<id>.png`, `SegmentationObject/<id>.png`: classes, and objects in the order of
  the XML, in VOC's palette. VOC's void border, which hides uncertain outlines, does not occur: here
  the class of every pixel is known.
* `coco/panoptic_<split>/<id>.png`: segment ids R + 256 G + 65536 B.
* `coco/panoptic_stuff_<split>/<id>.png`: 0 for things, else stuff from 1, as PanopticFPN reads it;
  255 where an image is bare.

`coco/annotations/` holds `instances_<split>.json` and `panoptic_<split>.json`.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as run_lengths

from tadp_d2.data.datasets.voc_categories import COLORMAP, COLORS, STUFF_IDS, THING_IDS, VOID

# What PanopticFPN's label maps subtract from a category of stuff.
_STUFF_OFFSET = min(STUFF_IDS.values()) - 1
# Every color of the colormap as a panoptic segment id.
_SEGMENT_IDS = (COLORMAP.astype(int) @ (1, 256, 65536)).tolist()


class SegmentedImage(NamedTuple):
    """What the JSON files hold of an image.

    Attributes:
        image: its row in "images".
        instances: its rows in "annotations" of the instances, without their ids.
        segments: its "segments_info".
    """

    image: dict[str, Any]
    instances: list[dict[str, Any]]
    segments: list[dict[str, Any]]


def make_folders(root: Path, split: str) -> None:
    """Makes the folders that a split needs below that of its year."""
    for name in (
        *("SegmentationClass", "SegmentationObject", "ImageSets/Segmentation", "coco/annotations"),
        *(f"coco/panoptic_{split}", f"coco/panoptic_stuff_{split}"),
    ):
        (root / name).mkdir(parents=True, exist_ok=True)


def write_label_maps(
    root: Path,
    split: str,
    image_id: str,
    names: Sequence[str],
    masks: Sequence[np.ndarray],
    stuff: np.ndarray,
) -> SegmentedImage:
    """Writes the four PNGs of an image.

    Args:
        root: folder of the year, with the split's folders.
        names: classes of the objects, in the order of the XML.
        masks: H x W bool, one per object; none is empty, and they share no pixel.
        stuff: H x W uint8, category ids of what stands behind the objects; 0 for nothing.
    """
    objects = np.zeros_like(stuff)
    for number, mask in enumerate(masks, start=1):
        objects[mask] = number
    behind = np.where(objects, 0, stuff)
    kinds = np.flatnonzero(np.bincount(behind.ravel()))[0 if behind.all() else 1 :].tolist()
    categories = [*(THING_IDS[name] for name in names), *kinds]
    # Segments of stuff are numbered behind the objects.
    segments = objects.copy()
    for number, kind in enumerate(kinds, start=1 + len(masks)):
        segments[behind == kind] = number

    classes = np.uint8([0, *categories])[objects]
    _save(Image.fromarray(classes), root / "SegmentationClass", image_id, COLORMAP)
    _save(Image.fromarray(objects), root / "SegmentationObject", image_id, COLORMAP)
    _save(Image.fromarray(COLORMAP[segments]), root / "coco" / f"panoptic_{split}", image_id)
    semantic = np.where(behind, behind - np.uint8(_STUFF_OFFSET), VOID)
    semantic = np.where(objects, 0, semantic).astype(np.uint8)
    _save(Image.fromarray(semantic), root / "coco" / f"panoptic_stuff_{split}", image_id)

    encoded = [_encoded(segments == number) for number in range(1, 1 + len(categories))]
    rows = [
        {
            "category_id": category,
            "area": int(run_lengths.area(mask)),
            # x, y, width and height, pixels from 0.
            "bbox": run_lengths.toBbox(mask).astype(int).tolist(),
            "iscrowd": 0,
        }
        for category, mask in zip(categories, encoded, strict=True)
    ]
    height, width = stuff.shape
    number_of_image = int(image_id.replace("_", ""))
    return SegmentedImage(
        {
            "id": number_of_image,
            "file_name": f"{image_id}.jpg",
            "width": width,
            "height": height,
        },
        [
            {"image_id": number_of_image, **row, "segmentation": _as_text(mask)}
            for row, mask in zip(rows[: len(masks)], encoded[: len(masks)], strict=True)
        ],
        [{"id": _SEGMENT_IDS[number], **row} for number, row in enumerate(rows, start=1)],
    )


def write_annotations(root: Path, split: str, images: Iterable[SegmentedImage]) -> None:
    """Writes the two JSON files of a split."""
    images = list(images)
    instances = [row for image in images for row in image.instances]
    _write_json(
        root / "coco" / "annotations" / f"instances_{split}.json",
        [image.image for image in images],
        [{"id": number, **row} for number, row in enumerate(instances, start=1)],
        [_category(name, number, "thing") for name, number in THING_IDS.items()],
    )
    _write_json(
        root / "coco" / "annotations" / f"panoptic_{split}.json",
        [image.image for image in images],
        [
            {
                "image_id": image.image["id"],
                "file_name": Path(image.image["file_name"]).with_suffix(".png").name,
                "segments_info": image.segments,
            }
            for image in images
        ],
        [
            {
                **_category(name, number, kind),
                "isthing": int(kind == "thing"),
                "color": COLORS[name],
            }
            for kind, ids in (("thing", THING_IDS), ("stuff", STUFF_IDS))
            for name, number in ids.items()
        ],
    )


def _category(name: str, number: int, kind: str) -> dict[str, Any]:
    return {"id": number, "name": name, "supercategory": kind}


def _write_json(path: Path, images: list, annotations: list, categories: list) -> None:
    content = {
        "info": {"description": "tadp_d2 synthetic data set"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    path.write_text(json.dumps(content))


def _encoded(mask: np.ndarray) -> dict[str, Any]:
    return run_lengths.encode(np.asfortranarray(mask, dtype=np.uint8))


def _as_text(mask: dict[str, Any]) -> dict[str, Any]:
    """Run lengths as JSON can hold them."""
    return {"size": mask["size"], "counts": mask["counts"].decode("ascii")}


def _save(
    image: Image.Image, folder: Path, image_id: str, palette: np.ndarray | None = None
) -> None:
    if palette is not None:
        image.putpalette(palette.tobytes())
    image.save(folder / f"{image_id}.png")
