"""The training data as an endless sequence of draws, numbered from 0.

What a draw is depends on its number and the seed alone, so that a run can begin anywhere in it.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from detectron2.utils import comm
from torch.utils.data import Dataset, Sampler

from tadp_d2.randomness import derive_seed


class TrainingStream(Dataset):
    """All entries in random order, again and again in another one.

    `stream[n]` is the entry of the n-th draw with the key "draw", n.
    """

    def __init__(self, entries: Sequence[dict[str, Any]], seed: int):
        self._entries = entries
        self._seed = seed
        self._epoch, self._order = -1, np.empty(0, int)

    def __len__(self) -> int:
        """The number of entries; there are more draws."""
        return len(self._entries)

    def __getitem__(self, draw: int) -> dict[str, Any]:
        epoch, place = divmod(draw, len(self._entries))
        if epoch != self._epoch:
            generator = np.random.default_rng(derive_seed(self._seed, epoch))
            self._epoch, self._order = epoch, generator.permutation(len(self._entries))
        return {**self._entries[int(self._order[place])], "draw": draw}


class DrawSampler(Sampler):
    """The draws from `start` on; processes take turns."""

    def __init__(self, start: int):
        self._start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self._start + comm.get_rank(), comm.get_world_size())
