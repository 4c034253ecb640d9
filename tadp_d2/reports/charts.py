"""The bars and learning curves of a page, as HTML."""

from collections.abc import Mapping, Sequence

from tadp_d2.records.result_files import read_metrics
from tadp_d2.reports.comparison import Comparison, modifier_title
from tadp_d2.reports.curves import Line, chart
from tadp_d2.reports.markup import escape, filtered
from tadp_d2.reports.runs import Run
from tadp_d2.reports.spread import Spread
from tadp_d2.reports.tables import DASH, count_of_seeds
from tadp_d2.tasks.metrics import Metric

# Modifier -> class of its color in the page.
Colors = Mapping[str, str]


def bars(comparison: Comparison, colors: Colors) -> str:
    """The mean and each class, with a bar for each modifier."""
    if not comparison.metric_sets:
        return ""
    metric_set = comparison.metric_sets[0]
    mean = metric_set.mean_of_classes
    metrics = {f"mean ({mean.name})": mean.name, **comparison.classes(metric_set)}
    columns = [(metric_set.name, metric) for metric in metrics.values()]
    means = [group.means(columns) for group in comparison.groups]
    labels = [
        f"{comparison.label(group)} ({count_of_seeds(own)})"
        for group, own in zip(comparison.groups, means, strict=True)
    ]
    shown = [found.mean for own in means for found in own.spreads if found]
    top = max([0.0, *shown]) if mean.top is None else mean.top
    groups = "".join(
        f"<li><h4>{escape(name)}</h4><ul>"
        + "".join(
            _bar(label, modifier_title(group.modifier), own.spreads[place], colors, mean, top)
            for label, group, own in zip(labels, comparison.groups, means, strict=True)
        )
        + "</ul></li>"
        for place, name in enumerate(metrics)
    )
    title = f"{escape(comparison.title)}: {metric_set.of_class or mean.title} ({metric_set.name})"
    return (
        f"<div{filtered(dataset=comparison.dataset)}><h3>{title}</h3>"
        f'<ul class="bars">{groups}</ul></div>'
    )


def _bar(
    label: str, name: str, found: Spread | None, colors: Colors, metric: Metric, top: float
) -> str:
    text = DASH if found is None else f"{found.mean:.{metric.decimals}f}"
    width = 0 if found is None or not top else min(max(100 * found.mean / top, 0), 100)
    return (
        f'<li class="{colors[name]}"{filtered(modifier=name)}><span>'
        f"{escape(label)}</span>"
        f'<span class="track"><span class="bar" style="width:{width:.1f}%"></span></span>'
        f"<span>{text}</span></li>"
    )


def learning_curves(runs: Sequence[Run], colors: Colors) -> str:
    """The loss by what was trained on, and the means of every evaluation in training."""
    charts: dict[tuple[str, str], list[Line]] = {}
    for run in runs:
        lines = read_metrics(run.folder / "metrics.json")
        for (dataset, title), key in _curve_keys(run).items():
            points = [
                (line["iteration"], line[key])
                for line in lines
                if isinstance(line.get(key), int | float)
            ]
            if len(points) > 1:
                label, name = f"{run.folder}, seed {run.seed}", modifier_title(run.modifier)
                own = charts.setdefault((dataset, title), [])
                own.append(Line(f"{name}: {label}", name, colors[name], points))
    figures = "".join(
        f"<figure{filtered(dataset=dataset)}><figcaption>{escape(title)}, over iterations"
        f"</figcaption>{chart(title, lines)}</figure>"
        for (dataset, title), lines in charts.items()
    )
    return f'<div class="charts">{figures}</div>' if figures else ""


def _curve_keys(run: Run) -> dict[tuple[str, str], str]:
    """(data set to filter by, title of a chart) -> key in `metrics.json`."""
    trained_on = ", ".join(map(str, run.record["config"]["DATASETS"]["TRAIN"]))
    keys = {("", f"loss on {trained_on}"): "total_loss"}
    for dataset, result in run.results.items():
        metric_set = next((s for n, s in run.metric_sets.items() if n in result.metrics), None)
        if metric_set:
            metric = metric_set.headline.name
            keys[dataset, f"{metric} on {dataset}"] = f"{dataset}/{metric_set.name}/{metric}"
    return keys
