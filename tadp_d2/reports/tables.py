"""The tables of a report. A number that was not run is a dash."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tadp_d2.reports.comparison import Comparison, Group, Means, modifier_title
from tadp_d2.reports.published import (
    BENCHMARKS,
    MODIFIER_TITLES,
    Benchmark,
    PublishedRows,
    find_benchmark,
    find_published_rows,
)
from tadp_d2.reports.runs import Run
from tadp_d2.reports.spread import Difference, Spread
from tadp_d2.tasks.metrics import Metric, MetricSet

DASH = "-"


@dataclass(frozen=True)
class Cell:
    """A text, and the number that it stands for, by which a column is sorted."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Row:
    """Cells; the first names the row. `modifier` is what a reader may filter by, if anything."""

    cells: Sequence[Cell]
    modifier: str = ""


@dataclass(frozen=True)
class Table:
    """A table with notes below it; `dataset` is what a reader may filter by."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    dataset: str = ""


def number(value: float | None, sign: str = "") -> Cell:
    """A metric with one decimal, as in the paper."""
    return Cell(DASH) if value is None else Cell(f"{value:{sign}.1f}", value)


def mean_cell(found: Spread | None, decimals: int = 1) -> Cell:
    """Mean and deviation over seeds; a dash where there are none."""
    if found is None:
        return Cell(DASH)
    deviation = "" if found.deviation is None else f" ± {found.deviation:.{decimals}f}"
    return Cell(f"{found.mean:.{decimals}f}{deviation}", found.mean)


def overview(comparisons: Sequence[Comparison]) -> Table:
    """All target data sets of the paper in one table, as in the README."""
    found = {c.benchmark.dataset: c for c in comparisons if c.benchmark}
    columns = [""]
    for benchmark in BENCHMARKS:
        columns += [f"{benchmark.title} {' / '.join(benchmark.metrics)}, paper", "ours"]
    rows = []
    for title in MODIFIER_TITLES.values():
        cells = [Cell(title)]
        for benchmark in BENCHMARKS:
            comparison = found.get(benchmark.dataset)
            group = _find(comparison, title, "A") if comparison else None
            published = [number(value) for value in benchmark.ours[title]]
            cells += [_joined(published), _ours(group, benchmark)]
        rows.append(Row(cells, title))
    several = any(len(comparison.settings) > 1 for comparison in found.values())
    notes = ["Ours are those of setting A."] if several else []
    return Table("The paper's target data sets", columns, rows, notes)


def _ours(group: Group | None, benchmark: Benchmark) -> Cell:
    means = _paper_means(group, benchmark)
    cell = _joined([mean_cell(own) for own in means.spreads])
    if not means.seeds:
        return cell
    return replace(cell, text=f"{cell.text} ({count_of_seeds(means)})")


def count_of_seeds(means: Means) -> str:
    """Of how many seeds means are, in words."""
    return f"{len(means.seeds)} seed{'s' if len(means.seeds) != 1 else ''}"


def _joined(cells: Sequence[Cell]) -> Cell:
    texts = [cell.text for cell in cells]
    return Cell(DASH) if set(texts) == {DASH} else Cell(" / ".join(texts), cells[0].value)


def _find(comparison: Comparison, title: str, setting: str) -> Group | None:
    wanted = (title, setting)
    return next((g for g in comparison.groups if (g.title, g.setting) == wanted), None)


def _paper_means(group: Group | None, benchmark: Benchmark) -> Means:
    metrics = [(benchmark.metric_set, metric) for metric in benchmark.metrics]
    return group.means(metrics) if group else Means((), [None] * len(metrics), {})


def paper_table(benchmark: Benchmark, comparison: Comparison | None) -> Table:
    """Ours beside the paper's numbers of one target data set (TADP, tables 4 and 5).

    Args:
        comparison: the results on that data set; None if there are none.
    """
    groups = list(comparison.groups) if comparison else []
    lettered = bool(comparison) and len(comparison.settings) > 1
    columns = ["method", *(["setting"] if lettered else [])]
    for metric in benchmark.metrics:
        columns += [f"{metric}, paper", f"{metric}, ours", "difference"]
    columns.append("seeds")
    rows = [
        _paper_row(benchmark, method, values, None, lettered)
        for method, values in benchmark.others.items()
    ]
    for title, values in benchmark.ours.items():
        own = [group for group in groups if group.title == title]
        rows += [_paper_row(benchmark, f"TADP {title}", values, group, lettered) for group in own]
        if not own:
            row = _paper_row(benchmark, f"TADP {title}", values, None, lettered)
            rows.append(replace(row, modifier=title))
    nothing = (None,) * len(benchmark.metrics)
    rows += [
        _paper_row(benchmark, f"TADP {group.title}", nothing, group, lettered)
        for group in groups
        if group.title not in benchmark.ours
    ]
    title = f"{benchmark.title} (the paper's table {benchmark.table})"
    lacking = [note for group in groups for note in _lacking(group, _paper_means(group, benchmark))]
    notes = [*(_notes(comparison) if comparison else []), *lacking]
    return Table(title, columns, rows, notes, benchmark.dataset)


def _paper_row(
    benchmark: Benchmark,
    title: str,
    published: Sequence[float | None],
    group: Group | None,
    lettered: bool,
) -> Row:
    cells = [Cell(title)]
    if lettered:
        cells.append(Cell(group.setting if group else DASH))
    means = _paper_means(group, benchmark)
    for own, value in zip(means.spreads, published, strict=True):
        difference = own.mean - value if own and value is not None else None
        cells += [number(value), mean_cell(own), number(difference, "+")]
    cells.append(_count(means) if group else Cell(DASH))
    return Row(cells, modifier_title(group.modifier) if group else "")


def _count(means: Means) -> Cell:
    return Cell(str(len(means.seeds)), len(means.seeds))


def _lacking(group: Group, means: Means) -> list[str]:
    """Notes on seeds that have not all of a row's metrics."""
    return [
        f"{group.title}: no {metric} ({metric_set}) of seed {', '.join(map(str, seeds))}."
        for (metric_set, metric), seeds in means.lacking.items()
    ]


def results_table(comparison: Comparison) -> Table:
    """Results on data that is not the paper's, such as a source or a synthetic data set."""
    metrics = [(own, metric) for own in comparison.metric_sets for metric in own.means]
    lettered = len(comparison.settings) > 1
    columns = ["modifier", *(["setting"] if lettered else [])]
    columns += [own.titled(metric) for own, metric in metrics]
    rows, lacking = [], []
    for group in comparison.groups:
        means = group.means([(own.name, metric.name) for own, metric in metrics])
        cells = [Cell(group.title), *([Cell(group.setting)] if lettered else [])]
        decimals = [metric.decimals for _, metric in metrics]
        cells += [*map(mean_cell, means.spreads, decimals), _count(means)]
        rows.append(Row(cells, modifier_title(group.modifier)))
        lacking += _lacking(group, means)
    published = find_published_rows(comparison.dataset)
    if published and published.entries == comparison.images:
        rows += _published_rows(published, metrics, lettered)
    notes = [*_stranger_notes(comparison), *_notes(comparison), *lacking]
    return Table(comparison.title, [*columns, "seeds"], rows, notes, comparison.dataset)


def _published_rows(
    published: PublishedRows, metrics: Sequence[tuple[MetricSet, Metric]], lettered: bool
) -> list[Row]:
    """Those of a paper below ours, with all of its digits."""
    rows = []
    for title, values in published.rows.items():
        known = dict(zip(published.metrics, values, strict=True))
        own = [
            known.get(metric.name) if metric_set.name == published.metric_set else None
            for metric_set, metric in metrics
        ]
        cells = [Cell(title), *([Cell(DASH)] if lettered else [])]
        cells += [Cell(DASH) if value is None else Cell(f"{value:.2f}", value) for value in own]
        rows.append(Row([*cells, Cell(DASH)]))
    return rows


def _stranger_notes(comparison: Comparison) -> list[str]:
    published = find_published_rows(comparison.dataset)
    if published and published.entries != comparison.images:
        return [
            f"Not {published.title}, which has {published.entries} {published.counted}: this is "
            "another data set under its name. Nothing here compares with a paper."
        ]
    benchmark = find_benchmark(comparison.dataset)
    if not benchmark:
        return []
    return [
        f"Not {benchmark.title}: number or ids of the images are not those of its "
        f"{benchmark.images} images, so this is another data set under its name, such as a "
        "synthetic one. Nothing here compares with the paper."
    ]


def _notes(comparison: Comparison) -> list[str]:
    told = comparison.settings if len(comparison.settings) > 1 else {}
    settings = [f"Setting {letter}: {difference}." for letter, difference in told.items()]
    return [*settings, *comparison.notes]


def effects_table(comparison: Comparison) -> Table | None:
    """Differences of the modifiers to null over the seeds that both have; None without any."""
    if not comparison.metric_sets:
        return None
    metric_set = comparison.metric_sets[0]
    lettered = len(comparison.settings) > 1
    columns = ["modifier", *(["setting"] if lettered else [])]
    for metric in metric_set.means:
        columns += [f"{metric.name} - null", "95 % interval"]
    rows = []
    for group in comparison.groups:
        found = comparison.to_null(group, metric_set.name, *(m.name for m in metric_set.means))
        if group.modifier.name == "null" or None in found:
            continue
        cells = [Cell(group.title), *([Cell(group.setting)] if lettered else [])]
        for difference, metric in zip(found, metric_set.means, strict=True):
            mean = Cell(f"{difference.mean:+.{metric.decimals + 1}f}", difference.mean)
            cells += [mean, _interval(difference, metric)]
        pairs = Cell(str(found[0].pairs), found[0].pairs)
        rows.append(Row([*cells, pairs], modifier_title(group.modifier)))
    if not rows:
        return None
    title = f"{comparison.title}, {metric_set.name}"
    return Table(title, [*columns, "pairs"], rows, dataset=comparison.dataset)


def _interval(difference: Difference, metric: Metric) -> Cell:
    if difference.interval is None:
        return Cell(DASH)
    low, high = difference.interval
    higher, lower = ("better", "worse") if metric.higher_is_better else ("worse", "better")
    verdict = f" ({higher})" if low > 0 else f" ({lower})" if high < 0 else ""
    digits = metric.decimals + 1
    return Cell(f"{low:+.{digits}f} to {high:+.{digits}f}{verdict}", low)


def paper_tables(comparisons: Sequence[Comparison]) -> list[Table]:
    """One for each of the paper's target data sets, also where nothing was run."""
    found = {c.benchmark.dataset: c for c in comparisons if c.benchmark}
    return [paper_table(benchmark, found.get(benchmark.dataset)) for benchmark in BENCHMARKS]


def effects_tables(comparisons: Sequence[Comparison]) -> list[Table]:
    """Those of the data sets on which null and another modifier have a seed in common."""
    found = map(effects_table, comparisons)
    return [table for table in found if table]


def other_tables(comparisons: Sequence[Comparison]) -> list[Table]:
    """Those of the data that is not the paper's."""
    return [results_table(comparison) for comparison in comparisons if not comparison.benchmark]


def all_tables(comparisons: Sequence[Comparison]) -> list[Table]:
    """Every table of results."""
    return [
        *paper_tables(comparisons),
        *other_tables(comparisons),
        *effects_tables(comparisons),
    ]


def runs_table(runs: Sequence[Run]) -> Table:
    """What each run is; its result file has the rest."""
    columns = ("run", "modifier", "seed", "iterations", "revision", "Detectron2", "torch")
    rows = []
    for run in runs:
        versions = run.record["versions"]
        rows.append(
            Row(
                [
                    Cell(str(run.folder)),
                    Cell(modifier_title(run.modifier)),
                    Cell(str(run.seed), run.seed),
                    Cell(DASH if run.iterations is None else str(run.iterations), run.iterations),
                    Cell(str(run.record.get("revision") or DASH)[:8]),
                    Cell(str(versions.get("detectron2", DASH))),
                    Cell(str(versions.get("torch", DASH))),
                ],
                modifier_title(run.modifier),
            )
        )
    return Table("Runs", columns, rows)
