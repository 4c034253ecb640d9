"""COCO-Stuff164k: every pixel of COCO's images of 2017, 171 classes.

Importing this module registers `coco_stuff_train` (118 287 images) and `coco_stuff_val` (5 000),
below `$DETECTRON2_DATASETS/coco`, with label maps of class indices in `stuffthingmaps_detectron2`,
which `tadp-d2 prepare coco_stuff` makes of the published `stuffthingmaps`.
"""

from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from tadp_d2.data.datasets.coco_stuff_categories import CLASSES, IGNORE_LABEL
from tadp_d2.data.datasets.voc_categories import COLORMAP
from tadp_d2.data.readers.label_maps import Folders, load_label_maps
from tadp_d2.data.root import datasets_root

PUBLISHED, MAPPED = "stuffthingmaps", "stuffthingmaps_detectron2"
_ADVICE = (
    f"the published maps in {PUBLISHED} have other values, 0 to 181; `tadp-d2 prepare coco_stuff` "
    f"makes {MAPPED} of them"
)


def folders(root: Path, split: str, labels: str) -> Folders:
    """Where a split lies.

    Args:
        root: the folder `coco`.
        split: "train" or "val".
        labels: `PUBLISHED` or `MAPPED`.
    """
    return Folders(
        images=root / f"{split}2017",
        nesting=".",
        image_suffix=".jpg",
        labels=root / labels / f"{split}2017",
        label_suffix=".png",
        if_no_labels=_ADVICE,
    )


def _register(name: str, split: str) -> None:
    own = folders(datasets_root() / "coco", split, MAPPED)
    DatasetCatalog.register(name, lambda: load_label_maps(own, name))
    MetadataCatalog.get(name).set(
        stuff_classes=list(CLASSES),
        # VOC's rule gives any number of colors; that of index 0 would be black.
        stuff_colors=COLORMAP[1 : 1 + len(CLASSES)].tolist(),
        ignore_label=IGNORE_LABEL,
        evaluator_type="sem_seg",
        folders=own,
        location=own.labels,
        if_other_values=_ADVICE,
    )


for _split in ("train", "val"):
    _register(f"coco_stuff_{_split}", _split)
