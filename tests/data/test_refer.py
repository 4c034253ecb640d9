"""RefCOCO's files: prepared once, read strictly, masks as published; wrong ones are named."""

import copy
import json
import pickle
import re

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from tadp_d2.cli import main
from tadp_d2.data.catalog import entry_id, known_datasets, offers, read_entries, read_known
from tadp_d2.data.datasets.refcoco import EXPRESSIONS, SPLITS
from tadp_d2.data.readers.refer import draw_mask, load_refer
from tadp_d2.data.readers.refer_release import prepare_references
from tadp_d2.errors import UserError

POLYGON = [2.0, 2, 12, 2, 12, 9, 2, 9]
INSTANCES = {
    "images": [
        {"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "width": 30, "height": 20},
        {"id": 8, "file_name": "COCO_train2014_000000000008.jpg", "width": 30, "height": 20},
    ],
    "annotations": [
        {"id": 70, "image_id": 7, "segmentation": [POLYGON], "iscrowd": 0, "category_id": 1},
        {"id": 71, "image_id": 7, "segmentation": [POLYGON, POLYGON], "category_id": 1},
        {"id": 80, "image_id": 8, "segmentation": [POLYGON], "iscrowd": 0, "category_id": 1},
    ],
}


def ref(number, ann_id, image_id, split, *sentences):
    return {
        "ref_id": number,
        "ann_id": ann_id,
        "image_id": image_id,
        "category_id": 1,
        "file_name": "COCO_train2014_000000000007_70.jpg",
        "split": split,
        "sent_ids": [100 * number + n for n in range(len(sentences))],
        "sentences": [
            {"sent_id": 100 * number + n, "sent": text, "raw": text.upper(), "tokens": text.split()}
            for n, text in enumerate(sentences)
        ],
    }


REFS = [
    ref(1, 70, 7, "train", "left dog", "the brown dog"),
    ref(2, 80, 8, "train", "dog"),
    ref(3, 71, 7, "train", "right dog"),
    ref(4, 80, 8, "testA", "a caf\u00e9"),
]


@pytest.fixture
def folder(tmp_path):
    """A folder of RefCOCO with two images; `write(refs, instances)` replaces its files."""
    images = tmp_path / "images"
    images.mkdir()
    for image in INSTANCES["images"]:
        Image.new("RGB", (30, 20)).save(images / image["file_name"])
    write(tmp_path, REFS)
    return tmp_path


def write(folder, refs, instances=INSTANCES):
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=0))


def test_an_entry_for_each_expression_those_of_an_image_in_a_row(folder):
    prepared = prepare_references(folder)
    assert {file: len(refs) for file, refs in prepared.items()} == {
        "unc_train.json": 3,
        "unc_testA.json": 1,
    }
    entries = load_refer(folder / "unc_train.json", folder / "images")
    assert [(e["image_id"], e["ref_id"], e["expression_id"], e["expression"]) for e in entries] == [
        (7, 1, 100, "left dog"),
        (7, 1, 101, "the brown dog"),
        (7, 3, 300, "right dog"),
        (8, 2, 200, "dog"),
    ]
    assert [entry_id(entry) for entry in entries] == ["7-100", "7-101", "7-300", "8-200"]
    assert (entries[0]["width"], entries[0]["height"]) == (30, 20)
    (other,) = load_refer(folder / "unc_testA.json", folder / "images")
    assert other["expression"] == "a caf\u00e9"


def test_masks_are_the_union_of_polygons_or_as_released(folder):
    prepare_references(folder)
    entries = load_refer(folder / "unc_train.json", folder / "images")
    expected = np.zeros((20, 30), bool)
    expected[2:9, 2:12] = True
    assert np.array_equal(draw_mask(entries[0]), expected)
    assert np.array_equal(draw_mask(entries[0], overlaps=False), expected)
    # Two polygons that are one and the same: all of it is an overlap.
    assert np.array_equal(draw_mask(entries[2]), expected)
    assert not draw_mask(entries[2], overlaps=False).any()


def changed(change):
    refs, instances = copy.deepcopy(REFS), copy.deepcopy(INSTANCES)
    change(refs, instances)
    return refs, instances


WRONG = {
    "no annotation": (lambda r, i: r[1].update(ann_id=99), "reference 2: its annotation 99 is not"),
    "no image": (lambda r, i: i["images"].pop(1), "reference 2: its image 8 is not in"),
    "another image": (lambda r, i: r[1].update(image_id=7), "is of image 7, but .* in image 8"),
    "crowd": (lambda r, i: i["annotations"][2].update(iscrowd=1), "annotation 80 is a crowd"),
    "run lengths": (
        lambda r, i: i["annotations"][2].update(segmentation={"counts": [1], "size": [20, 30]}),
        "reference 2: its segmentation is no list of polygons",
    ),
    "empty": (
        lambda r, i: r[0]["sentences"][1].update(sent=" \n"),
        "reference 1: its expression 101 is empty",
    ),
    "no expression": (lambda r, i: r[0].update(sentences=[]), "reference 1: has no expression"),
    "number": (
        lambda r, i: r[0]["sentences"][0].update(sent=5),
        "reference 1: an expression is no pair of id and text",
    ),
    "endless": (
        lambda r, i: r[0]["sentences"][0].update(sent="a" * 10_000),
        "expression 100 has 10000 characters",
    ),
    "twice": (lambda r, i: r.append(r[0]), "has the reference 1 twice"),
    "sentence twice": (
        lambda r, i: r[1]["sentences"].append(r[0]["sentences"][0]),
        "has the expression 100 twice",
    ),
    "no split": (lambda r, i: r[0].pop("split"), "a reference is not as published .'split'."),
    "path as a split": (lambda r, i: r[0].update(split="../x"), "its split is '../x'"),
    "ref_id": (lambda r, i: r[0].update(ref_id=-1), "its ref_id is -1"),
    "huge": (lambda r, i: r[0].update(ref_id=2**70), "its ref_id is"),
    "true": (lambda r, i: r[0].update(ref_id=True), "its ref_id is True"),
    "no dict": (lambda r, i: r.append([]), "a reference is not as published"),
    "two points": (
        lambda r, i: i["annotations"][0].update(segmentation=[[1, 1, 5, 5]]),
        "no polygon of three points",
    ),
    "odd": (
        lambda r, i: i["annotations"][0].update(segmentation=[POLYGON + [1]]),
        "a polygon is no list of x and y",
    ),
    "far": (
        lambda r, i: i["annotations"][0].update(segmentation=[[1, 1, 1e9, 1, 1, 1e9]]),
        "far outside of its image",
    ),
    "not a number": (
        lambda r, i: i["annotations"][0].update(segmentation=[[1, 1, float("nan"), 1, 1, 9]]),
        "far outside of its image",
    ),
    "digits": (
        lambda r, i: i["annotations"][0].update(segmentation=[[1, 1, 10**400, 1, 1, 9]]),
        "far outside of its image",
    ),
    "folder in a name": (
        lambda r, i: i["images"][0].update(file_name="../7.jpg"),
        "its file_name is '../7.jpg'",
    ),
    "no size": (lambda r, i: i["images"][0].pop("width"), "its image has the size"),
    "two ids": (
        lambda r, i: i["annotations"].append(i["annotations"][0]),
        "has two annotations with the id 70",
    ),
    "no images": (lambda r, i: i.pop("images"), "has no list of images"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_release_is_named_and_nothing_written(folder, name):
    change, message = WRONG[name]
    write(folder, *changed(change))
    with pytest.raises(UserError, match=message):
        prepare_references(folder)
    assert not list(folder.glob("unc_*"))


def test_a_pickle_that_holds_an_object_is_named(folder):
    write(folder, [*REFS, {"ref_id": np.int64(5)}])
    with pytest.raises(UserError, match=r"refs\(unc\)\.p: holds the object numpy"):
        prepare_references(folder)
    (folder / "refs(unc).p").unlink()
    with pytest.raises(UserError, match=r"expected instances.json and refs\(unc\)\.p"):
        prepare_references(folder)


PREPARED = {
    "header": (lambda c: c.update(version=2), "expected references as tadp-d2 prepare writes"),
    "none": (lambda c: c.update(references=[]), "holds no references"),
    "field": (lambda c: c["references"][0].pop("width"), "a reference has the fields ref_id"),
    "empty": (lambda c: c["references"][0].update(expressions=[[1, ""]]), "expression 1 is empty"),
    "pair": (lambda c: c["references"][0].update(expressions=[[1]]), "no pair of id and text"),
    "size": (lambda c: c["references"][0].update(width=31), "state another file or size"),
    "sizes": (
        lambda c: [r.update(height=21) for r in c["references"]],
        "30 x 20 pixels, but .*unc_train.json has 30 x 21",
    ),
    "image": (
        lambda c: c["references"][1].update(file_name="absent.jpg"),
        "absent.jpg: cannot be read",
    ),
}


@pytest.mark.parametrize("name", PREPARED)
def test_a_wrong_prepared_file_is_named(folder, name):
    change, message = PREPARED[name]
    prepare_references(folder)
    file = folder / "unc_train.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_refer(file, folder / "images")


@pytest.mark.parametrize("text", ["", "[" * 100_000, "{", "[]", '{"format": 1}'])
def test_a_damaged_prepared_file_is_one_error(folder, text):
    (folder / "unc_train.json").write_text(text)
    with pytest.raises(UserError, match=r"unc_train\.json: (cannot be read as JSON|expected)"):
        load_refer(folder / "unc_train.json", folder / "images")


def test_all_that_is_wrong_with_images_is_reported(folder):
    prepare_references(folder)
    for image in (folder / "images").iterdir():
        image.unlink()
    errors = []
    assert load_refer(folder / "unc_train.json", folder / "images", errors.append) == []
    assert len(errors) == 2


def test_the_registered_sets(world):
    assert {
        f"{folder}_{split_by}_{split}"
        for (folder, split_by), splits in SPLITS.items()
        for split in splits
    } <= set(known_datasets())
    assert offers("refcocog_umd_test") == {"referring"}
    # Published totals: RefCOCO 142,210, RefCOCO+ 141,564, RefCOCOg 95,010 by UMD.
    totals = {
        prefix: sum(count for name, count in EXPRESSIONS.items() if name.startswith(prefix))
        for prefix in ("refcoco_unc", "refcoco+_unc", "refcocog_umd", "refcocog_google")
    }
    assert list(totals.values()) == [142_210, 141_564, 95_010, 95_010]
    entries = read_known("refcoco_unc_val")
    assert len(entries) > 3 and all(draw_mask(entry).any() for entry in entries)
    with pytest.raises(UserError, match=r"tadp-d2 prepare refcoco\+ makes it"):
        read_entries("refcoco+_unc_val")


def test_prepare_prints_what_it_wrote(folder, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder.parent))
    folder.rename(folder.parent / "refcocog")
    main(["prepare", "refcocog"])
    printed = capsys.readouterr().out
    assert re.search(r"unc_train\.json: 3 references, 4 expressions, 2 images", printed)
    with pytest.raises(SystemExit) as stop:
        main(["prepare", "refcoco"])
    assert stop.value.code == 2
    assert "expected instances.json" in capsys.readouterr().err


def test_ones_own_set_has_a_name_in_datasets_yaml(folder, monkeypatch):
    prepare_references(folder)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))
    (folder / "datasets.yaml").write_text(
        "my_references: {layout: references, images: images, references: unc_train.json}\n"
    )
    try:
        assert len(read_known("my_references")) == 4
        assert offers("my_references") == {"referring"}
    finally:
        DatasetCatalog.remove("my_references")
        MetadataCatalog.remove("my_references")
