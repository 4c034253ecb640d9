"""Batches from loading workers: the same as without, and a message where none comes."""

import gc
import multiprocessing
import os
import signal

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch.utils.data import Dataset

from tadp_d2.data import batches as module
from tadp_d2.data.batches import BatchLoader
from tadp_d2.errors import UserError

BATCHES = [[0, 1], [2, 3], [4]]


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    """torch looks soon how its workers are, also when the iterator of a test is taken down."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5)
    yield
    gc.collect()


class Inputs(Dataset):
    """Inputs as a mapper makes them; before it returns the third, `act` is called."""

    def __init__(self, act=lambda: None):
        self._act = act

    def __getitem__(self, index):
        if index == 2:
            self._act()
        instances = Instances((4, 5), gt_boxes=Boxes(torch.full((1, 4), float(index))))
        return {"image": torch.full((3, 4, 5), index), "instances": instances, "name": str(index)}


def load(act=lambda: None, workers=2):
    return list(BatchLoader(Inputs(act), BATCHES, workers))


def stop():
    os.kill(os.getpid(), signal.SIGKILL)


def stop_for_ever():
    """Also a signal to end does not reach it."""
    os.kill(os.getpid(), signal.SIGSTOP)


def fail(error):
    def act():
        raise error

    return act


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_the_same_with_any_number_of_workers(workers):
    found = load(workers=workers)
    assert [[item["name"] for item in batch] for batch in found] == [["0", "1"], ["2", "3"], ["4"]]
    for item in (item for batch in found for item in batch):
        assert torch.equal(item["image"], torch.full((3, 4, 5), int(item["name"])))
        assert item["instances"].gt_boxes.tensor.tolist() == [[float(item["name"])] * 4]


def test_too_little_shared_memory_ends_the_run(monkeypatch):
    def refuse(tensor):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space")

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    with pytest.raises(UserError, match="cannot hand over its batch .*unable to allocate") as error:
        load()
    assert "set DATALOADER.NUM_WORKERS 0" in str(error.value)
    assert "Traceback" not in str(error.value)
    assert len(load(workers=0)) == 3


def test_a_worker_that_is_killed_ends_the_run():
    with pytest.raises(UserError, match="loading failed: DataLoader worker .*NUM_WORKERS"):
        load(stop)


def test_a_worker_that_is_stuck_ends_the_run(monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 1)
    with pytest.raises(UserError, match="loading failed: DataLoader timed out after 1 seconds"):
        load(stop_for_ever)
    assert not multiprocessing.active_children()


def test_workers_that_cannot_be_started(monkeypatch):
    def refuse(loader):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.DataLoader, "__iter__", refuse)
    with pytest.raises(UserError, match="workers cannot be started .*No space left"):
        load()


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_the_data_come_as_they_are(workers):
    with pytest.raises(UserError, match="^a.jpg: damaged$"):
        load(fail(UserError("a.jpg: damaged")), workers)
    with pytest.raises(RuntimeError, match="a fault"):
        load(fail(RuntimeError("a fault")), workers)
