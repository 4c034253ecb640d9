"""Data sets that `datasets.yaml` names: known to training, captions, doctor; clear errors."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from tadp_d2.captioning.sets import caption_path, find_images
from tadp_d2.cli import main
from tadp_d2.data import catalog, own_data_sets
from tadp_d2.data.catalog import check_registered, is_labelled, offers, read_known
from tadp_d2.data.loader import load_dataset
from tadp_d2.errors import UserError
from tadp_d2.evaluation.depth_metrics import DepthEvaluator
from tadp_d2.tasks.task import class_names

DEPTH = "{layout: depth, images: rgb, depths: depth, unit: 0.001"
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
    assert "images: readable" in capsys.readouterr().out


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
        ("a: {layout: depth, images: x, depths: y, unit: 0.001}", "a: lacks 'range', two numbers"),
        (f"a: {DEPTH[:-5]}mm, range: [0, 9]}}", "a: unit is 'mm'; expected a number above 0, in m"),
        (f"a: {DEPTH}, range: 10}}", "a: range is 10; expected two numbers, the nearest and the"),
        (f"a: {DEPTH}, range: [9, 1]}}", r"a: range is \[9, 1\]"),
        (f"a: {DEPTH}, range: [-1, 9]}}", r"a: range is \[-1, 9\]"),
        (f"a: {DEPTH}, range: [0, 9], crop: eigne}}", "crop is 'eigne'; expected one of none, eig"),
        (f"a: {DEPTH}, range: [0, 9], room_folders: 1}}", "room_folders is 1; expected true or f"),
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [0.1, 0.2, 0.5, 0.6]}, "0.1 0.2 0.5 0.6, of .*jpg, lies within a pixel"),
        ({"bbox": [1, 1, 1, 1]}, "it is a dummy"),
        ({"bbox": [0, 0, 0, 0]}, "it is a dummy"),
        ({"bbox": [60, 50, 140, 90]}, "2 of 2 boxes reach out .* and not two corners"),
        ({"bbox": [160, 5, 20, 20]}, "lies outside of the image of 150 x 100 pixels"),
        ({"bbox": [60, 50, -10, 20]}, "has a negative size"),
        ({"bbox": [60, 50, 10]}, "has no four numbers"),
        ({"bbox": ["6", 5, 10, 9]}, "has no four numbers"),
        ({"bbox": [float("nan"), 5, 10, 9]}, "has no four numbers"),
        ({"iscrowd": "0"}, "has iscrowd '0': expected 0 or 1"),
        ({"iscrowd": "False"}, "has iscrowd 'False'"),
    ],
)
def test_values_of_coco_that_cannot_be_meant(sets, tmp_path, change, message):
    content = json.loads((tmp_path / "coco.json").read_text())
    content["images"][0] |= {"width": 150, "height": 100}
    (first,) = content["annotations"]
    content["annotations"] = [first | change, first | change | {"id": 2}]
    (tmp_path / "coco.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"coco\.json: .*{message}"):
        read_known("my_coco")


def test_boxes_of_coco_that_are_meant(sets, tmp_path):
    """Empty ones are COCO's own, some reach out of their images in other sets."""
    content = json.loads((tmp_path / "coco.json").read_text())
    content["images"][0] |= {"width": 150, "height": 100}
    (first,) = content["annotations"]
    boxes = [[5, 5, 100, 50]] * 10 + [[-40, 20, 130, 90], [10.5, 20, 0, 30], [30, 30, 30, 30]]
    content["annotations"] = [
        first | {"id": number, "bbox": box} for number, box in enumerate(boxes, start=1)
    ]
    (tmp_path / "coco.json").write_text(json.dumps(content))
    (entry,) = read_known("my_coco")
    assert [obj["bbox"] for obj in entry["annotations"]] == boxes


def test_the_doctor_finds_another_size_than_annotated(sets, capsys):
    with pytest.raises(SystemExit):
        main(["doctor", "my_coco"])
    (problem,) = [line for line in capsys.readouterr().out.splitlines() if ".jpg" in line]
    assert re.search(r"\.jpg: \d+ x \d+ pixels, but its annotation has 10 x 10", problem)


def test_an_image_that_is_not_there_is_named(sets, tmp_path):
    content = json.loads((tmp_path / "coco.json").read_text())
    content["images"][0]["file_name"] = "absent.jpg"
    (tmp_path / "coco.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"absent\.jpg: named by data set 'my_coco', and not there"):
        read_known("my_coco")


@pytest.fixture
def barn(tmp_path):
    """Images of 6 x 4 pixels in two rooms, and depth maps in halves of a meter."""
    for room, value in (("hay_loft", 6), ("cow_shed_0002", 4)):
        for folder, name, array in (
            ("rgb", "1.jpg", np.full((4, 6, 3), 99, np.uint8)),
            ("depth", "1_d.png", np.full((4, 6), value, np.uint16)),
        ):
            path = tmp_path / "barn" / folder / room / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return tmp_path / "barn"


BARN = """
my_barn:
  layout: depth
  images: barn/rgb
  depths: barn/depth
  depth_suffix: _d.png
  unit: 0.5
  range: [0, 20]
  crop: none
"""


def test_depth_of_ones_own(write_sets, barn, tmp_path):
    write_sets(BARN + BARN.replace("my_barn", "with_rooms") + "  room_folders: true\n")
    check_registered("my_barn")
    assert offers("my_barn") == {"depth"}
    entries = read_known("my_barn")
    assert [entry["image_id"] for entry in entries] == ["cow_shed_0002/1.jpg", "hay_loft/1.jpg"]
    assert not any("room" in entry for entry in entries)
    assert [e["room"] for e in read_known("with_rooms")] == ["cow shed", "hay loft"]
    # The truth is 2 m and 3 m; a depth of 2.5 m is half a meter off in each.
    evaluator = DepthEvaluator("my_barn")
    outputs = [{"depth": torch.full((4, 6), 2.5)} for _ in entries]
    evaluator.process(entries, outputs)
    scores = evaluator.evaluate()["depth"]
    assert (scores["RMSE"], scores["AbsRel"]) == pytest.approx((0.5, (0.25 + 0.5 / 3) / 2))


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda depth: depth.unlink(), r"hay_loft/1.jpg: has no depth map, expected .*1_d.png"),
        (
            lambda depth: depth.with_name("2_d.png").write_bytes(depth.read_bytes()),
            "2_d.png: a depth map without its image",
        ),
        (
            lambda depth: Image.fromarray(np.full((3, 6), 9, np.uint16)).save(depth),
            "hay_loft/1.* 6 x 3",
        ),
        (
            lambda depth: Image.fromarray(np.full((4, 6), 60000, np.uint16)).save(depth),
            r"1_d.png: 3e\+04 m deep on average, with 0.5 m for the value 1",
        ),
    ],
)
def test_wrong_depth_of_ones_own(write_sets, barn, spoil, message):
    write_sets(BARN)
    spoil(barn / "depth" / "hay_loft" / "1_d.png")
    with pytest.raises(UserError, match=message):
        read_known("my_barn")


def test_a_conditioner_that_needs_rooms_refuses_a_set_without(write_sets, barn, make_depth_config):
    write_sets(BARN)
    cfg = make_depth_config("MODEL.CONDITIONER.NAME", "SceneEmbedding")
    with pytest.raises(UserError, match="'my_barn': its entries have no 'room', which the cond"):
        load_dataset(cfg, "my_barn")
