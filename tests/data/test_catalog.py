"""Data sets with captions, mapped to the model's input."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from tadp_d2.captioning.store import CaptionStore
from tadp_d2.data.loader import build_test_loader, build_train_loader, load_dataset
from tadp_d2.data.mapper import ConditionedMapper
from tadp_d2.data.texts import Caption, read_captions, write_captions
from tadp_d2.errors import UserError


def test_every_input_carries_the_caption_of_its_image(make_config, world):
    captions = read_captions(world / "captions" / "watercolor_test.jsonl").captions
    loader = build_test_loader(make_config(), "watercolor_test")
    inputs = [image for batch in loader for image in batch]
    assert {image["image_id"]: image["caption"] for image in inputs} == captions
    # In batches they are the same, in the same order.
    batches = list(build_test_loader(make_config(), "watercolor_test", 4))
    assert {len(batch) for batch in batches[:-1]} == {4} and 1 <= len(batches[-1]) <= 4
    together = [image["image_id"] for batch in batches for image in batch]
    assert together == [image["image_id"] for image in inputs]


def test_raw_or_cleaned_captions(make_config, tmp_path):
    folder = ("TEXT.CAPTION_DIR", str(tmp_path))
    ids = [str(5001 + index) for index in range(6)]
    with CaptionStore(tmp_path / "comic_test.jsonl", "comic_test", {}) as store:
        store.add_captions({image_id: Caption("a comic of a dog") for image_id in ids})
        store.add_cleaned({image_id: ("a dog", {}) for image_id in ids[1:]})
    for kind, expected in (("clean", {"a comic of a dog", "a dog"}), ("raw", {"a comic of a dog"})):
        cfg = make_config(*folder, "TEXT.CAPTION_TEXT", kind)
        assert {entry["caption"] for entry in load_dataset(cfg, "comic_test")} == expected


def test_training_reads_both_voc_years(make_config):
    loader = build_train_loader(make_config("DATALOADER.ASPECT_RATIO_GROUPING", False))
    batches = iter(loader)
    seen = {image["image_id"] for _ in range(12) for image in next(batches)}
    assert len(seen) == 12
    assert {image_id.startswith("2012") for image_id in seen} == {True, False}


def test_squares_of_fixed_size_with_boxes_scaled_by_each_axis(make_config):
    cfg = make_config("INPUT.RANDOM_FLIP", "none")
    entry = load_dataset(cfg, "voc_2007_train")[0]
    mapped = ConditionedMapper(cfg, is_train=True)(entry)
    assert mapped["image"].shape == (3, 128, 128)
    scale = np.array([128 / entry["width"], 128 / entry["height"]] * 2)
    expected = [np.array(item["bbox"]) * scale for item in entry["annotations"]]
    np.testing.assert_allclose(mapped["instances"].gt_boxes.tensor, expected, rtol=1e-5)
    tested = ConditionedMapper(cfg, is_train=False)(entry)
    assert tested["image"].shape == (3, 128, 128)
    assert (tested["height"], tested["width"]) == (entry["height"], entry["width"])


def test_shortest_edge_keeps_the_aspect_ratio(make_config):
    cfg = make_config("INPUT.RESIZE", "shortest_edge", "INPUT.MIN_SIZE_TEST", 96)
    entry = load_dataset(cfg, "voc_2007_test")[0]
    _, height, width = ConditionedMapper(cfg, is_train=False)(entry)["image"].shape
    assert min(height, width) == 96
    assert abs(width / height - entry["width"] / entry["height"]) < 0.02


def test_pictures_are_rgb(make_config):
    cfg = make_config()
    entry = load_dataset(cfg, "voc_2007_test")[0]
    expected = np.asarray(Image.open(entry["file_name"]).convert("RGB")).mean((0, 1))
    mapped = ConditionedMapper(cfg, is_train=False)(entry)["image"]
    np.testing.assert_allclose(mapped.float().mean((1, 2)), expected, atol=2)


def test_unknown_data_set(make_config):
    with pytest.raises(UserError, match="unknown data set 'watercolour_test'.*watercolor_test"):
        load_dataset(make_config(), "watercolour_test")


def test_a_missing_caption_is_found_when_the_data_set_is_loaded(make_config, tmp_path):
    write_captions(tmp_path / "comic_test.jsonl", "comic_test", {"1": "a dog"}, {})
    with pytest.raises(UserError, match=r"comic_test\.jsonl: no caption for image '5001'"):
        load_dataset(make_config("TEXT.CAPTION_DIR", str(tmp_path)), "comic_test")


@pytest.fixture
def own_set(tmp_path):
    """A data set that is not in VOC's layout: two pictures, the second without objects."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    entries = []
    for index, annotations in enumerate(([{"bbox": [0, 0, 9, 9]}], [])):
        file = tmp_path / f"{index}.jpg"
        Image.fromarray(pixels).save(file)
        for item in annotations:
            item |= {"bbox_mode": 0, "category_id": 0}
        entries.append(
            {
                "file_name": str(file),
                "image_id": index,
                "height": 40,
                "width": 60,
                "annotations": annotations,
            }
        )
    DatasetCatalog.register("own", lambda: entries)
    MetadataCatalog.get("own").set(thing_classes=["thing"])
    write_captions(tmp_path / "own.jsonl", "own", {"0": "a thing", "1": "nothing"}, {})
    yield entries
    DatasetCatalog.remove("own")
    MetadataCatalog.remove("own")


def test_a_users_own_data_set_with_numbers_as_ids(make_config, own_set, tmp_path):
    cfg = make_config("TEXT.CAPTION_DIR", str(tmp_path))
    assert [entry["caption"] for entry in load_dataset(cfg, "own")] == ["a thing", "nothing"]


def test_pictures_without_objects_are_left_out_of_training_only(make_config, own_set, tmp_path):
    cfg = make_config("TEXT.CAPTION_DIR", str(tmp_path))
    assert len(load_dataset(cfg, "own", training=True)) == 1
    own_set.pop(0)
    with pytest.raises(UserError, match="no image of it has an object"):
        load_dataset(cfg, "own", training=True)


def test_an_unreadable_picture_is_named(make_config, own_set, tmp_path):
    (tmp_path / "0.jpg").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"0\.jpg: cannot be read as an image"):
        ConditionedMapper(make_config(), is_train=False)(own_set[0])


def test_a_cut_off_picture_is_named(make_config, own_set, tmp_path):
    data = (tmp_path / "0.jpg").read_bytes()
    (tmp_path / "0.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"0\.jpg: cannot be read as an image"):
        ConditionedMapper(make_config(), is_train=False)(own_set[0])


def test_a_picture_of_another_size_than_annotated_is_named(make_config, own_set):
    with pytest.raises(UserError, match=r"0\.jpg: 60 x 40 pixels, .* has 61 x 40"):
        ConditionedMapper(make_config(), is_train=False)({**own_set[0], "width": 61})
