"""Pascal VOC 2012 with the additional masks of SBD, as the papers segment it.

Importing this module registers `pascal_trainaug` (10 582 images) and `pascal_val` (1 449), below
`$DETECTRON2_DATASETS/VOC2012`. Class names are the words that prompts are made of, as released with
TADP: "airplane", and not VOC's "aeroplane".
"""

from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from tadp_d2.data.datasets.voc_categories import COLORMAP, VOID
from tadp_d2.data.readers.pascal_voc import load_voc_segmentation
from tadp_d2.data.root import datasets_root

# In the order of VOC's indices.
WORDS = (
    *("background", "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "dining table", "dog", "horse", "motorcycle", "person", "potted plant", "sheep"),
    *("sofa", "train", "television"),
)


def load_pascal(root: Path, split: str, dataset: str) -> list[dict[str, Any]]:
    """Detectron2's dicts of a split, whichever of the two usual layouts it has.

    The masks with SBD's lie in `SegmentationClassAug`, or have replaced those in
    `SegmentationClass`. The list of "trainaug" is one file, or those of "train" and "aug".

    Args:
        root: with `JPEGImages`.
        split: "trainaug" or "val".

    Raises:
        UserError: as `load_voc_segmentation`.
    """
    own = "SegmentationClassAug"
    labels = own if (root / own).is_dir() else "SegmentationClass"
    splits = ("train", "aug") if _list(root, split).stem == "aug" else (split,)
    return [
        entry
        for part in splits
        for entry in load_voc_segmentation(root, part, dataset, labels=labels)
    ]


def _list(root: Path, split: str) -> Path:
    """The list of a split; of "trainaug" the part that is SBD's, where there is none of all."""
    lists = root / "ImageSets" / "Segmentation"
    own, part = lists / f"{split}.txt", lists / "aug.txt"
    return part if split == "trainaug" and part.is_file() and not own.is_file() else own


def _register(name: str, split: str) -> None:
    root = datasets_root() / "VOC2012"
    DatasetCatalog.register(name, lambda: load_pascal(root, split, name))
    MetadataCatalog.get(name).set(
        stuff_classes=list(WORDS),
        stuff_colors=COLORMAP[: len(WORDS)].tolist(),
        ignore_label=VOID,
        evaluator_type="sem_seg",
        location=_list(root, split),
    )


for _split in ("trainaug", "val"):
    _register(f"pascal_{_split}", _split)
