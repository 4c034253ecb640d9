"""RefCOCO, RefCOCO+ and RefCOCOg: objects of COCO's images, and expressions that refer to them.

They lie below `$DETECTRON2_DATASETS`: `refcoco/`, `refcoco+/` and `refcocog/`, and the images in
`coco/train2014/`. Importing this module registers `<folder>_<split by>_<split>`, such as
`refcoco_unc_testA`; and `refcoco_watercolor_test` and `refcoco_comic_test`, of which there are
synthetic ones only.
"""

from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from tadp_d2.data.readers.refer import load_refer
from tadp_d2.data.root import datasets_root

# Folder and who split it -> split -> published number of expressions; None where that is not known.
SPLITS: dict[tuple[str, str], dict[str, int | None]] = {
    ("refcoco", "unc"): {"train": 120624, "val": 10834, "testA": 5657, "testB": 5095},
    ("refcoco", "google"): {"train": None, "val": None, "test": None},
    ("refcoco+", "unc"): {"train": 120191, "val": 10758, "testA": 5726, "testB": 4889},
    ("refcocog", "umd"): {"train": 80512, "val": 4896, "test": 9602},
    ("refcocog", "google"): {"train": 85474, "val": 9536},
}
# Data set -> published number of expressions.
EXPRESSIONS = {
    f"{folder}_{split_by}_{split}": count
    for (folder, split_by), counts in SPLITS.items()
    for split, count in counts.items()
    if count
}


def register_references(name: str, file: Path, images: Path) -> None:
    """Registers a split.

    Args:
        file: of its references, as `tadp-d2 prepare` writes it.
        images: folder of the images.
    """
    DatasetCatalog.register(name, lambda: load_refer(file, images))
    MetadataCatalog.get(name).set(evaluator_type="refcoco", location=file, images=images)


for (_folder, _split_by), _counts in SPLITS.items():
    for _split in _counts:
        register_references(
            f"{_folder}_{_split_by}_{_split}",
            datasets_root() / _folder / f"{_split_by}_{_split}.json",
            datasets_root() / "coco" / "train2014",
        )
for _style in ("watercolor", "comic"):
    _root = datasets_root() / f"refcoco_{_style}"
    register_references(f"refcoco_{_style}_test", _root / "synthetic_test.json", _root / "images")
