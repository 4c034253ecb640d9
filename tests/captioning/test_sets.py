"""Which pictures a caption command is about, under which ids, and what their annotations hold."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.data.datasets.pascal_voc import CLASS_NAMES
from PIL import Image

from tadp_d2.captioning.sets import CaptionImage, caption_path, dataset_name, find_images
from tadp_d2.data.datasets.cityscapes_categories import CLASSES
from tadp_d2.data.present_classes import PresentClasses
from tadp_d2.errors import UserError

REGISTERED = (
    *("voc_2007_test", "voc_2012_trainval", "watercolor_test", "comic_train"),
    *("cityscapes_val", "dark_zurich_train", "dark_zurich_val", "nighttime_driving_test"),
)


@pytest.mark.parametrize("dataset", REGISTERED)
def test_ids_and_files_are_those_of_detectron2s_dicts(world, dataset):
    expected = [(str(d["image_id"]), d["file_name"]) for d in DatasetCatalog.get(dataset)]
    assert [(image.image_id, str(image.path)) for image in find_images(dataset)] == expected


def test_ids_look_as_published(world):
    voc_id = find_images("voc_2007_test")[0].image_id
    assert len(voc_id) == 6 and voc_id.isdigit()
    night = find_images("dark_zurich_val")[0].image_id
    assert night.startswith("night/GOPR") and night.endswith("_rgb_anon.png")


def test_the_classes_of_boxes_are_those_in_the_xml_in_class_order(world):
    for image in find_images("voc_2007_test"):
        xml = ET.parse(world / "VOC2007" / "Annotations" / f"{image.image_id}.xml")
        names = {element.text for element in xml.iter("name")} & set(CLASS_NAMES)
        assert image.classes() == sorted(names, key=CLASS_NAMES.index)
        assert image.vocabulary == tuple(CLASS_NAMES)


def test_the_classes_of_pixels_are_those_in_the_label_map(world):
    for image in find_images("cityscapes_val"):
        values = set(np.unique(np.array(Image.open(image.annotation.label_map)))) - {255}
        assert image.classes() == [CLASSES[value] for value in sorted(values)]


def test_a_label_map_is_read_only_when_its_classes_are_asked_for(tmp_path):
    label_map = tmp_path / "label.png"
    label_map.write_bytes(b"not a picture")
    image = CaptionImage(
        "1", tmp_path / "1.png", PresentClasses(("road", "sky"), label_map=label_map)
    )
    with pytest.raises(UserError, match="label.png: cannot be read as a map of values"):
        image.classes()
    Image.fromarray(np.array([[1, 255], [1, 1]], np.uint8)).save(label_map)
    assert image.classes() == ["sky"]
    Image.fromarray(np.array([[1, 2]], np.uint8)).save(label_map)
    with pytest.raises(UserError, match="has the value 2; expected class indices below 2, or 255"):
        image.classes()


def test_without_an_annotation_there_are_no_classes_to_know(world):
    with pytest.raises(UserError, match="has no annotation"):
        find_images("dark_zurich_train")[0].classes()


def test_pictures_of_a_folder_go_by_their_path_below_it(tmp_path):
    names = ("b.JPG", "a.png", "deep/er/c.WebP", "deep/d.jpeg", "e.bmp", "f.tif", "g.gif", "h.TIFF")
    for name in (*names, "notes.txt", "._a.png", "deep/f.jpg.part"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    images = find_images(str(tmp_path))
    assert [image.image_id for image in images] == sorted(names)
    assert all(image.path == tmp_path / image.image_id for image in images)


def test_what_is_no_data_set_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match="no image; expected files that end in .jpg, "):
        find_images(str(tmp_path))
    with pytest.raises(UserError, match="'voc_2007_tets' is neither a folder of images nor"):
        find_images("voc_2007_tets")


def test_the_file_of_a_data_set(world, tmp_path, monkeypatch):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    assert caption_path("voc_2007_test") == world / "captions" / "voc_2007_test.jsonl"
    assert caption_path("voc_2007_test", tmp_path) == tmp_path / "voc_2007_test.jsonl"
    assert caption_path(str(pictures)) == tmp_path / "pictures.jsonl"
    assert caption_path(f"{pictures}/", tmp_path / "new") == tmp_path / "new" / "pictures.jsonl"
    assert caption_path("some/file.jsonl", tmp_path) == Path("some/file.jsonl")
    monkeypatch.chdir(pictures)
    assert caption_path(".") == tmp_path / "pictures.jsonl"
    (pictures / "deep").mkdir()
    monkeypatch.chdir(pictures / "deep")
    assert caption_path("..") == tmp_path / "pictures.jsonl"
    monkeypatch.chdir(pictures)
    assert dataset_name(".") == "pictures" and dataset_name("voc_2007_test") == "voc_2007_test"
