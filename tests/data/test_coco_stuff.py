"""COCO-Stuff164k: its classes, maps as published and mapped, and what is refused."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image

from tadp_d2.cli import main
from tadp_d2.data.catalog import read_entries
from tadp_d2.data.datasets import coco_stuff
from tadp_d2.data.datasets.coco_stuff_categories import CLASSES, INDICES
from tadp_d2.data.images import read_label_map
from tadp_d2.data.readers.label_map_release import prepare_coco_stuff
from tadp_d2.data.readers.label_maps import load_label_maps
from tadp_d2.errors import UserError

ABSENT = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)


def test_classes_and_values():
    assert len(CLASSES) == len(set(CLASSES)) == 171
    assert (CLASSES[0], CLASSES[79], CLASSES[80], CLASSES[170]) == (
        *("person", "toothbrush", "banner", "wood"),
    )
    assert sorted(INDICES) == [value for value in range(182) if value not in ABSENT]
    assert list(INDICES.values()) == list(range(171))
    # A category of COCO's panoptic format that is not joined of several has the same name.
    for row in COCO_CATEGORIES:
        if not row["name"].endswith("-merged"):
            assert CLASSES[INDICES[row["id"] - 1]] == row["name"]
    for name in ("coco_stuff_train", "coco_stuff_val"):
        meta = MetadataCatalog.get(name)
        assert meta.stuff_classes == list(CLASSES) and len(meta.stuff_colors) == 171


@pytest.fixture
def coco(tmp_path, monkeypatch):
    """A val split of three images with published maps: all values, and one image of person."""
    values = np.array([*INDICES, 255], np.uint8)
    maps = {"a": values[None].repeat(2, 0), "b": values[None, ::-1], "c": np.zeros((4, 5))}
    for name, pixels in maps.items():
        for folder, suffix, image in (
            (coco_stuff.PUBLISHED, ".png", Image.fromarray(np.uint8(pixels))),
            ("", ".jpg", Image.new("RGB", pixels.shape[::-1])),
        ):
            path = tmp_path / "coco" / folder / "val2017" / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path / "coco"


@pytest.fixture
def registered(coco):
    """The val split there, as `coco_stuff_val` is registered."""
    own = coco_stuff.folders(coco, "val", coco_stuff.MAPPED)
    DatasetCatalog.register("own_stuff", lambda: load_label_maps(own, "own_stuff"))
    theirs = {
        k: v for k, v in MetadataCatalog.get("coco_stuff_val").as_dict().items() if k != "name"
    }
    MetadataCatalog.get("own_stuff").set(**{**theirs, "folders": own})
    yield "own_stuff"
    DatasetCatalog.remove("own_stuff")
    MetadataCatalog.remove("own_stuff")


def test_published_maps_are_mapped_once(coco, registered, capsys):
    main(["prepare", "coco_stuff"])
    assert "stuffthingmaps_detectron2/val2017: 3 label maps" in capsys.readouterr().out
    entries = read_entries(registered)
    found = {e["image_id"]: read_label_map(e["sem_seg_file_name"]) for e in entries}
    expected = np.array([*range(171), 255])
    np.testing.assert_array_equal(found["a.jpg"], expected[None].repeat(2, 0))
    np.testing.assert_array_equal(found["b.jpg"], expected[None, ::-1])
    assert not found["c.jpg"].any()
    main(["prepare", "coco_stuff"])
    assert "nothing to do" in capsys.readouterr().out


def test_without_mapped_maps_the_message_has_the_command(registered):
    with pytest.raises(UserError, match=r"a\.jpg: has no label map.*`tadp-d2 prepare coco_stuff`"):
        read_entries(registered)


def test_a_published_map_in_the_place_of_a_mapped_one_is_refused(coco, registered):
    (coco / coco_stuff.PUBLISHED).rename(coco / coco_stuff.MAPPED)
    with pytest.raises(UserError, match=r"a\.png: has the value 171.*`tadp-d2 prepare coco_stuff`"):
        read_entries(registered)


def test_a_mapped_map_in_the_place_of_a_published_one_is_refused(coco):
    for value in (11, 200):
        path = coco / coco_stuff.PUBLISHED / "val2017" / "b.png"
        size = Image.open(path).size
        Image.fromarray(np.full(size[::-1], value, np.uint8)).save(path)
        with pytest.raises(UserError, match=rf"b\.png: has the value {value}.*mapped already"):
            prepare_coco_stuff(coco)
        # Whole or not at all.
        assert not (coco / coco_stuff.MAPPED / "val2017").exists()


def test_without_published_maps(tmp_path):
    with pytest.raises(UserError, match="stuffthingmaps: expected train2017 or val2017"):
        prepare_coco_stuff(tmp_path)
