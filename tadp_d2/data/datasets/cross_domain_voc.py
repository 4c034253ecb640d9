"""The detection data sets: Watercolor2k and Comic2k as Detectron2 data sets, beside its own VOC.

They lie in VOC's layout below `$DETECTRON2_DATASETS` (default `datasets/`). Importing this module
registers `watercolor_train`, `watercolor_test`, `comic_train` and `comic_test`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import CLASS_NAMES
from detectron2.structures import BoxMode

from tadp_d2.data.images import read_header
from tadp_d2.data.readers.pascal_voc import read_annotation, read_split
from tadp_d2.data.root import datasets_root
from tadp_d2.errors import Report, UserError, reporting, stop

# The classes that both targets share with VOC, on which they are scored.
SHARED_CLASSES = ("bicycle", "bird", "car", "cat", "dog", "person")


def load_voc(
    root: Path, split: str, dataset: str, class_names: Sequence[str], report: Report = stop
) -> list[dict]:
    """Detectron2's dicts of a VOC-style split: RGB files, boxes as 0-based absolute XYXY pixels.

    Args:
        report: gets what is wrong with single pictures, which are then left out.

    Raises:
        UserError: as `read_split` and `read_annotation`, or a picture is not the one annotated.
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
    width, height, _ = read_header(picture)
    if (annotation.width, annotation.height) != (width, height):
        raise UserError(
            f"{annotation_file}: of a picture of {annotation.width} x {annotation.height} pixels, "
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


def is_voc(dataset: str) -> bool:
    """Whether a registered data set is VOC-style: Detectron2's own and the targets are."""
    return MetadataCatalog.get(dataset).get("evaluator_type") == "pascal_voc"


def read_voc(dataset: str, report: Report = stop) -> list[dict[str, Any]]:
    """Reads a registered VOC-style data set strictly, also one that Detectron2 itself registers.

    Raises:
        UserError: as `load_voc`.
    """
    meta = MetadataCatalog.get(dataset)
    return load_voc(Path(meta.dirname), meta.split, dataset, meta.thing_classes, report)


def register_target(name: str, root: Path, split: str) -> None:
    """Registers a VOC-style target: all VOC classes are known, the six shared ones are scored."""
    DatasetCatalog.register(name, lambda: load_voc(root, split, name, CLASS_NAMES))
    MetadataCatalog.get(name).set(
        thing_classes=list(CLASS_NAMES),
        evaluation_classes=list(SHARED_CLASSES),
        evaluator_type="pascal_voc",
        dirname=str(root),
        split=split,
        # Detectron2's evaluator asks for a year to choose its metric; ours computes both.
        year=2007,
    )


for _target in ("watercolor", "comic"):
    for _split in ("train", "test"):
        register_target(f"{_target}_{_split}", datasets_root() / _target, _split)
