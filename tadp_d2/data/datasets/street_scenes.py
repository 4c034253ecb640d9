"""The segmentation data sets: Cityscapes by day, Dark Zurich and Nighttime Driving.

They lie in their published layouts below `$DETECTRON2_DATASETS` (default `datasets/`). Importing
this module registers `cityscapes_train`, `cityscapes_val`, `cityscapes_foggy_val`,
`dark_zurich_train`, `dark_zurich_val`, `dark_zurich_test` and `nighttime_driving_test`. Dark
Zurich's train and test have no labels here; those of its test are behind a server.
"""

from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from tadp_d2.data.datasets.cityscapes import CLASSES, COLORS, IGNORE_LABEL
from tadp_d2.data.readers.label_maps import Folders, check_values, read_pairs
from tadp_d2.data.root import datasets_root
from tadp_d2.errors import Report, stop

_CITYSCAPES = datasets_root() / "cityscapes"
_DARK_ZURICH = datasets_root() / "dark_zurich"
_NIGHTTIME = datasets_root() / "NighttimeDrivingTest"


def _cityscapes(split: str, pictures: str, suffix: str) -> Folders:
    return Folders(
        images=_CITYSCAPES / pictures / split,
        nesting="*",
        image_suffix=suffix,
        labels=_CITYSCAPES / "gtFine" / split,
        label_suffix="_gtFine_labelTrainIds.png",
        if_no_labels=f"if there are label ids only, make them: CITYSCAPES_DATASET={_CITYSCAPES} "
        "csCreateTrainIdLabelImgs",
    )


def _dark_zurich(split: str) -> Folders:
    return Folders(
        images=_DARK_ZURICH / "rgb_anon" / split,
        nesting="night/*",
        image_suffix="_rgb_anon.png",
        labels=_DARK_ZURICH / "gt" / split if split == "val" else None,
        label_suffix="_gt_labelTrainIds.png",
    )


FOLDERS = {
    "cityscapes_train": _cityscapes("train", "leftImg8bit", "_leftImg8bit.png"),
    "cityscapes_val": _cityscapes("val", "leftImg8bit", "_leftImg8bit.png"),
    # Foggy Cityscapes in its densest fog.
    "cityscapes_foggy_val": _cityscapes(
        "val", "leftImg8bit_foggy", "_leftImg8bit_foggy_beta_0.02.png"
    ),
    "dark_zurich_train": _dark_zurich("train"),
    "dark_zurich_val": _dark_zurich("val"),
    "dark_zurich_test": _dark_zurich("test"),
    "nighttime_driving_test": Folders(
        images=_NIGHTTIME / "leftImg8bit" / "test",
        nesting="night",
        image_suffix="_leftImg8bit.png",
        labels=_NIGHTTIME / "gtCoarse_daytime_trainvaltest" / "test",
        label_suffix="_gtCoarse_labelTrainIds.png",
    ),
}


def load_street_scenes(
    folders: Folders, dataset: str, report: Report = stop
) -> list[dict[str, Any]]:
    """Detectron2's dicts of a split; those of a split without labels lack "sem_seg_file_name".

    Raises:
        UserError: as `read_pairs`.
    """
    return [
        {
            "file_name": str(pair.image),
            "image_id": pair.image_id,
            "height": pair.height,
            "width": pair.width,
        }
        | ({"sem_seg_file_name": str(pair.label)} if pair.label else {})
        for pair in read_pairs(folders, dataset, report)
    ]


def register_street_scenes(name: str, folders: Folders) -> None:
    """Registers a split with the 19 classes of Cityscapes."""
    DatasetCatalog.register(name, lambda: load_street_scenes(folders, name))
    MetadataCatalog.get(name).set(
        stuff_classes=list(CLASSES),
        stuff_colors=list(COLORS),
        ignore_label=IGNORE_LABEL,
        evaluator_type="sem_seg",
        has_labels=folders.labels is not None,
    )


def is_sem_seg(dataset: str) -> bool:
    """Whether a registered data set has a class for every pixel."""
    return MetadataCatalog.get(dataset).get("evaluator_type") == "sem_seg"


def has_labels(dataset: str) -> bool:
    """Whether the pictures of a registered data set come with label maps."""
    return MetadataCatalog.get(dataset).get("has_labels", True)


def read_sem_seg(dataset: str, report: Report = stop) -> list[dict[str, Any]]:
    """Reads a registered data set with label maps strictly, all label maps completely.

    Raises:
        UserError: as `read_pairs` and `check_values`.
    """
    meta = MetadataCatalog.get(dataset)
    folders = FOLDERS.get(dataset)
    entries = (
        load_street_scenes(folders, dataset, report) if folders else DatasetCatalog.get(dataset)
    )
    labels = [entry["sem_seg_file_name"] for entry in entries if "sem_seg_file_name" in entry]
    check_values(labels, {*range(len(meta.stuff_classes)), meta.ignore_label}, report)
    return entries


for _name, _folders in FOLDERS.items():
    register_street_scenes(_name, _folders)
