"""COCO-Stuff164k's label maps as they are published, turned into maps of class indices."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tadp_d2.data.datasets.coco_stuff import MAPPED, PUBLISHED, folders
from tadp_d2.data.datasets.coco_stuff_categories import IGNORE_LABEL, INDICES
from tadp_d2.data.images import check_each, read_label_map
from tadp_d2.data.readers.label_maps import read_pairs
from tadp_d2.errors import UserError
from tadp_d2.files import new_folder


def prepare_label_maps(root: Path) -> dict[Path, int]:
    """Writes `stuffthingmaps_detectron2/<split>2017` for each split that is there, whole or not.

    Args:
        root: the folder `coco`.

    Returns:
        Folder -> number of label maps. One that is there already is left as it is and left out.

    Raises:
        UserError: there is no split, an image or its label map is absent or damaged, or a map has
            a value that no published one has.
    """
    found = [split for split in ("train", "val") if (root / PUBLISHED / f"{split}2017").is_dir()]
    if not found:
        raise UserError(
            f"{root / PUBLISHED}: expected train2017 or val2017 with the label maps of "
            "COCO-Stuff164k; datasets/README.md lists the sources"
        )
    written = {}
    for split in found:
        output = root / MAPPED / f"{split}2017"
        if not output.exists():
            pairs = read_pairs(folders(root, split, PUBLISHED), f"coco_stuff_{split}")
            with new_folder(output) as temporary:
                labels = [pair.label for pair in pairs]
                check_each(_mapper(temporary), labels, f"label maps of {split} mapped")
            written[output] = len(pairs)
    return written


def _mapper(folder: Path) -> Callable[[Path], None]:
    indices = np.zeros(256, np.uint8)
    indices[IGNORE_LABEL] = IGNORE_LABEL
    for value, index in INDICES.items():
        indices[value] = index
    known = np.isin(np.arange(256), [*INDICES, IGNORE_LABEL])

    def write(path: Path) -> None:
        values = read_label_map(path)
        unknown = values[~known[values]]
        if unknown.size:
            raise UserError(
                f"{path}: has the value {unknown[0]}, which no published map of COCO-Stuff164k "
                "has; is it mapped already, or of COCO-Stuff10k?"
            )
        Image.fromarray(indices[values]).save(folder / path.name)

    return write
