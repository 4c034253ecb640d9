"""Watercolor2k and Comic2k: the art targets, in VOC's layout, with VOC's classes.

Importing this module registers `watercolor_train`, `watercolor_test`, `comic_train` and
`comic_test`, below `$DETECTRON2_DATASETS`.
"""

from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import CLASS_NAMES

from tadp_d2.data.readers.pascal_voc import load_voc
from tadp_d2.data.root import datasets_root

# The classes that both targets share with VOC, on which they are scored.
SHARED_CLASSES = ("bicycle", "bird", "car", "cat", "dog", "person")


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
