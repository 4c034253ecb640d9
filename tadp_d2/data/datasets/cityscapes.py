"""Cityscapes, by day and in fog.

They lie below `$DETECTRON2_DATASETS/cityscapes` as published. Importing this module registers
`cityscapes_train`, `cityscapes_val` and `cityscapes_foggy_val`.
"""

from detectron2.data import DatasetCatalog, MetadataCatalog

from tadp_d2.data.datasets.cityscapes_categories import CLASSES, COLORS, IGNORE_LABEL
from tadp_d2.data.readers.label_maps import Folders, load_label_maps
from tadp_d2.data.root import datasets_root

_ROOT = datasets_root() / "cityscapes"


def register_street_scenes(name: str, folders: Folders) -> None:
    """Registers a split with the 19 classes of Cityscapes."""
    DatasetCatalog.register(name, lambda: load_label_maps(folders, name))
    MetadataCatalog.get(name).set(
        stuff_classes=list(CLASSES),
        stuff_colors=list(COLORS),
        ignore_label=IGNORE_LABEL,
        evaluator_type="sem_seg",
        folders=folders,
        location=folders.images,
        has_labels=folders.labels is not None,
        if_other_values="label ids are others, and csCreateTrainIdLabelImgs makes train ids of "
        "Cityscapes'",
    )


def _folders(split: str, images: str, suffix: str) -> Folders:
    return Folders(
        images=_ROOT / images / split,
        nesting="*",
        image_suffix=suffix,
        labels=_ROOT / "gtFine" / split,
        label_suffix="_gtFine_labelTrainIds.png",
        if_no_labels=f"if there are label ids only, make them: CITYSCAPES_DATASET={_ROOT} "
        "csCreateTrainIdLabelImgs",
    )


for _split in ("train", "val"):
    register_street_scenes(
        f"cityscapes_{_split}", _folders(_split, "leftImg8bit", "_leftImg8bit.png")
    )
# Foggy Cityscapes in its densest fog.
register_street_scenes(
    "cityscapes_foggy_val",
    _folders("val", "leftImg8bit_foggy", "_leftImg8bit_foggy_beta_0.02.png"),
)
