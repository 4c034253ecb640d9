"""Batches of inputs, also from worker processes: none is lost or waited for without end."""

import contextlib
import functools
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from detectron2.data.build import trivial_batch_collator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tadp_d2.data.images import pixel_limit, set_pixel_limit
from tadp_d2.errors import UserError, reason

# Where Linux keeps shared memory.
SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_ADVICE = "make it larger (docker run --shm-size=8g) or set DATALOADER.NUM_WORKERS 0"
# Seconds for one batch after which its worker counts as stuck.
_PATIENCE = 600


class BatchLoader(DataLoader):
    """Lists of inputs, as Detectron2's loaders make them.

    A worker that dies, is stuck or cannot hand its batch over ends the iteration with a
    `UserError`. Other errors of workers come as they are.
    """

    def __init__(self, dataset: Dataset, batch_sampler: Sampler, workers: int):
        """
        Args:
            workers: processes that load; 0 for this one.
        """
        super().__init__(
            dataset,
            batch_sampler=batch_sampler,
            num_workers=workers,
            collate_fn=_hand_over if workers else trivial_batch_collator,
            worker_init_fn=worker_start(),
            timeout=_PATIENCE if workers else 0,
        )

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        try:
            batches = super().__iter__()
        except OSError as error:
            raise UserError(
                f"loading workers cannot be started ({reason(error)}); {_free()}"
            ) from None
        return _watched(batches)


def _watched(batches: Iterator) -> Iterator[list[dict[str, Any]]]:
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            # So torch begins its messages about the processes themselves.
            if not str(error).startswith("DataLoader "):
                raise
            end_workers()
            raise UserError(
                f"loading failed: {reason(error)}. A worker is killed where memory runs out: set "
                "fewer DATALOADER.NUM_WORKERS, or 0; it is stuck where the disk of a data set does "
                f"not answer. {_free()}"
            ) from None
        yield batch


def end_workers() -> None:
    """Kills the workers of this process: when it ends it would wait for those that are stuck."""
    # torch's handler would raise that a worker was killed.
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join(timeout=1)
    signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def _hand_over(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Moves the tensors of a batch into shared memory, in a worker.

    torch would do so later, in a thread whose error nobody hears of.
    """
    try:
        _share(batch)
    except RuntimeError as error:
        raise UserError(
            f"a loading worker cannot hand over its batch ({reason(error)}): {_free()}"
        ) from None
    return batch


def _share(value: Any) -> None:
    if isinstance(value, Tensor):
        value.share_memory_()
    elif isinstance(value, dict):
        _share(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            _share(part)
    elif hasattr(value, "__dict__"):  # such as Detectron2's Instances and their boxes
        _share(list(vars(value).values()))


def _free() -> str:
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(SHARED_MEMORY)
        return (
            f"shared memory, {SHARED_MEMORY}, has {usage.free >> 10} of {usage.total >> 10} KiB "
            f"free: {SHARED_MEMORY_ADVICE}"
        )
    return SHARED_MEMORY_ADVICE


def worker_start() -> Callable[[int], None]:
    """What a loader's worker does first, also one that does not inherit this process's state."""
    return functools.partial(_start, pixel_limit())


def _start(limit: int, worker: int) -> None:
    set_pixel_limit(limit)
    # A signal may go to all processes of a run: the run has to save first, and ends its workers
    # itself.
    os.setpgid(0, 0)
    # Not the run's handler, which a forked worker inherits; for SIGTERM torch sets its own.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
