"""Label maps as COCO-Stuff164k and ADE20K publish them, turned into maps of class indices."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tadp_d2.data.datasets import ade20k, coco_stuff
from tadp_d2.data.datasets.coco_stuff_categories import IGNORE_LABEL, INDICES
from tadp_d2.data.images import check_each, read_label_map
from tadp_d2.data.readers.label_maps import read_pairs
from tadp_d2.data.root import data_set_guide
from tadp_d2.errors import UserError
from tadp_d2.files import new_folder


def prepare_coco_stuff(root: Path) -> dict[Path, int]:
    """Writes `stuffthingmaps_detectron2/<split>2017` for each split that is there, whole or not.

    Args:
        root: the folder `coco`.

    Returns:
        Folder -> number of label maps. One that is there already is left as it is and left out.

    Raises:
        UserError: there is no split, an image or its label map is absent or damaged, or a map has
            a value that no published one has.
    """
    published = root / coco_stuff.PUBLISHED
    splits = [split for split in ("train", "val") if (published / f"{split}2017").is_dir()]
    if not splits:
        raise UserError(
            f"{published}: expected train2017 or val2017 with the label maps of COCO-Stuff164k; "
            f"{data_set_guide()} lists the sources"
        )
    written = {}
    for split in splits:
        output = root / coco_stuff.MAPPED / f"{split}2017"
        if not output.exists():
            pairs = read_pairs(
                coco_stuff.folders(root, split, coco_stuff.PUBLISHED), f"coco_stuff_{split}"
            )
            _write_mapped([pair.label for pair in pairs], output, _COCO_STUFF, _COCO_STUFF_ADVICE)
            written[output] = len(pairs)
    return written


def prepare_ade20k(root: Path) -> dict[Path, int]:
    """Writes `annotations_detectron2/{training,validation}`, whole or not.

    Args:
        root: the folder `ADEChallengeData2016`.

    Returns:
        As `prepare_coco_stuff`.

    Raises:
        UserError: likewise.
    """
    written = {}
    for split in ("training", "validation"):
        published, output = root / ade20k.PUBLISHED / split, root / ade20k.MAPPED / split
        if not published.is_dir():
            raise UserError(
                f"{published}: there is no such folder; expected the label maps of ADE20K's scene "
                f"parsing benchmark; {data_set_guide()} lists the source"
            )
        if not output.exists():
            pairs = read_pairs(ade20k.folders(root, split, ade20k.PUBLISHED), f"ade20k {split}")
            _write_mapped([pair.label for pair in pairs], output, _ADE20K, _ADE20K_ADVICE)
            written[output] = len(pairs)
    return written


_COCO_STUFF = {IGNORE_LABEL: IGNORE_LABEL, **INDICES}
_COCO_STUFF_ADVICE = (
    "which no published map of COCO-Stuff164k has; is it mapped already, or of COCO-Stuff10k?"
)
# 0 is what belongs to no class.
_ADE20K = {0: IGNORE_LABEL, **{value: value - 1 for value in range(1, 151)}}
_ADE20K_ADVICE = "which no published map of the 150 classes has; is it mapped already?"


def _write_mapped(
    label_maps: Sequence[str], folder: Path, indices: Mapping[int, int], advice: str
) -> None:
    """Writes label maps with other values into a new folder.

    Args:
        indices: value as published -> value written.
        advice: on a value that is not among them.
    """
    table = np.zeros(256, np.uint8)
    table[list(indices)] = list(indices.values())
    with new_folder(folder) as temporary:

        def write(path: str) -> None:
            values = read_label_map(path)
            unknown = values[~np.isin(values, list(indices))]
            if unknown.size:
                raise UserError(f"{path}: has the value {unknown[0]}, {advice}")
            Image.fromarray(table[values]).save(temporary / os.path.basename(path))

        check_each(write, label_maps, f"label maps of {folder.name} mapped")
