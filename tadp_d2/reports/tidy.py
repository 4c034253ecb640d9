"""All numbers of a report as CSV: one line for each data set, modifier, setting and metric."""

import csv
import io
from collections.abc import Iterable, Sequence

from tadp_d2.reports.comparison import Comparison, Group
from tadp_d2.reports.spread import spread

COLUMNS = (
    *("data set", "images", "benchmark", "setting", "modifier", "metric set", "metric"),
    *("paper", "mean", "standard deviation", "seeds"),
    *("difference to null", "from", "to", "pairs"),
)


def results_csv(comparisons: Sequence[Comparison]) -> str:
    """Every metric of every group, classes included; an empty field is what there is not.

    `paper` is filled where the data set is the paper's. `from` and `to` are the ends of the 95 %
    interval of the difference to null.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for comparison in comparisons:
        for group in comparison.groups:
            for metric_set, metric in _metrics(group):
                writer.writerow(_line(comparison, group, metric_set, metric))
    return buffer.getvalue()


def _metrics(group: Group) -> Iterable[tuple[str, str]]:
    return dict.fromkeys(
        (metric_set, metric)
        for result in group.results.values()
        for metric_set, metrics in result.metrics.items()
        for metric in metrics
    )


def _line(comparison: Comparison, group: Group, metric_set: str, metric: str) -> list:
    found = spread(list(group.values(metric_set, metric).values()))
    is_null = group.modifier.name == "null"
    difference = None if is_null else comparison.to_null(group, metric_set, metric)[0]
    interval = difference.interval if difference else None
    return [
        *(comparison.dataset, comparison.images),
        comparison.benchmark.title if comparison.benchmark else None,
        *(group.setting, group.title, metric_set, metric),
        _published(comparison, group, metric_set, metric),
        *((found.mean, found.deviation, found.number) if found else (None, None, 0)),
        difference.mean if difference else None,
        *(interval or (None, None)),
        difference.pairs if difference else None,
    ]


def _published(comparison: Comparison, group: Group, metric_set: str, metric: str) -> float | None:
    benchmark = comparison.benchmark
    if not benchmark or metric_set != benchmark.metric_set or metric not in benchmark.metrics:
        return None
    values = benchmark.ours.get(group.title)
    return values[benchmark.metrics.index(metric)] if values else None
