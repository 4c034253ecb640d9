"""Cityscapes, Dark Zurich and Nighttime Driving in their published layouts, with captions."""

import fnmatch
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from tadp_d2.data.catalog import is_labelled, offers
from tadp_d2.data.datasets.cityscapes_categories import CLASSES, COLORS
from tadp_d2.data.loader import build_test_loader, build_train_loader, load_dataset
from tadp_d2.data.readers.label_maps import load_label_maps
from tadp_d2.data.texts import read_captions
from tadp_d2.errors import UserError
from tadp_d2.tasks.task import get_task

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "tadp_captions"
UNLABELLED = {"dark_zurich_train", "dark_zurich_test"}


def test_the_19_classes_in_the_order_of_their_train_ids():
    assert len(CLASSES) == len(COLORS) == 19
    assert (CLASSES[0], CLASSES[10], CLASSES[16], CLASSES[18]) == (
        "road",
        "sky",
        "train",
        "bicycle",
    )
    assert COLORS[0] == (128, 64, 128) and COLORS[18] == (119, 11, 32)


DATASETS = (
    *("cityscapes_train", "cityscapes_val", "cityscapes_foggy_val"),
    *("dark_zurich_train", "dark_zurich_val", "dark_zurich_test", "nighttime_driving_test"),
)


@pytest.mark.parametrize("dataset", DATASETS)
def test_each_set_is_loaded_with_captions_and_labels(make_segmentation_config, world, dataset):
    cfg = make_segmentation_config("TEST.SUBMISSION", True)
    entries = load_dataset(cfg, dataset)
    captions = read_captions(world / "captions" / f"{dataset}.jsonl").captions
    assert {entry["image_id"]: entry["caption"] for entry in entries} == captions
    assert offers(dataset) == {"semantic"}
    assert is_labelled(dataset) == (dataset not in UNLABELLED)
    assert MetadataCatalog.get(dataset).ignore_label == 255
    for entry in entries:
        assert entry["file_name"].endswith(entry["image_id"])
        size = (entry["width"], entry["height"])
        assert Image.open(entry["file_name"]).size == size
        if is_labelled(dataset):
            assert Image.open(entry["sem_seg_file_name"]).size == size


def test_fog_has_the_labels_of_clear_weather(world):
    foggy, clear = (DatasetCatalog.get(f"cityscapes_{name}") for name in ("foggy_val", "val"))
    assert [e["sem_seg_file_name"] for e in foggy] == [e["sem_seg_file_name"] for e in clear]
    assert {e["file_name"] for e in foggy}.isdisjoint(e["file_name"] for e in clear)


@pytest.mark.parametrize(
    "name, dataset",
    [("dark_zurich_val", "dark_zurich_val"), ("nighttime_driving", "nighttime_driving_test")],
)
def test_ids_are_those_of_the_published_captions(name, dataset):
    path = PUBLISHED / f"{name}_captions.json"
    if not path.is_file():
        pytest.skip("the files published with TADP are not here")
    folders = MetadataCatalog.get(dataset).folders
    pattern = f"{folders.nesting}/*{folders.image_suffix}"
    ids = json.loads(path.read_text())
    assert len(ids) == 50
    assert all(fnmatch.fnmatch(image_id, pattern) for image_id in ids)


def test_training_crops(make_segmentation_config):
    cfg = make_segmentation_config()
    assert get_task(cfg).classes() == list(CLASSES)
    batch = next(iter(build_train_loader(cfg)))
    assert len(batch) == 4
    for inputs in batch:
        assert inputs["image"].shape == (3, 64, 64)
        assert inputs["sem_seg"].shape == (64, 64)
        assert set(np.unique(inputs["sem_seg"])) <= {*range(19), 255}
        assert inputs["caption"]


def test_testing_keeps_the_order_and_the_original_size(make_segmentation_config):
    loader = build_test_loader(make_segmentation_config(), "nighttime_driving_test")
    inputs = [image for batch in loader for image in batch]
    expected = DatasetCatalog.get("nighttime_driving_test")
    assert [image["file_name"] for image in inputs] == [entry["file_name"] for entry in expected]
    for image, entry in zip(inputs, expected, strict=True):
        assert image["image"].shape == (3, 64, 128)
        assert (image["height"], image["width"]) == (entry["height"], entry["width"])


def test_label_ids_alone_are_an_error_that_names_the_tool(tmp_path, world):
    shutil.copytree(world / "cityscapes", tmp_path / "cityscapes")
    for label in (tmp_path / "cityscapes" / "gtFine").rglob("*_labelTrainIds.png"):
        label.rename(label.with_name(label.name.replace("labelTrainIds", "labelIds")))
    folders = replace(
        MetadataCatalog.get("cityscapes_val").folders,
        images=tmp_path / "cityscapes" / "leftImg8bit" / "val",
        labels=tmp_path / "cityscapes" / "gtFine" / "val",
    )
    with pytest.raises(UserError, match=r"has no label map.*csCreateTrainIdLabelImgs"):
        load_label_maps(folders, "cityscapes_val")
