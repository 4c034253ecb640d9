"""ADE20K's scene parsing benchmark, 150 classes.

Importing this module registers `ade20k_train` (20 210 images) and `ade20k_val` (2 000), below
`$DETECTRON2_DATASETS/ADEChallengeData2016`, with the label maps that `tadp-d2 prepare ade20k` and
Detectron2's `datasets/prepare_ade20k_sem_seg.py` write: class indices from 0, and 255 where there
is none. An image's id is the name of its file. A class is called by the first of its synonyms,
which is what prompts are made of.
"""

from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from tadp_d2.data.datasets.voc_categories import COLORMAP
from tadp_d2.data.readers.label_maps import Folders, load_label_maps
from tadp_d2.data.root import datasets_root

PUBLISHED, MAPPED = "annotations", "annotations_detectron2"
_ADVICE = f"`tadp-d2 prepare ade20k` makes {MAPPED} of the published {PUBLISHED}"


def folders(root: Path, split: str, labels: str) -> Folders:
    """Where a split lies.

    Args:
        root: the folder `ADEChallengeData2016`.
        split: "training" or "validation".
        labels: `PUBLISHED` or `MAPPED`.
    """
    return Folders(
        images=root / "images" / split,
        nesting=".",
        image_suffix=".jpg",
        labels=root / labels / split,
        label_suffix=".png",
        if_no_labels=_ADVICE,
    )


def _names() -> list[str]:
    # Detectron2's names hold all synonyms, and some a blank at the end.
    names = MetadataCatalog.get("ade20k_sem_seg_val").stuff_classes
    return [name.split(",")[0].strip() for name in names]


def _register(name: str, folder: str) -> None:
    own = folders(datasets_root() / "ADEChallengeData2016", folder, MAPPED)
    names = _names()
    DatasetCatalog.register(name, lambda: load_label_maps(own, name))
    MetadataCatalog.get(name).set(
        stuff_classes=names,
        # VOC's rule gives any number of colors; that of index 0 would be black.
        stuff_colors=COLORMAP[1 : 1 + len(names)].tolist(),
        ignore_label=255,
        evaluator_type="sem_seg",
        folders=own,
        if_other_values=f"the published {PUBLISHED} count from 1; {_ADVICE}",
        location=own.images,
    )


for _split, _folder in (("train", "training"), ("val", "validation")):
    _register(f"ade20k_{_split}", _folder)
