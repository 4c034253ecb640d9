"""Randomness that depends on what is drawn and not on what was drawn before.

A seed is derived from a key, such as (run, iteration, process). So nothing of a generator's state
has to be kept to continue a run, and the number of data-loading workers does not matter.
"""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def derive_seed(*key: int) -> int:
    """A seed of 64 bits; each number of the key is 0 or more."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seeds the global generators of Python, NumPy and PyTorch (CPU); restores them afterwards."""
    seed = derive_seed(*key)
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
