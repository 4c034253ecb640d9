"""Means, spreads and bootstrap intervals against computations that share no code with them."""

import itertools
import statistics

import numpy as np
import pytest

from tadp_d2.reports.spread import RESAMPLES, bootstrap_interval, paired_difference, spread


def test_spread_is_the_sample_standard_deviation():
    values = [42.1, 43.5, 41.0, 44.2]
    found = spread(values)
    assert found.mean == pytest.approx(statistics.mean(values))
    assert found.deviation == pytest.approx(statistics.stdev(values))
    assert found.number == 4
    assert spread([42.1]).deviation is None
    assert spread([]) is None


def test_only_the_seeds_of_both_are_paired():
    found = paired_difference({1: 5.0, 2: 7.0, 9: 100.0}, {2: 4.0, 1: 1.0, 3: -100.0})
    assert (found.mean, found.pairs) == (3.5, 2)
    assert found.interval is None  # fewer than three pairs
    assert paired_difference({1: 5.0}, {2: 5.0}) is None


@pytest.mark.parametrize("samples", [[0.4, -1.3, 2.9], [1.0, 2.0, 4.0, 8.0], [3.0] * 5])
def test_the_interval_is_that_of_all_possible_resamples(samples):
    # Of n values there are n^n resamples, which are few enough to enumerate.
    means = sorted(map(statistics.mean, itertools.product(samples, repeat=len(samples))))
    low, high = bootstrap_interval(np.array(samples), seed=0)
    # 10 000 draws find a quantile's probability to 0.5 %, more than three standard errors.
    for bound, level in ((low, 0.025), (high, 0.975)):
        below = sum(mean < bound - 1e-9 for mean in means) / len(means)
        not_above = sum(mean <= bound + 1e-9 for mean in means) / len(means)
        assert below - 0.005 <= level <= not_above + 0.005


def test_the_interval_of_three_pairs_spans_them_all():
    # The least mean of three has a probability of 1 / 27, more than the 2.5 % of an end.
    values, null = {1: 3.0, 2: 5.0, 3: 4.0}, {1: 1.0, 2: 2.0, 3: 3.0}
    assert paired_difference(values, null).interval == (1.0, 3.0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    trials = [bootstrap_interval(generator.normal(size=30), seed) for seed in range(300)]
    covered = np.mean([low <= 0 <= high for low, high in trials])
    # The percentile bootstrap of 30 values covers a little less than 95 %.
    assert 0.90 <= covered <= 0.97


def test_the_same_seed_gives_the_same_interval():
    samples = np.array([0.1, 0.7, -0.3, 0.2])
    draws = np.random.default_rng(5).integers(4, size=(RESAMPLES, 4))
    means = sorted(statistics.fmean(samples[i] for i in draw) for draw in draws)
    # numpy's linear interpolation between order statistics
    place = 0.025 * (RESAMPLES - 1)
    low = means[int(place)] + (place % 1) * (means[int(place) + 1] - means[int(place)])
    assert bootstrap_interval(samples, seed=5)[0] == pytest.approx(low)
    assert bootstrap_interval(samples, seed=5) == bootstrap_interval(samples, seed=5)
