"""Reading VOC folders: equal to Detectron2's own loader, and strict where that is not."""

import re
import shutil

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import CLASS_NAMES, load_voc_instances
from PIL import Image

from tadp_d2.data.datasets.art import SHARED_CLASSES
from tadp_d2.data.readers.pascal_voc import load_voc, read_voc
from tadp_d2.errors import UserError

ANNOTATION = """<annotation><size><width>100</width><height>50</height></size>
<object><name>dog</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>100</xmax><ymax>50</ymax>
</bndbox></object></annotation>"""


@pytest.fixture
def tree(tmp_path):
    """A data set of one picture."""
    root = tmp_path / "set"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "Annotations" / "7.xml").write_text(ANNOTATION)
    Image.new("RGB", (100, 50)).save(root / "JPEGImages" / "7.jpg")
    (root / "ImageSets" / "Main" / "test.txt").write_text("7\n")
    return root


@pytest.mark.parametrize(
    "folder, split", [("VOC2007", "trainval"), ("watercolor", "test"), ("comic", "train")]
)
def test_equal_to_detectron2s_own_loader(world, folder, split):
    expected = load_voc_instances(str(world / folder), split, CLASS_NAMES)
    assert load_voc(world / folder, split, folder, CLASS_NAMES) == expected
    assert sum(len(entry["annotations"]) for entry in expected) > 0


def test_targets_are_registered_with_vocs_classes_and_scored_on_the_shared_six(world):
    for name in ("watercolor_train", "watercolor_test", "comic_train", "comic_test"):
        meta = MetadataCatalog.get(name)
        assert meta.thing_classes == MetadataCatalog.get("voc_2007_test").thing_classes
        assert meta.evaluation_classes == list(SHARED_CLASSES)
        assert DatasetCatalog.get(name)


def test_detectron2s_own_voc_sets_are_checked_as_well(world):
    read_voc("voc_2007_test")
    read_voc("voc_2012_trainval")


def test_optional_fields_may_be_absent(tree):
    (entry,) = load_voc(tree, "test", "set", CLASS_NAMES)
    assert entry["image_id"] == "7"
    assert entry["annotations"][0]["bbox"] == [0, 1, 100, 50]
    assert (entry["width"], entry["height"]) == (100, 50)


def test_a_picture_without_objects_is_read(tree):
    text = ANNOTATION[: ANNOTATION.index("<object>")] + "</annotation>"
    (tree / "Annotations" / "7.xml").write_text(text)
    assert load_voc(tree, "test", "set", CLASS_NAMES)[0]["annotations"] == []


def test_one_pixel_beyond_the_rim_is_allowed_because_some_tools_count_from_0(tree):
    text = ANNOTATION.replace("<xmin>1<", "<xmin>0<").replace("<xmax>100<", "<xmax>101<")
    (tree / "Annotations" / "7.xml").write_text(text)
    assert load_voc(tree, "test", "set", CLASS_NAMES)[0]["annotations"]


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("<name>dog<", "<name>dragon<", "unknown class 'dragon'"),
        ("<xmax>100<", "<xmax>102<", "is not inside the image of 100 x 50"),
        ("<ymin>2<", "<ymin>-1<", "is not inside the image"),
        ("<xmin>1<", "<xmin>200<", "is not inside the image"),
        ("<ymax>50<", "<ymax>1<", "is not inside the image"),
        ("<xmin>1</xmin>", "", "without bndbox/xmin"),
        ("<width>100</width>", "", "without size/width"),
        ("<xmin>1<", "<xmin>one<", "could not convert"),
        ("</annotation>", "", "not a VOC annotation"),
        ("</name>", "</name><difficult>True</difficult>", "difficult is 'True': expected 0 or 1"),
        ("</name>", "</name><difficult/>", "difficult is '': expected 0 or 1"),
    ],
)
def test_a_wrong_annotation_is_an_error_that_names_the_file(tree, old, new, message):
    path = tree / "Annotations" / "7.xml"
    path.write_text(ANNOTATION.replace(old, new))
    with pytest.raises(UserError) as error:
        load_voc(tree, "test", "set", CLASS_NAMES)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "box, message",
    [
        ((0.1, 0.2, 0.9, 0.8), "0.1 0.2 0.9 0.8, lies within the first pixel: .* no shares"),
        ((0, 0, 1, 1), "0 0 1 1, lies within the first pixel"),
        ((1, 1, 1, 1), "1 1 1 1, has four equal sides: it is a dummy"),
        ((7, 7, 7, 7), "7 7 7 7, has four equal sides"),
    ],
)
def test_a_box_that_cannot_be_meant_is_refused(tree, box, message):
    sides = "".join(
        f"<{side}>{value}</{side}>"
        for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    path = tree / "Annotations" / "7.xml"
    path.write_text(
        re.sub("<bndbox>.*</bndbox>", f"<bndbox>{sides}</bndbox>", ANNOTATION, flags=re.S)
    )
    with pytest.raises(UserError, match=f"7.xml: the box of 'dog', {message}"):
        load_voc(tree, "test", "set", CLASS_NAMES)


@pytest.mark.parametrize(
    "break_it, message",
    [
        (lambda root: shutil.rmtree(root), "tadp-d2 synth"),
        (lambda root: shutil.rmtree(root / "JPEGImages"), "there is no .*JPEGImages"),
        (lambda root: (root / "ImageSets/Main/test.txt").unlink(), "there is no .*test.txt"),
        (lambda root: (root / "ImageSets/Main/test.txt").write_text(" \n"), "the split is empty"),
        (lambda root: (root / "JPEGImages/7.jpg").unlink(), "lists '7', but there is no .*7.jpg"),
        (lambda root: (root / "Annotations/7.xml").unlink(), "lists '7', but there is no .*7.xml"),
    ],
)
def test_an_incomplete_folder_is_an_error_that_says_what_is_missing(tree, break_it, message):
    break_it(tree)
    with pytest.raises(UserError, match=message):
        load_voc(tree, "test", "set", CLASS_NAMES)
