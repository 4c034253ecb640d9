"""The masks of Pascal VOC's images as Detectron2 data sets: instances, classes, panoptic segments.

For each `<split>` of `voc_2007_trainval`, `voc_2007_test` and `voc_2012_trainval`, importing this
module registers these, and for the synthetic `watercolor_test` and `comic_test`, too:

* `<split>_instances`: COCO's format with the 20 classes. Masks are run lengths, for
  `INPUT.MASK_FORMAT` "bitmask".
* `<split>_semantic`: VOC's `SegmentationClass`, background and the 20 classes.
* `<split>_panoptic`: COCO's panoptic format; things and stuff share one range of class indices.
* `<split>_panoptic_separated`: the same images as PanopticFPN reads them, with the masks of
  `_instances` and a label map in which 0 is all things.

The names and metadata of the last two follow Detectron2's COCO sets. `datasets/README.md` has the
layout of the files.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_sem_seg
from detectron2.data.datasets.coco_panoptic import load_coco_panoptic_json, merge_to_panoptic

from tadp_d2.data.datasets.voc_categories import (
    BACKGROUND,
    COLORMAP,
    COLORS,
    STUFF,
    STUFF_IDS,
    THING_IDS,
    THINGS,
    VOID,
)
from tadp_d2.data.readers.coco_instances import load_coco
from tadp_d2.data.readers.pascal_voc import load_voc_segmentation
from tadp_d2.data.root import datasets_root, not_found

_THING_INDICES = {category: index for index, category in enumerate(THING_IDS.values())}
_INSTANCES = {
    "thing_classes": list(THINGS),
    "thing_colors": [COLORS[name] for name in THINGS],
    "thing_dataset_id_to_contiguous_id": _THING_INDICES,
}
_SEMANTIC = {
    "stuff_classes": [BACKGROUND, *THINGS],
    "stuff_colors": COLORMAP[: 1 + len(THINGS)].tolist(),
    "ignore_label": VOID,
}
# One range of indices. As in Detectron2, `thing_classes` and `stuff_classes` both name all of it.
_ALL_NAMES, _ALL_COLORS = [*THINGS, *STUFF], [COLORS[name] for name in (*THINGS, *STUFF)]
_PANOPTIC = {
    "thing_classes": _ALL_NAMES,
    "thing_colors": _ALL_COLORS,
    "thing_dataset_id_to_contiguous_id": _THING_INDICES,
    "stuff_classes": _ALL_NAMES,
    "stuff_colors": _ALL_COLORS,
    "stuff_dataset_id_to_contiguous_id": {
        category: index for index, category in enumerate(STUFF_IDS.values(), start=len(THINGS))
    },
    "ignore_label": VOID,
    "label_divisor": 1000,
}
# Two ranges: things, and stuff behind a class 0 for all things.
_SEPARATED = {
    **_INSTANCES,
    "stuff_classes": ["things", *STUFF],
    "stuff_colors": [[82, 18, 128], *(COLORS[name] for name in STUFF)],
    "stuff_dataset_id_to_contiguous_id": {
        0: 0,
        **{category: index for index, category in enumerate(STUFF_IDS.values(), start=1)},
    },
    "ignore_label": VOID,
}
_LAYOUT = (
    "JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/ of VOC, and for COCO's formats "
    "coco/annotations/ and the folders beside it"
)


def register_voc_segmentation(dataset: str, root: Path, split: str) -> None:
    """Registers the four data sets of a split.

    Args:
        dataset: beginning of their names.
        root: folder of the year, with `JPEGImages`.
    """
    images, coco = str(root / "JPEGImages"), root / "coco"
    instances = coco / "annotations" / f"instances_{split}.json"
    panoptic = coco / "annotations" / f"panoptic_{split}.json"
    segments, stuff = coco / f"panoptic_{split}", coco / f"panoptic_stuff_{split}"
    instances_files = {"image_root": images, "json_file": str(instances)}
    panoptic_files = {
        **instances_files,
        "panoptic_root": str(segments),
        "panoptic_json": str(panoptic),
    }

    _register(
        f"{dataset}_semantic",
        root / "ImageSets" / "Segmentation" / f"{split}.txt",
        lambda: load_voc_segmentation(root, split, f"{dataset}_semantic"),
        evaluator_type="sem_seg",
        **_SEMANTIC,
    )
    _register(
        f"{dataset}_instances",
        instances,
        lambda: load_coco(instances, Path(images), f"{dataset}_instances"),
        evaluator_type="coco",
        **instances_files,
        **_INSTANCES,
    )
    _register(
        f"{dataset}_panoptic",
        panoptic,
        lambda: load_coco_panoptic_json(str(panoptic), images, str(segments), _PANOPTIC),
        evaluator_type="coco_panoptic_seg",
        **panoptic_files,
        **_PANOPTIC,
    )
    separated = f"{dataset}_panoptic_separated"
    _register(
        separated,
        panoptic,
        lambda: merge_to_panoptic(
            load_coco(instances, Path(images), separated), load_sem_seg(str(stuff), images)
        ),
        evaluator_type="coco_panoptic_seg",
        sem_seg_root=str(stuff),
        **panoptic_files,
        **_SEPARATED,
    )


def _register(
    name: str, location: Path, load: Callable[[], list[dict[str, Any]]], **metadata: Any
) -> None:
    """Registers a data set; to load one that is not there ends in a message."""

    def loaded() -> list[dict[str, Any]]:
        if not location.is_file():
            raise not_found(name, location, _LAYOUT)
        return load()

    DatasetCatalog.register(name, loaded)
    MetadataCatalog.get(name).set(location=location, **metadata)


# Of the targets only the synthetic images have masks.
for _target in ("watercolor", "comic"):
    register_voc_segmentation(f"{_target}_test", datasets_root() / _target, "test")
for _year, _split in (("2007", "trainval"), ("2007", "test"), ("2012", "trainval")):
    register_voc_segmentation(f"voc_{_year}_{_split}", datasets_root() / f"VOC{_year}", _split)
