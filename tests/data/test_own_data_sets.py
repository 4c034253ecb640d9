"""Data sets that `datasets.yaml` names: known to training, captions, doctor; clear errors."""

import json
import shutil

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from tadp_d2.captioning.sets import caption_path, find_images
from tadp_d2.cli import main
from tadp_d2.data import catalog, own_data_sets
from tadp_d2.data.catalog import check_registered, is_labelled, offers, read_known
from tadp_d2.data.loader import load_dataset
from tadp_d2.errors import UserError
from tadp_d2.tasks.task import class_names

VOC = "{layout: voc, root: voc, split: test, classes: [bicycle, bird, car, cat, dog, person]}"
SEMANTIC = "{layout: semantic, images: x"
SETS = f"""
my_voc: {VOC}
my_coco: {{layout: coco, images: voc/JPEGImages, annotations: coco.json}}
my_streets:
  layout: semantic
  images: streets/leftImg8bit/val
  labels: streets/gtFine/val
  image_suffix: _leftImg8bit.png
  label_suffix: _gtFine_labelTrainIds.png
  classes: [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s]
  captions: captions/cityscapes_val.jsonl
my_unlabelled:
  {{layout: semantic, images: streets/leftImg8bit/val, image_suffix: .png, classes: [a]}}
"""


@pytest.fixture
def write_sets(monkeypatch, tmp_path):
    """write_sets(text) puts the file into an empty place of data sets."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    before = set(DatasetCatalog.list())
    yield lambda text: (tmp_path / own_data_sets.FILE).write_text(text)
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    catalog._read_once.cache_clear()


@pytest.fixture
def sets(write_sets, world, tmp_path):
    """The four sets above on the synthetic files."""
    shutil.copytree(world / "watercolor", tmp_path / "voc")
    shutil.copytree(world / "cityscapes", tmp_path / "streets")
    shutil.copytree(world / "captions", tmp_path / "captions")
    shutil.copy(tmp_path / "captions" / "watercolor_test.jsonl", tmp_path / "captions/my_voc.jsonl")
    first = sorted((tmp_path / "voc" / "JPEGImages").iterdir())[0].name
    content = {
        "images": [{"id": 7, "file_name": first, "width": 10, "height": 10}],
        "categories": [{"id": 3, "name": "kite"}, {"id": 9, "name": "bird"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 9, "bbox": [1, 2, 3, 4], "area": 12}
            | {"iscrowd": 0}
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    write_sets(SETS)


def test_they_are_read_as_the_layouts_are(sets, world):
    check_registered("my_voc")
    assert offers("my_voc") == offers("my_coco") == {"instances"}
    known = {entry["image_id"]: entry for entry in read_known("watercolor_test")}
    for entry in read_known("my_voc"):
        theirs = known[entry["image_id"]]["annotations"]
        assert [a["bbox"] for a in entry["annotations"]] == [a["bbox"] for a in theirs]
    assert class_names("my_voc", "thing")[1] == "bird"
    (entry,) = read_known("my_coco")
    assert class_names("my_coco", "thing") == ["kite", "bird"]
    assert entry["annotations"][0]["category_id"] == 1
    streets = read_known("my_streets")
    assert [e["image_id"] for e in streets] == [e["image_id"] for e in read_known("cityscapes_val")]
    assert is_labelled("my_streets") and not is_labelled("my_unlabelled")


def test_training_and_the_commands_know_them(sets, make_config, tmp_path, capsys):
    captions = load_dataset(make_config(), "my_voc")
    assert captions and all(entry["caption"] for entry in captions)
    assert {e["caption"] for e in load_dataset(make_config(), "my_streets")}
    assert caption_path("my_streets") == tmp_path / "captions" / "cityscapes_val.jsonl"
    assert caption_path("my_voc") == tmp_path / "captions" / "my_voc.jsonl"
    assert {image.vocabulary for image in find_images("my_coco")} == {("kite", "bird")}
    main(["doctor", "my_voc"])
    assert "images: readable" in capsys.readouterr().out.replace("pictures", "images")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", r"datasets\.yaml:1: not a YAML file"),
        ("- a", "expected names of data sets"),
        ("a: {layout: yolo}", "a: layout is 'yolo'; expected one of voc, coco, semantic"),
        ("a: 3", "a: layout is 3"),
        ("a/b: {layout: voc}", "a/b: expected a name without slashes"),
        ("a: {layout: voc, root: x, split: s}", "a: lacks 'classes', a list of different names"),
        (f"a: {VOC[:-1]}, clases: [x]}}", "a: unknown key 'clases'; expected root, split, classes"),
        ("a: {layout: voc, root: x, split: 3, classes: [x]}", "a: split is 3; expected a text"),
        ("a: {layout: voc, root: x, split: s, classes: [x, x]}", "expected a list of different"),
        (f"a: {VOC[:-1]}, scored: [cow]}}", "scored has names that are not among the classes"),
        (f"a: {SEMANTIC}, classes: [x], ignore_label: 256}}", "ignore_label is 256"),
        (f"a: {SEMANTIC}, classes: [x], colors: [[1, 2]]}}", "colors is"),
        (f"a: {SEMANTIC}, classes: [x, y], colors: [[1, 2, 3]]}}", "as many colors"),
        (f"watercolor_test: {VOC}", "watercolor_test: this name is another data set's already"),
    ],
)
def test_what_is_wrong_is_named(write_sets, text, message):
    write_sets(text)
    with pytest.raises(UserError, match=message):
        check_registered("voc_2007_test")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("my_coco", lambda root: (root / "coco.json").unlink(), r"no .*coco\.json"),
        ("my_coco", lambda root: (root / "coco.json").write_text("{"), r"coco\.json: not an ann"),
        ("my_coco", lambda root: (root / "coco.json").write_text("[]"), r"coco\.json: not an ann"),
        ("my_coco", lambda root: shutil.rmtree(root / "voc"), "no .*JPEGImages"),
        ("my_voc", lambda root: shutil.rmtree(root / "voc"), "no .*voc"),
    ],
)
def test_damaged_files_are_named(sets, tmp_path, name, damage, message):
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        read_known(name)


def test_an_image_that_is_not_there_is_named(sets, tmp_path):
    content = json.loads((tmp_path / "coco.json").read_text())
    content["images"][0]["file_name"] = "absent.jpg"
    (tmp_path / "coco.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"absent\.jpg: named by data set 'my_coco', and not there"):
        read_known("my_coco")
