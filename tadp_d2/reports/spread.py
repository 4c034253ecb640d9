"""What several seeds show: mean, spread, and whether a difference means anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Fewer pairs than this have no interval worth the name.
MIN_PAIRS = 3
LEVEL = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1) of a metric; None for the latter of one value."""

    mean: float
    deviation: float | None
    number: int


@dataclass(frozen=True)
class Difference:
    """Mean difference of pairs and its 95 % bootstrap interval; None for that of few pairs."""

    mean: float
    interval: tuple[float, float] | None
    pairs: int


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and spread of a metric over seeds; None of no values."""
    if not values:
        return None
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), deviation, len(values))


def paired_difference(
    values: Mapping[int, float], baseline: Mapping[int, float], seed: int = 0
) -> Difference | None:
    """How much better than a baseline: the mean over the seeds that both have.

    The interval is the percentile bootstrap's: of 10 000 resamples of the pairs, with replacement,
    the means between the 2.5th and the 97.5th percentile.

    Args:
        values, baseline: seed of a run -> its metric.
        seed: of the resampling.

    Returns:
        None where no seed is in both.
    """
    pairs = sorted(values.keys() & baseline.keys())
    if not pairs:
        return None
    differences = np.array([values[pair] - baseline[pair] for pair in pairs])
    interval = bootstrap_interval(differences, seed) if len(pairs) >= MIN_PAIRS else None
    return Difference(float(differences.mean()), interval, len(pairs))


def bootstrap_interval(samples: np.ndarray, seed: int) -> tuple[float, float]:
    """The percentile bootstrap's 95 % interval of a mean, of N samples."""
    indices = np.random.default_rng(seed).integers(len(samples), size=(RESAMPLES, len(samples)))
    low, high = np.quantile(samples[indices].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
