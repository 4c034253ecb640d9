"""The synthetic data sets for segmentation: layout, determinism, labels, captions."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tadp_d2.data.texts import read_captions
from tadp_d2.errors import UserError
from tadp_d2.synthetic import data_folder
from tadp_d2.synthetic.parallel import in_processes
from tadp_d2.synthetic.refer_data_sets import ReferSizes
from tadp_d2.synthetic.room_data_sets import RoomSizes
from tadp_d2.synthetic.sizes import PARTS
from tadp_d2.synthetic.street_data_sets import StreetSizes, write_street_data_sets
from tadp_d2.synthetic.voc_data_sets import VocSizes

SIZES = StreetSizes(*[2] * 6)
ZURICH, NIGHTTIME = "dark_zurich/rgb_anon", "NighttimeDrivingTest"
COARSE = f"{NIGHTTIME}/gtCoarse_daytime_trainvaltest/test"
# Data set -> folder of the split; how an image id looks; folder and ending of the labels.
DATASETS = {
    "cityscapes_train": (
        "cityscapes/leftImg8bit/train",
        r"([a-z]+)/(\1_\d{6}_\d{6})_leftImg8bit\.png",
        ("cityscapes/gtFine/train", "_gtFine_labelTrainIds.png"),
    ),
    "cityscapes_val": (
        "cityscapes/leftImg8bit/val",
        r"([a-z]+)/(\1_\d{6}_\d{6})_leftImg8bit\.png",
        ("cityscapes/gtFine/val", "_gtFine_labelTrainIds.png"),
    ),
    "cityscapes_foggy_val": (
        "cityscapes/leftImg8bit_foggy/val",
        r"([a-z]+)/(\1_\d{6}_\d{6})_leftImg8bit_foggy_beta_0\.02\.png",
        ("cityscapes/gtFine/val", "_gtFine_labelTrainIds.png"),
    ),
    "dark_zurich_train": (
        f"{ZURICH}/train",
        r"(night/GOPR\d{4})/(GOPR\d{4}_frame_\d{6})_rgb_anon\.png",
        None,
    ),
    "dark_zurich_val": (
        f"{ZURICH}/val",
        r"(night/GOPR\d{4})/(GOPR\d{4}_frame_\d{6})_rgb_anon\.png",
        ("dark_zurich/gt/val", "_gt_labelTrainIds.png"),
    ),
    "dark_zurich_test": (
        f"{ZURICH}/test",
        r"(night/GOPR\d{4})/(GOPR\d{4}_frame_\d{6})_rgb_anon\.png",
        None,
    ),
    "nighttime_driving_test": (
        f"{NIGHTTIME}/leftImg8bit/test",
        r"(night)/(\d_frame_\d{4})_leftImg8bit\.png",
        (COARSE, "_gtCoarse_labelTrainIds.png"),
    ),
}


@pytest.fixture(scope="module")
def streets(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("streets")
    write_street_data_sets(root, seed=3, sizes=SIZES)
    return root


def file_hashes(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.*"))
    }


def captions(root: Path, dataset: str) -> dict[str, str]:
    return dict(read_captions(root / "captions" / f"{dataset}.jsonl").captions)


def labels_of(dataset: str, image_id: str) -> str | None:
    """Path of the labels, by name."""
    _, pattern, labels = DATASETS[dataset]
    group, stem = re.fullmatch(pattern, image_id).groups()
    return f"{labels[0]}/{group}/{stem}{labels[1]}" if labels else None


def test_same_seed_same_bytes_and_other_seed_other_images(streets, tmp_path):
    for name, seed in (("same", 3), ("other", 4)):
        (tmp_path / name).mkdir()
        write_street_data_sets(tmp_path / name, seed, SIZES)
    ours, others = file_hashes(streets), file_hashes(tmp_path / "other")
    assert file_hashes(tmp_path / "same") == ours
    assert ours.keys() == others.keys()
    assert all(ours[name] != others[name] for name in ours if name.endswith(".png"))


def test_a_larger_split_changes_nothing_else(streets, tmp_path):
    larger = replace(SIZES, cityscapes_val=4, dark_zurich_val=3)
    write_street_data_sets(tmp_path, seed=3, sizes=larger)
    before, after = file_hashes(streets), file_hashes(tmp_path)
    images = [name for name in before if name.endswith(".png")]
    assert all(before[name] == after[name] for name in images)
    assert len(after) == len(before) + 3 * 2 + 2 * 1


def test_files_are_the_images_of_the_captions_and_their_labels(streets):
    expected = {f"captions/{dataset}.jsonl" for dataset in DATASETS}
    for dataset, (folder, pattern, _) in DATASETS.items():
        ids = list(captions(streets, dataset))
        assert len(ids) == 2
        assert all(re.fullmatch(pattern, image_id) for image_id in ids), ids
        expected |= {f"{folder}/{image_id}" for image_id in ids}
        expected |= {labels_of(dataset, image_id) for image_id in ids} - {None}
    assert set(file_hashes(streets)) == expected


def test_splits_have_two_groups_and_share_none(streets):
    groups = {}
    for dataset in DATASETS:
        groups[dataset] = {image_id.rpartition("/")[0] for image_id in captions(streets, dataset)}
    assert groups["nighttime_driving_test"] == {"night"}
    assert all(len(g) >= 2 for name, g in groups.items() if name != "nighttime_driving_test")
    assert not groups["cityscapes_train"] & groups["cityscapes_val"]
    assert not groups["dark_zurich_train"] & groups["dark_zurich_val"]


def test_labels_fit_their_images(streets):
    for dataset, (folder, _, _) in DATASETS.items():
        size = (512, 256) if dataset.startswith("cityscapes") else (480, 270)
        for image_id in captions(streets, dataset):
            with Image.open(streets / folder / image_id) as image:
                assert (image.format, image.mode, image.size) == ("PNG", "RGB", size)
            path = labels_of(dataset, image_id)
            if path:
                with Image.open(streets / path) as labels:
                    assert (labels.format, labels.mode, labels.size) == ("PNG", "L", size)
                    assert set(np.unique(labels)) <= {*range(19), 255}


def test_foggy_images_are_those_of_val(streets):
    clear, foggy = captions(streets, "cityscapes_val"), captions(streets, "cityscapes_foggy_val")
    assert list(clear.values()) == list(foggy.values())
    for first, second in zip(clear, foggy, strict=True):
        assert labels_of("cityscapes_val", first) == labels_of("cityscapes_foggy_val", second)


def test_progress_counts_every_scene(tmp_path):
    calls = []
    sizes = StreetSizes(*[2] * 6)
    write_street_data_sets(tmp_path, 0, sizes, progress=lambda *call: calls.append(call))
    assert calls == [(n, 12) for n in range(1, 13)]


def test_the_whole_folder_counts_all_of_its_parts(tmp_path):
    calls = []
    data_folder.write_data_folder(
        tmp_path / "world",
        sizes=VocSizes(*[2] * 7),
        street_sizes=StreetSizes(*[2] * 6),
        room_sizes=RoomSizes(2, 2, 2),
        refer_sizes=ReferSizes(*[2] * 6),
        progress=lambda *call: calls.append(call),
    )
    assert calls == [(n, 44) for n in range(1, 45)]
    names = {path.name for path in (tmp_path / "world").iterdir()}
    assert {"VOC2007", "cityscapes", "dark_zurich", NIGHTTIME, "captions", "nyu_depth_v2"} <= names


def test_parts_drawn_one_by_one_are_those_drawn_at_once(tmp_path):
    calls = []
    sizes = {
        "sizes": VocSizes(*[2] * 7),
        "street_sizes": StreetSizes(*[2] * 6),
        "room_sizes": RoomSizes(2, 2, 2),
        "refer_sizes": ReferSizes(*[2] * 6),
    }
    data_folder.write_data_folder(tmp_path / "whole", **sizes)
    grown = tmp_path / "grown"
    for parts in (["expressions"], ["detection"], ["streets", "rooms"], PARTS):
        data_folder.write_data_folder(
            grown, **sizes, parts=parts, progress=lambda *call: calls.append(call)
        )
    assert [total for done, total in calls if done == total] == [12, 14, 18]
    assert _contents(grown) == _contents(tmp_path / "whole")
    with pytest.raises(UserError, match="seed 0 .*streets.json.*not 1"):
        data_folder.write_data_folder(grown, 1, **sizes)


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("size", [0, 1, 5001])
def test_a_size_out_of_range_is_named(size):
    with pytest.raises(UserError, match=f"dark_zurich_val.*{size}"):
        StreetSizes(dark_zurich_val=size)


def test_a_negative_seed_is_named(tmp_path):
    with pytest.raises(UserError, match="seed.*-1"):
        write_street_data_sets(tmp_path, seed=-1)
    assert not any(tmp_path.iterdir())


def test_several_processes_write_the_same_in_the_same_order():
    jobs = [(base, exponent) for base in range(2, 7) for exponent in range(40)]
    calls = []
    expected = [base**exponent for base, exponent in jobs]
    assert in_processes(pow, jobs, lambda *call: calls.append(call)) == expected
    assert calls == [(n, 200) for n in range(1, 201)]
    assert in_processes(pow, jobs[:5]) == expected[:5]
