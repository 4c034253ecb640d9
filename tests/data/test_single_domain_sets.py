"""Pascal's and ADE20K's segmentation in the layouts that people have, read strictly."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

import tadp_d2.data.datasets.ade20k  # noqa: F401
from tadp_d2.data.catalog import read_entries
from tadp_d2.data.datasets.pascal_segmentation import WORDS, load_pascal
from tadp_d2.data.loader import load_dataset
from tadp_d2.data.readers.label_maps import Folders, load_label_maps
from tadp_d2.errors import UserError


def write_images(folder: Path, names, suffix, value):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if suffix == ".jpg":
            Image.new("RGB", (8, 6)).save(folder / f"{name}.jpg")
        else:
            Image.fromarray(np.full((6, 8), value, np.uint8)).save(folder / f"{name}.png")


@pytest.fixture
def voc(tmp_path):
    """VOC 2012 as downloaded: two images in "train", one in "val", and two of SBD in "aug"."""
    root = tmp_path / "VOC2012"
    write_images(root / "JPEGImages", "abcde", ".jpg", 0)
    write_images(root / "SegmentationClass", "abc", ".png", 1)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, ids in (("train", "ab"), ("val", "c")):
        (lists / f"{name}.txt").write_text("\n".join(ids) + "\n")
    return root


def read(root, split):
    entries = load_pascal(root, split, f"pascal_{split}")
    return {e["image_id"]: Path(e["sem_seg_file_name"]).parent.name for e in entries}


def test_the_additional_masks_lie_beside_or_in_the_place_of_vocs(voc):
    lists = voc / "ImageSets" / "Segmentation"
    # As mmsegmentation has it: a folder and a list of their own.
    write_images(voc / "SegmentationClassAug", "abcde", ".png", 2)
    (lists / "aug.txt").write_text("d\ne\n")
    expected = dict.fromkeys("abde", "SegmentationClassAug")
    assert read(voc, "trainaug") == expected
    (lists / "trainaug.txt").write_text("a\nb\nd\ne\n")
    assert read(voc, "trainaug") == expected
    # As TADP's archive has it.
    shutil.rmtree(voc / "SegmentationClass")
    (voc / "SegmentationClassAug").rename(voc / "SegmentationClass")
    assert read(voc, "trainaug") == dict.fromkeys("abde", "SegmentationClass")
    assert read(voc, "val") == {"c": "SegmentationClass"}


def test_without_the_additional_masks_it_is_not_trainaug(voc):
    with pytest.raises(UserError, match="pascal_trainaug.*trainaug.txt"):
        read(voc, "trainaug")
    (voc / "ImageSets" / "Segmentation" / "trainaug.txt").write_text("a\nd\n")
    with pytest.raises(UserError, match="trainaug.txt: lists 'd', but there is no .*d.png"):
        read(voc, "trainaug")


def test_classes_are_words_for_prompts():
    assert len(WORDS) == len(set(WORDS)) == 21
    assert MetadataCatalog.get("pascal_val").stuff_classes == list(WORDS)
    names = MetadataCatalog.get("ade20k_val").stuff_classes
    assert (len(names), len(set(names))) == (150, 150)
    assert names[6:9] == ["road", "bed", "window"]
    assert not [name for name in names if "," in name or ";" in name or name != name.strip()]
    assert len({tuple(c) for c in MetadataCatalog.get("ade20k_val").stuff_colors}) == 150


def test_ade20k_without_the_shift_by_one_is_named(tmp_path, monkeypatch):
    images, labels = tmp_path / "images", tmp_path / "labels"
    write_images(images, ["ADE_val_1"], ".jpg", 0)
    write_images(labels, ["ADE_val_1"], ".png", 149)
    folders = Folders(images, ".", ".jpg", labels, ".png")
    (entry,) = load_label_maps(folders, "ade20k_val")
    assert entry["image_id"] == "ADE_val_1.jpg"
    meta = vars(MetadataCatalog.get("ade20k_val"))
    monkeypatch.setitem(meta, "folders", folders)
    assert read_entries("ade20k_val") == [entry]
    write_images(labels, ["ADE_val_1"], ".png", 150)
    with pytest.raises(
        UserError, match=r"ADE_val_1.png: has the value 150 in 48.*tadp-d2 prepare ade20k"
    ):
        read_entries("ade20k_val")


def test_an_oracle_for_a_set_without_labels_is_refused(make_segmentation_config):
    cfg = make_segmentation_config("MODEL.CONDITIONER.NAME", "Oracle", "TEST.SUBMISSION", True)
    with pytest.raises(
        UserError, match="'dark_zurich_test' has no labels, and the conditioner Orac"
    ):
        load_dataset(cfg, "dark_zurich_test")
