"""The training data as an endless sequence of draws, numbered from 0, and batches of them.

What a draw is depends on its number and the seed alone, so that a run can begin anywhere in it, and
with any number of workers.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from detectron2.utils import comm
from torch.utils.data import BatchSampler, Dataset, Sampler

from tadp_d2.data.batches import BatchLoader
from tadp_d2.randomness import derive_seed, seeded


class TrainingStream(Dataset):
    """All entries in random order, again and again in another one; `stream[n]` is the n-th draw."""

    def __init__(
        self,
        entries: Sequence[dict[str, Any]],
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
        seed: int,
        by_image: bool = False,
    ):
        """
        Args:
            mapper: maps an entry to the model's input, drawing from the global generators.
            by_image: the entries of an image, by its "file_name", follow each other.
        """
        self._entries = entries
        self._mapper = mapper
        self._seed = seed
        self._images = None
        if by_image:
            files = [entry["file_name"] for entry in entries]
            self._images = np.unique(files, return_inverse=True)[1]
        self._epoch, self._order = -1, np.empty(0, int)

    def __getitem__(self, draw: int) -> dict[str, Any]:
        epoch, place = divmod(draw, len(self._entries))
        if epoch != self._epoch:
            generator = np.random.default_rng(derive_seed("order", self._seed, epoch))
            self._epoch, self._order = epoch, self._draw_order(generator)
        with seeded("augmentation", self._seed, draw):
            return self._mapper(self._entries[int(self._order[place])])

    def _draw_order(self, generator: np.random.Generator) -> np.ndarray:
        order = generator.permutation(len(self._entries))
        if self._images is None:
            return order
        places = generator.permutation(self._images.max() + 1)
        return order[np.argsort(places[self._images[order]], kind="stable")]


class DrawSampler(Sampler):
    """The draws from `start` on; processes take turns."""

    def __init__(self, start: int):
        self._first = start + comm.get_rank()
        self._step = comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self._first, self._step)


def build_loader(stream: TrainingStream, start: int, batch_size: int, workers: int) -> BatchLoader:
    """Batches of a stream, lists of inputs, as Detectron2's training loader makes them.

    Detectron2's own cannot begin anywhere: some versions draw in the workers, and it groups by
    aspect ratio.

    Args:
        start: the first draw, over all processes.
        batch_size: of this process.
    """
    return BatchLoader(
        stream, BatchSampler(DrawSampler(start), batch_size, drop_last=True), workers
    )
