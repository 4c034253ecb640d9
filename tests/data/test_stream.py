"""The training data as numbered draws: the same from any start, with any number of workers."""

import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tadp_d2.data.batches import worker_start
from tadp_d2.data.images import set_pixel_limit
from tadp_d2.data.loader import build_train_loader
from tadp_d2.data.stream import DrawSampler, TrainingStream

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def identity(entry):
    return entry


def test_each_epoch_is_all_entries_in_an_order_of_its_own():
    stream = TrainingStream([{"id": index} for index in range(7)], identity, seed=3)
    epochs = [[stream[7 * epoch + place]["id"] for place in range(7)] for epoch in range(5)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_a_draw_depends_on_its_number_and_the_seed_alone():
    entries = [{"id": index} for index in range(50)]
    forward = TrainingStream(entries, identity, seed=3)
    backward = TrainingStream(entries, identity, seed=3)
    found = {draw: backward[draw] for draw in reversed(range(120))}
    assert [forward[draw] for draw in range(120)] == [found[draw] for draw in range(120)]
    other = TrainingStream(entries, identity, seed=4)
    assert [other[draw]["id"] for draw in range(50)] != [found[draw]["id"] for draw in range(50)]


def test_the_entries_of_an_image_follow_each_other():
    entries = [{"id": n, "file_name": f"{n % 4}.jpg"} for n in range(14)]
    stream = TrainingStream(entries, identity, seed=3, by_image=True)
    drawn = [[stream[14 * epoch + n] for n in range(14)] for epoch in range(3)]
    files = [[entry["file_name"] for entry in epoch] for epoch in drawn]
    for epoch, own in zip(drawn, files, strict=True):
        assert sorted(entry["id"] for entry in epoch) == list(range(14))
        assert sum(a != b for a, b in itertools.pairwise(own)) == 3
    # In another order each time, of the images and within them.
    assert len({tuple(dict.fromkeys(own)) for own in files}) > 1
    assert len({tuple(e["id"] for e in own if e["id"] % 4 == 0) for own in drawn}) > 1


def test_processes_take_turns(monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    samplers = []
    for rank in range(2):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        samplers.append(DrawSampler(10))
    taken = [list(itertools.islice(sampler, 3)) for sampler in samplers]
    assert taken == [[10, 12, 14], [11, 13, 15]]


def batches(cfg, count, start=0):
    loader = build_train_loader(cfg, start)
    return list(itertools.islice(loader, count))


def same(first, second):
    for one, other in zip(first, second, strict=True):
        assert [inputs["image_id"] for inputs in one] == [inputs["image_id"] for inputs in other]
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a["image"], b["image"])
            assert torch.equal(a["sem_seg"], b["sem_seg"])


def test_crops_and_colours_do_not_depend_on_the_workers_or_on_the_start(make_segmentation_config):
    expected = batches(make_segmentation_config(), 5)
    same(batches(make_segmentation_config("DATALOADER.NUM_WORKERS", 2), 5), expected)
    same(batches(make_segmentation_config(), 3, start=8), expected[2:])
    other = batches(make_segmentation_config("SEED", 2), 1)[0][0]["image"]
    assert not torch.equal(other, expected[0][0]["image"])


def test_augmenting_leaves_the_global_random_states_alone(make_segmentation_config):
    np.random.seed(5)
    torch.manual_seed(5)
    expected = np.random.rand(), torch.rand(1)
    np.random.seed(5)
    torch.manual_seed(5)
    loader = build_train_loader(make_segmentation_config())
    loader.dataset[0]
    assert (np.random.rand(), torch.rand(1)) == expected


def test_a_worker_that_is_started_anew_has_the_pixel_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    Image.new("L", (100, 100)).save(tmp_path / "a.png")
    set_pixel_limit(9_999)
    (tmp_path / "start").write_bytes(pickle.dumps(worker_start()))
    code = (
        "import pickle; pickle.load(open('start', 'rb'))(0)\n"
        "from tadp_d2.data.images import read_size; read_size('a.png')"
    )
    worker = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert "100 x 100 are more than 9999 pixels" in worker.stderr
