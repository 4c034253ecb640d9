"""Depth maps and NYUv2's folders: read as stored, moved with their image, refused where wrong."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from PIL import Image

from tadp_d2.data.catalog import offers, read_known
from tadp_d2.data.datasets.nyu_categories import ROOMS
from tadp_d2.data.loader import load_dataset
from tadp_d2.data.mapper import ConditionedMapper, is_cacheable
from tadp_d2.data.readers.depth_maps import (
    SceneFolders,
    check_depth_map,
    load_scenes,
    read_depth,
    read_depth_map,
    room_of,
)
from tadp_d2.doctor.dataset_check import PUBLISHED
from tadp_d2.errors import UserError
from tadp_d2.randomness import seeded
from tadp_d2.tasks.task import get_task


def save(path, values, dtype=np.uint16):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype)).save(path)
    return path


@pytest.fixture
def scenes(tmp_path):
    """Three images of 4 x 3 pixels in two scenes."""
    root = tmp_path / "sync"
    for scene, number in (("study_room_0004", 1), ("study_room_0004", 2), ("nyu_office_0", 1)):
        name = f"{scene}/rgb_{number:05d}.jpg"
        save(root / name, np.zeros((3, 4, 3)), np.uint8)
        save(root / f"{scene}/sync_depth_{number:05d}.png", np.full((3, 4), 1000 * number))
    return SceneFolders(root)


def listed(scenes, text):
    file = scenes.root.parent / "list.txt"
    file.write_text(text)
    return SceneFolders(scenes.root, file, "fetch it")


def test_values_are_read_as_they_are_stored(tmp_path):
    values = np.array([[0, 1, 255], [256, 40000, 65535]], np.uint16)
    path = save(tmp_path / "depth.png", values)
    assert np.array_equal(read_depth_map(path), values)
    assert read_depth_map(path).dtype == np.uint16
    np.testing.assert_allclose(read_depth(path, 0.001), values / 1000, rtol=1e-6)
    assert read_depth(path, 0.001).dtype == np.float32


@pytest.mark.parametrize(
    "name, room",
    [
        ("kitchen_0028b", "kitchen"),
        ("study_room_0004", "study room"),
        ("study_0008", "study"),
        ("office_kitchen_0003", "office kitchen"),
        ("nyu_office_0", "office"),
        ("indoor_balcony", "indoor balcony"),
        ("excercise_room", "excercise room"),
        ("my_own_hall", "my own hall"),
    ],
)
def test_the_room_is_the_whole_name(name, room):
    assert room_of(name) == room


def test_the_rooms_of_nyu():
    assert len(ROOMS) == len(set(ROOMS)) == 27
    assert ROOMS[0] == "printer room" and ROOMS[-1] == "bookstore"
    assert {room_of(room.replace(" ", "_")) for room in ROOMS} == set(ROOMS)


def test_scenes_without_a_list(scenes):
    entries = load_scenes(scenes, "mine", 0.001)
    assert [entry["image_id"] for entry in entries] == [
        "nyu_office_0/rgb_00001.jpg",
        "study_room_0004/rgb_00001.jpg",
        "study_room_0004/rgb_00002.jpg",
    ]
    assert Counter(entry["room"] for entry in entries) == {"office": 1, "study room": 2}
    assert (entries[0]["width"], entries[0]["height"]) == (4, 3)
    assert read_depth(entries[2]["depth_file_name"], entries[2]["depth_unit"]).max() == 2


def test_a_list_chooses_and_orders(scenes):
    text = (
        "\ufeff/study_room_0004/rgb_00002.jpg /study_room_0004/sync_depth_00002.png 518.8579\r\n\n"
        "nyu_office_0/rgb_00001.jpg nyu_office_0/sync_depth_00001.png\n"
    )
    entries = load_scenes(listed(scenes, text), "mine", 0.001)
    assert [entry["image_id"] for entry in entries] == [
        "study_room_0004/rgb_00002.jpg",
        "nyu_office_0/rgb_00001.jpg",
    ]


@pytest.mark.parametrize(
    "text, message",
    [
        ("/a/rgb_1.jpg\n", "list.txt:1: expected the paths of an image and of its depth map"),
        ("/a/../b.jpg /a/c.png\n", "list.txt:1: expected the paths"),
        ("\n", "lists no image for data set 'mine'"),
        ("/a/rgb_1.jpg /a/d.png\n/a/rgb_1.jpg /a/d.png\n", "list.txt:2: a/rgb_1.jpg stands there"),
        ("/a/rgb_1.jpg /a/d.png\n", "a/rgb_1.jpg: cannot be read"),
        ("nyu_office_0/rgb_00001.jpg nyu_office_0/x.png\n", "has no depth map, expected .*x.png"),
    ],
)
def test_a_wrong_list(scenes, text, message):
    with pytest.raises(UserError, match=message):
        load_scenes(listed(scenes, text), "mine", 0.001)


def test_what_is_not_there(scenes, tmp_path):
    with pytest.raises(UserError, match="'mine' not found.*nowhere"):
        load_scenes(SceneFolders(tmp_path / "nowhere"), "mine", 0.001)
    with pytest.raises(UserError, match="list of data set 'mine' cannot be read.*fetch it"):
        load_scenes(SceneFolders(scenes.root, tmp_path / "no.txt", "fetch it"), "mine", 0.001)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image for data set 'mine'"):
        load_scenes(SceneFolders(tmp_path / "empty"), "mine", 0.001)
    (scenes.root / "nyu_office_0" / "sync_depth_00001.png").unlink()
    problems = []
    assert len(load_scenes(scenes, "mine", 0.001, problems.append)) == 2
    assert "has no depth map" in str(problems[0])


@pytest.mark.parametrize(
    "values, dtype, message",
    [
        (np.full((3, 4), 200), np.uint8, "must be a 16-bit gray PNG; this one has at most 8 bits"),
        (np.full((3, 5), 2000), np.uint16, "5 x 3 pixels, but its image has 4 x 3"),
        (np.zeros((3, 4)), np.uint16, "all values are 0"),
        (np.full((3, 4), 10), np.uint16, "0.01 m deep on average"),
    ],
)
def test_a_wrong_depth_map(tmp_path, values, dtype, message):
    path = save(tmp_path / "wrong.png", values, dtype)
    with pytest.raises(UserError, match=f"wrong.png: .*{message}"):
        check_depth_map(path, (3, 4), 0.001)


def test_a_unit_that_is_mistaken(tmp_path):
    path = save(tmp_path / "far.png", np.full((3, 4), 1000))
    with pytest.raises(UserError, match="1000 m deep on average"):
        check_depth_map(path, (3, 4), 1.0)
    with pytest.raises(UserError, match="cannot be read as a map of values"):
        broken = tmp_path / "broken.png"
        broken.write_bytes(path.read_bytes()[:40])
        check_depth_map(broken, (3, 4), 1.0)


def test_the_published_numbers_of_images():
    """VPD's lists have these; its paper has 645 images in the test."""
    numbers = {name: PUBLISHED[f"nyu_depth_v2_{name}"] for name in ("train", "test")}
    assert numbers == {"train": 24_231, "test": 654}
    assert PUBLISHED["nyu_depth_v2_labeled_train"] + PUBLISHED["nyu_depth_v2_test"] == 1449


def test_the_synthetic_rooms_are_read_as_nyu(world):
    assert offers("nyu_depth_v2_test") == {"depth"}
    train, test = read_known("nyu_depth_v2_train"), read_known("nyu_depth_v2_test")
    assert (len(train), len(test)) == (4, 3)
    assert train[0]["image_id"] == "bathroom_0001/rgb_00000.jpg"
    assert test[1]["image_id"] == "bedroom/rgb_00001.jpg"
    assert {entry["room"] for entry in (*train, *test)} <= set(ROOMS)
    for style in ("night", "watercolor"):
        for day, other in zip(test, read_known(f"rooms_{style}_test"), strict=True):
            depths = [read_depth_map(entry["depth_file_name"]) for entry in (day, other)]
            assert np.array_equal(*depths)
            assert day["file_name"] != other["file_name"]


@pytest.fixture
def mapper(make_depth_config):
    def build(*overrides):
        options = ("INPUT.COLOR_AUG_DEPTH", False, "INPUT.CUT_DEPTH", 0.0, *overrides)
        return ConditionedMapper(make_depth_config(*options), is_train=True)

    return build


@pytest.fixture
def ramp(tmp_path):
    """An image of 96 x 64 pixels whose red tells the column, and its depth, with a hole."""
    columns = np.arange(96)[None].repeat(64, axis=0)
    save(tmp_path / "rgb.png", np.stack([columns] * 3, axis=-1), np.uint8)
    depth = 1000 + 10 * columns
    depth[0] = 0
    save(tmp_path / "depth.png", depth)
    return {
        "file_name": str(tmp_path / "rgb.png"),
        "depth_file_name": str(tmp_path / "depth.png"),
        "depth_unit": 0.001,
        "height": 64,
        "width": 96,
        "caption": "",
    }


def test_a_crop_and_a_mirror_move_the_depth_with_the_image(mapper, ramp):
    mapper = mapper()
    seen = set()
    for number in range(20):
        with seeded("test", number):
            inputs = mapper(ramp)
        red = inputs["image"][0].float()
        assert inputs["depth"].shape == red.shape == (64, 64)
        assert inputs["depth"].dtype == torch.float32
        torch.testing.assert_close(inputs["depth"][1:], 1 + red[1:] / 100)
        assert not inputs["depth"][0].any()
        seen.add((int(red[0, 0]), bool(red[0, 0] < red[0, 1])))
    # Shifts to the side, mirrored and not.
    assert {mirrored for _, mirrored in seen} == {True, False} and len(seen) > 5


def test_depths_are_not_mixed_when_an_image_is_resized(mapper, ramp):
    size = ("INPUT.CROP.ENABLED", False, "INPUT.FIXED_SIZE_TRAIN", (31, 20))
    inputs = mapper(*size)(ramp)
    stored = read_depth(ramp["depth_file_name"], 0.001)
    assert inputs["depth"].shape == (20, 31)
    assert set(inputs["depth"].unique().tolist()) <= set(np.unique(stored).tolist())
    # The pixel under the middle of each new one.
    columns = ((np.arange(31) + 0.5) * 96 / 31).astype(int)
    rows = ((np.arange(20) + 0.5) * 64 / 20).astype(int)
    expected = stored[rows][:, columns]
    errors = [np.abs(inputs["depth"].numpy() - each) for each in (expected, expected[:, ::-1])]
    # A middle may lie on the border of two.
    assert any((error > 0).mean() < 0.05 and error.max() < 0.011 for error in errors)


def test_cut_depth_shows_the_depth_in_the_range_of_the_image(mapper, ramp):
    mapper = mapper("INPUT.CUT_DEPTH", 1.0, "MODEL.DEPTH_HEAD.MAX_DEPTH", 4.0)
    widths = []
    for number in range(20):
        with seeded("test", number):
            inputs = mapper(ramp)
        image, depth = inputs["image"].float(), inputs["depth"]
        pasted = (image[0, 0] == 0) & (depth[1] > 1.0)
        gray = (depth / 4 * 255).round()
        assert torch.equal(image[:, :, pasted], gray[:, pasted].expand(3, -1, -1))
        # The rest is the image, whose columns say what is in them.
        kept = image[0][:, ~pasted]
        torch.testing.assert_close(depth[1:, ~pasted], 1 + kept[1:] / 100)
        widths.append(int(pasted.sum()))
        assert int(pasted.int().diff().abs().sum()) <= 2  # one strip
    assert 0 < np.mean(widths) < 0.5 * 64 and max(widths) < 64


def test_a_share_of_the_images_is_cut(make_depth_config):
    task = get_task(make_depth_config("INPUT.CUT_DEPTH", 0.25))
    inputs = {"image": torch.zeros(3, 4, 64, dtype=torch.uint8), "depth": torch.ones(4, 64)}
    with seeded("test"):
        cut = sum(bool(task.augment(inputs)["image"].any()) for _ in range(400))
    assert 70 < cut < 130
    assert not inputs["image"].any()


def test_latents_of_mirrored_tests_are_not_cached(make_depth_config):
    whole = ("TEST.WINDOW_SIZE", 0)
    assert not is_cacheable(make_depth_config(*whole), is_train=False)
    assert is_cacheable(make_depth_config(*whole, "TEST.MIRROR", False), is_train=False)


def test_latents_are_cached_in_training_where_no_depth_is_drawn_into_images(
    make_depth_config, tmp_path
):
    whole = ("INPUT.CROP.ENABLED", False, "INPUT.COLOR_AUG_DEPTH", False)
    cached = (*whole, "INPUT.CUT_DEPTH", 0.0, "MODEL.DIFFUSION.LATENT_CACHE.FOLDER", str(tmp_path))
    assert not is_cacheable(make_depth_config(*whole, "INPUT.CUT_DEPTH", 0.5), is_train=True)
    plain, cfg = make_depth_config(*whole, "INPUT.CUT_DEPTH", 0.0), make_depth_config(*cached)
    (entry, *_) = load_dataset(cfg, cfg.DATASETS.TRAIN[0], training=True)
    inputs = []
    for own in (plain, cfg):
        with seeded("test"):
            inputs.append(ConditionedMapper(own, is_train=True)(entry))
    assert "latents" in inputs[1] and torch.equal(*(one["depth"] for one in inputs))


def test_color_changes_leave_depth_alone_and_reach_their_ranges(mapper, ramp):
    mapper = mapper("INPUT.COLOR_AUG_DEPTH", True, "INPUT.CROP.ENABLED", False)
    images = []
    for number in range(30):
        with seeded("test", number):
            inputs = mapper(ramp)
        images.append(inputs["image"].float().mean().item())
        first = inputs["depth"][5]
        torch.testing.assert_close(first.sort().values, 1 + torch.arange(96) / 100)
    assert len(set(images)) > 20
    assert 0 < min(images) and max(images) < 47.5 * 1.2 + 0.2 * 255 + 25


def test_own_data_with_depth(tmp_path, ramp):
    from detectron2.data import DatasetCatalog

    DatasetCatalog.register("own_depth", lambda: [{**ramp, "image_id": "1"} for ramp in [ramp]])
    meta = MetadataCatalog.get("own_depth")
    meta.set(evaluator_type="depth", depth_unit=0.01, depth_range=(0.1, 80.0), depth_crop="none")
    try:
        (entry,) = read_known("own_depth")
        assert read_depth(entry["depth_file_name"], entry["depth_unit"]).max() == pytest.approx(
            19.5
        )
    finally:
        DatasetCatalog.remove("own_depth")
        MetadataCatalog.remove("own_depth")


def test_a_transform_of_the_two_bytes_is_one_of_the_number():
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    pairs = values.view(np.uint8).reshape(3, 4, 2)
    for transform in (T.HFlipTransform(4), T.CropTransform(1, 0, 2, 3)):
        moved = np.ascontiguousarray(transform.apply_segmentation(pairs)).view(np.uint16)[..., 0]
        assert np.array_equal(moved, transform.apply_segmentation(values))


def test_a_copy_elsewhere_is_not_needed(scenes, tmp_path):
    """An id is the path below the root, wherever that is."""
    other = shutil.copytree(scenes.root, tmp_path / "moved" / "sync")
    ids = [entry["image_id"] for entry in load_scenes(SceneFolders(Path(other)), "mine", 0.001)]
    assert ids == [entry["image_id"] for entry in load_scenes(scenes, "mine", 0.001)]
