"""Runs put beside each other: by data set, setting and modifier, with their seeds together.

Results are of one setting where all but the modifier and the seed is equal; only these are averaged
and compared. Several settings of a data set are lettered, A the one with most results.
"""

import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tadp_d2.conditioning.domains import DOMAINS, Modifier
from tadp_d2.reports.published import BENCHMARKS, MODIFIER_TITLES, Benchmark
from tadp_d2.reports.runs import Result, Run
from tadp_d2.reports.spread import Difference, Spread, paired_difference, spread
from tadp_d2.tasks.metrics import KNOWN, MetricSet, by_name


@dataclass(frozen=True)
class Means:
    """Means of several metrics of a group, each over the same seeds.

    Attributes:
        seeds: those that have the first metric of which there is a value.
        spreads: one for each metric; None for one that a seed of `seeds` lacks.
        lacking: metric set and metric -> seeds of the group without it, for those of which another
            seed has a value.
    """

    seeds: Sequence[int]
    spreads: Sequence[Spread | None]
    lacking: Mapping[tuple[str, str], Sequence[int]]


@dataclass(frozen=True)
class Group:
    """Results of one modifier in one setting, which differ in the seed.

    Attributes:
        modifier: in testing.
        title: what the tables call it: its name, or its template.
        setting: letter of the setting.
        runs: by seed, in the order of the seeds.
    """

    dataset: str
    modifier: Modifier
    title: str
    setting: str
    runs: Mapping[int, Run]

    @property
    def results(self) -> Mapping[int, Result]:
        return {seed: run.results[self.dataset] for seed, run in self.runs.items()}

    def values(self, metric_set: str, metric: str) -> dict[int, float]:
        """Seed -> value, for the seeds that have one."""
        found = {s: r.metrics.get(metric_set, {}).get(metric) for s, r in self.results.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def means(self, metrics: Sequence[tuple[str, str]]) -> Means:
        """Means of metrics, by metric set and name, that may stand side by side."""
        values = {metric: self.values(*metric) for metric in metrics}
        seeds = next((list(own) for own in values.values() if own), [])
        spreads = [
            spread([own[seed] for seed in seeds]) if own.keys() >= set(seeds) else None
            for own in values.values()
        ]
        lacking = {
            metric: [seed for seed in self.runs if seed not in own]
            for metric, own in values.items()
            if own and len(own) < len(self.runs)
        }
        return Means(seeds, spreads, lacking)


@dataclass(frozen=True)
class Comparison:
    """All results on one data set.

    Attributes:
        dataset: its registered name.
        images: number of its images; None where no result records it.
        benchmark: the paper's data set that it is; None for all other data, also where it goes by
            the same name.
        settings: letter -> in what it differs from the others.
        groups: in the order of the paper's modifiers.
        notes: on runs that do not count.
    """

    dataset: str
    images: int | None
    benchmark: Benchmark | None
    settings: Mapping[str, str]
    groups: Sequence[Group]
    notes: Sequence[str] = ()

    @property
    def title(self) -> str:
        """The paper's name of its data set, or name and size of any other."""
        if self.benchmark:
            return self.benchmark.title
        images = "number of images not recorded" if self.images is None else f"{self.images} images"
        return f"{self.dataset} ({images})"

    def label(self, group: Group) -> str:
        """What a group is called: its title, and its setting's letter if there are several."""
        return f"{group.title} {group.setting}" if len(self.settings) > 1 else group.title

    @property
    def metric_sets(self) -> list[MetricSet]:
        """Those that occur: known ones by their worth, then others as result files have them."""
        occur = {name for g in self.groups for r in g.results.values() for name in r.metrics}
        described = {
            name: metric_set
            for group in self.groups
            for run in group.runs.values()
            for name, metric_set in run.metric_sets.items()
        }
        order = [*by_name(KNOWN), *described]
        return [
            described[name] for name in dict.fromkeys(order) if name in occur & described.keys()
        ]

    def classes(self, metric_set: MetricSet) -> dict[str, str]:
        """Class -> its metric, in the order of the result files."""
        if not metric_set.of_class:
            return {}
        prefix = f"{metric_set.of_class}-"
        return {
            metric.removeprefix(prefix): metric
            for group in self.groups
            for result in group.results.values()
            for metric in result.metrics.get(metric_set.name, {})
            if metric.startswith(prefix)
        }

    def to_null(self, group: Group, metric_set: str, *metrics: str) -> list[Difference | None]:
        """The differences of a modifier to null in the same setting, each over the seeds for which
        both have all of these metrics; None without any."""
        for other in self.groups:
            if other.setting == group.setting and other.modifier.name == "null":
                mine, null = ([g.values(metric_set, m) for m in metrics] for g in (group, other))
                seeds = set.intersection(*(set(own) for own in (*mine, *null)))
                common = ([{seed: own[seed] for seed in seeds} for own in g] for g in (mine, null))
                return list(map(paired_difference, *common))
        return [None] * len(metrics)


def compare(runs: Iterable[Run]) -> list[Comparison]:
    """Puts runs beside each other.

    Returns:
        The paper's data sets first, in its order; the others as they come.
    """
    by_data: dict[tuple[str, bool], list[Run]] = {}
    for run in runs:
        for dataset, result in run.results.items():
            by_data.setdefault((dataset, result.benchmark is not None), []).append(run)
    found = [_compare(dataset, own) for (dataset, _), own in by_data.items()]
    order = {benchmark.dataset: place for place, benchmark in enumerate(BENCHMARKS)}
    return sorted(found, key=lambda c: order[c.dataset] if c.benchmark else len(order))


def _compare(dataset: str, runs: Sequence[Run]) -> Comparison:
    settings = [run.results[dataset].setting for run in runs]
    # Equal ones are found by their text: their values are lists, too.
    counts = Counter(map(_key, settings))
    letters = {key: _letter(i) for i, (key, _) in enumerate(counts.most_common())}
    by_group: dict[tuple[str, str], list[Run]] = {}
    for run, setting in zip(runs, settings, strict=True):
        by_group.setdefault((letters[_key(setting)], run.modifier.template), []).append(run)
    first = runs[0].results[dataset]
    titles = _titles({run.modifier.template: run.modifier for run in runs}, first.benchmark)
    groups, notes = [], []
    for (letter, template), found in by_group.items():
        by_seed, left_out = _by_seed(found, dataset)
        groups.append(Group(dataset, found[0].modifier, titles[template], letter, by_seed))
        notes += left_out
    groups.sort(key=lambda group: (_rank(group.title), group.setting))
    told = _differences({letters[_key(setting)]: setting for setting in settings})
    images = [run.results[dataset].images for run in runs]
    known = next((number for number in images if number is not None), None)
    return Comparison(dataset, known, first.benchmark, told, groups, notes)


def _key(setting: Mapping[str, Any]) -> str:
    return repr(sorted(setting.items()))


def _letter(index: int) -> str:
    more, last = divmod(index, len(string.ascii_uppercase))
    return string.ascii_uppercase[last] + (str(more) if more else "")


def modifier_title(modifier: Modifier) -> str:
    """What a modifier is called where its domain is clear."""
    return MODIFIER_TITLES.get(modifier.name, modifier.template)


def _titles(modifiers: Mapping[str, Modifier], benchmark: Benchmark | None) -> dict[str, str]:
    """Template -> what it is called; itself where its name would mislead."""
    if benchmark:
        # A modifier of another domain is none of the paper's rows.
        known = {modifier.template for modifier in DOMAINS[benchmark.domain].modifiers.values()}
    else:
        names = Counter(modifier.name for modifier in modifiers.values())
        known = {template for template, m in modifiers.items() if names[m.name] == 1}
    return {t: modifier_title(m) if t in known else t for t, m in modifiers.items()}


def _rank(title: str) -> tuple[int, str]:
    order = list(MODIFIER_TITLES.values())
    return (order.index(title), "") if title in order else (len(order), title)


def _by_seed(runs: Sequence[Run], dataset: str) -> tuple[dict[int, Run], list[str]]:
    """One run for each seed, and notes on those that are left out.

    An evaluation may repeat what the run itself found, with more metrics. Trainings for two targets
    are one training as far as their source is concerned, but not to the last digit on a GPU.
    """
    found: dict[int, Run] = {}
    notes = []
    for run in runs:
        first = found.setdefault(run.seed, run)
        theirs, ours = (r.results[dataset].metrics for r in (first, run))
        if any(theirs[name] != ours[name] for name in theirs.keys() & ours.keys()):
            notes.append(
                f"{first.folder} and {run.folder} are both {run.modifier.name} with seed "
                f"{run.seed} in one setting, and their results differ: the former counts."
            )
        elif len(ours) > len(theirs):
            found[run.seed] = run
    return dict(sorted(found.items())), notes


def _differences(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Letter -> the values that are not the same in all settings."""
    keys = dict.fromkeys(key for setting in settings.values() for key in setting)
    told = [key for key in keys if len({repr(s.get(key)) for s in settings.values()}) > 1]
    return {
        letter: "; ".join(f"{key} {_short(setting.get(key))}" for key in told)
        for letter, setting in sorted(settings.items())
    }


def _short(value: Any) -> str:
    """A value, of a fingerprint its beginning."""
    text = "not stated" if value is None else str(value) or "empty"
    return text[:8] if len(text) == 64 else text
