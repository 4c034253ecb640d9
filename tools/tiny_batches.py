"""The batches of a training, each drawn from a seed of its own, by several processes at a time."""

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset


class Batches(Dataset):
    """The batch of each step. It is the same whichever process draws it, and when."""

    def __init__(self, draw: Callable[[int], Any], seed: int, steps: int):
        """
        Args:
            draw: step -> its batch, of torch's random numbers alone.
        """
        self.draw, self.seed, self.steps = draw, seed, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * 1_000_000 + step)
            return self.draw(step)


def load(batches: Batches, first: int, workers: int, device: str) -> DataLoader:
    """The batches from a step on.

    Args:
        workers: processes that draw; 0 draws in this one.
        device: that the batches are for.
    """
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, len(batches)),
        num_workers=workers,
        pin_memory=device == "cuda",
        prefetch_factor=4 if workers else None,
        worker_init_fn=_keep_what_was_there,
    )


def _keep_what_was_there(worker: int) -> None:
    """A process must not free the tensors that its parent has on a GPU."""
    gc.freeze()
