"""The scenes of the synthetic VOC 2012 in the layouts of Pascal's trainaug, ADE20K, COCO-Stuff.

The same images under the same names, so that what differs between results is the data set's classes
and not its scenes. VOC's train is the training set, its val the test set of each.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tadp_d2.data.datasets.coco_stuff_categories import INDICES
from tadp_d2.data.datasets.voc_categories import STUFF, THING_IDS
from tadp_d2.data.images import read_label_map
from tadp_d2.data.texts import read_captions, write_captions

# What a scene shows -> the published value of a label map of ADE20K, which counts from 1, and of
# COCO-Stuff. ADE20K has one class for all animals.
_ADE20K = {
    **{"person": 13, "car": 21, "bicycle": 128, "bird": 127, "cat": 127, "dog": 127},
    **{"sky": 3, "hill": 69, "building": 2, "tree": 5, "fence": 33, "parasol": 87, "sea": 27},
    **{"sand": 47, "grass": 10, "path": 53, "pavement": 12, "road": 7},
}
_COCO_STUFF = {
    **{"person": 0, "car": 2, "bicycle": 1, "bird": 15, "cat": 16, "dog": 17},
    **{"sky": 156, "hill": 126, "building": 95, "tree": 168, "fence": 112, "parasol": 27},
    **{"sea": 154, "sand": 153, "grass": 123, "path": 110, "pavement": 139, "road": 148},
}
_TRAIN, _VAL = "train", "val"


def write_scene_layouts(root: Path) -> None:
    """Writes the other layouts beside `VOC2012`, which is there, and their captions."""
    voc = root / "VOC2012"
    lists = voc / "ImageSets" / "Segmentation"
    # There are no images but VOC's own.
    shutil.copyfile(lists / "train.txt", lists / "trainaug.txt")
    for split in (_TRAIN, _VAL):
        ids = (lists / f"{split}.txt").read_text().split()
        captions = read_captions(root / "captions" / f"voc_2012_{split}.jsonl").captions
        pascal = "trainaug" if split == _TRAIN else _VAL
        _write_captions(root, f"pascal_{pascal}", {i: captions[i] for i in ids})
        by_file = {f"{i}.jpg": captions[i] for i in ids}
        for layout in _layouts(root, split):
            for folder in (layout.images, layout.published, layout.mapped):
                folder.mkdir(parents=True)
            for i in ids:
                shutil.copyfile(voc / "JPEGImages" / f"{i}.jpg", layout.images / f"{i}.jpg")
                published = _published(voc, i, layout.values)
                Image.fromarray(published).save(layout.published / f"{i}.png")
                Image.fromarray(layout.indices[published]).save(layout.mapped / f"{i}.png")
            _write_captions(root, layout.dataset, by_file)


class _Layout(NamedTuple):
    """A split of a data set.

    Attributes:
        dataset: its registered name.
        images, published, mapped: folders of the images and of the two kinds of label maps.
        values: what a scene shows -> its published value.
        indices: published value -> index of the class, 256 x uint8.
    """

    dataset: str
    images: Path
    published: Path
    mapped: Path
    values: Mapping[str, int]
    indices: np.ndarray


def _layouts(root: Path, split: str) -> tuple[_Layout, _Layout]:
    ade, coco = root / "ADEChallengeData2016", root / "coco"
    name = {_TRAIN: "training", _VAL: "validation"}[split]
    # As Detectron2's script does: 0, which is no class, becomes 255.
    less_one = np.arange(256, dtype=np.uint8) - np.uint8(1)
    stuff = np.full(256, 255, np.uint8)
    stuff[list(INDICES)] = list(INDICES.values())
    return (
        _Layout(
            f"ade20k_{split}",
            ade / "images" / name,
            ade / "annotations" / name,
            ade / "annotations_detectron2" / name,
            _ADE20K,
            less_one,
        ),
        _Layout(
            f"coco_stuff_{split}",
            coco / f"{split}2017",
            coco / "stuffthingmaps" / f"{split}2017",
            coco / "stuffthingmaps_detectron2" / f"{split}2017",
            _COCO_STUFF,
            stuff,
        ),
    )


def _published(voc: Path, image_id: str, values: Mapping[str, int]) -> np.ndarray:
    """The label map of a scene, by its maps of things and of what stands behind them."""
    things = read_label_map(voc / "SegmentationClass" / f"{image_id}.png")
    # 0 for things, else stuff from 1.
    stuff = read_label_map(voc / "coco" / "panoptic_stuff_trainval" / f"{image_id}.png")
    of_things, of_stuff = np.zeros(256, np.uint8), np.zeros(256, np.uint8)
    for name, number in THING_IDS.items():
        of_things[number] = values.get(name, 0)
    of_stuff[1 : 1 + len(STUFF)] = [values[name] for name in STUFF]
    return np.where(stuff > 0, of_stuff[stuff], of_things[things])


def _write_captions(root: Path, dataset: str, captions: Mapping[str, str]) -> None:
    made_by = {"tool": "tadp_d2 synthetic data sets"}
    write_captions(root / "captions" / f"{dataset}.jsonl", dataset, captions, made_by)
