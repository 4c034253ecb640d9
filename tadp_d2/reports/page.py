"""A report as one HTML page that needs no other file and no network.

Its frame, style and script are `page.html`; here its content is made. All that comes from files is
escaped.
"""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

import yaml

from tadp_d2.reports.charts import bars, learning_curves
from tadp_d2.reports.comparison import Comparison, modifier_title
from tadp_d2.reports.markup import escape, filtered
from tadp_d2.reports.published import MODIFIER_TITLES
from tadp_d2.reports.runs import Run
from tadp_d2.reports.shown_images import attention_sheet, gallery
from tadp_d2.reports.tables import (
    DASH,
    Cell,
    Row,
    Table,
    effects_tables,
    other_tables,
    overview,
    paper_tables,
)

# How many colors `page.html` has; a further modifier begins anew.
COLORS = 8
# What is shown of a run; the first three as they are, the others by key.
_STATED = ("command", "weights", "revision")
_DETAILS = ("versions", "provenance", "metrics", "config")


def page(
    runs: Sequence[Run], comparisons: Sequence[Comparison], attention: Sequence[Path] = ()
) -> str:
    """The page's text.

    Args:
        attention: sheets of attention maps, as `tadp-d2 attention` draws them.

    Raises:
        UserError: a run's images, captions or metrics are damaged.
    """
    colors = _colors(runs)
    sections = {
        "Paper": _table(overview(comparisons)) + _paper(comparisons),
        "Other data": _tables(other_tables(comparisons)),
        "Differences to null": _tables(effects_tables(comparisons)),
        "Classes": "".join(bars(comparison, colors) for comparison in comparisons),
        "Learning curves": learning_curves(runs, colors),
        "Images": gallery(comparisons),
        "Attention": "".join(map(attention_sheet, attention)),
        "Runs": "".join(map(_run, runs)),
    }
    shown = {title: content for title, content in sections.items() if content}
    template = files(__package__).joinpath("page.html").read_text("utf-8")
    return Template(template).substitute(
        number=f"{len(runs)} run{'s' if len(runs) != 1 else ''}",
        links="".join(f'<a href="#{_anchor(title)}">{title}</a>' for title in shown),
        modifiers="".join(_modifier_button(title, colors[title]) for title in colors),
        datasets="".join(f"<option>{escape(c)}</option>" for c in _datasets(comparisons)),
        sections="".join(
            f'<section id="{_anchor(title)}"><h2>{title}</h2>{content}</section>'
            for title, content in shown.items()
        ),
    )


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _datasets(comparisons: Sequence[Comparison]) -> list[str]:
    return list(dict.fromkeys(comparison.dataset for comparison in comparisons))


def _colors(runs: Sequence[Run]) -> dict[str, str]:
    """Modifier -> class of its color; the paper's modifiers have the same in every report."""
    own = (modifier_title(run.modifier) for run in runs)
    titles = dict.fromkeys([*MODIFIER_TITLES.values(), *own])
    return {title: f"c{index % COLORS}" for index, title in enumerate(titles)}


def _modifier_button(title: str, css: str) -> str:
    return (
        f'<button type="button" class="{css}" aria-pressed="true" '
        f'data-toggle="{escape(title)}">{escape(title)}</button>'
    )


def _paper(comparisons: Sequence[Comparison]) -> str:
    """The tables with our numbers; folded away, those without."""
    run = {c.benchmark.dataset for c in comparisons if c.benchmark}
    tables = paper_tables(comparisons)
    ours = _tables([table for table in tables if table.dataset in run])
    others = _tables([table for table in tables if table.dataset not in run])
    if not others:
        return ours
    summary = "<summary>Data sets of the paper that were not run</summary>"
    return f"{ours}<details>{summary}{others}</details>"


def _tables(tables: Sequence[Table]) -> str:
    return "".join(map(_table, tables))


def _table(table: Table) -> str:
    # "AP - null" is one word.
    titles = [
        escape(column or "modifier").replace(" - ", "&nbsp;-&nbsp;") for column in table.columns
    ]
    head = "".join(
        f'<th scope="col"><button type="button">{title}</button></th>' for title in titles
    )
    notes = "".join(f"<p>{escape(note)}</p>" for note in table.notes)
    title = escape(table.title)
    return (
        f"<div{filtered(dataset=table.dataset)}><h3>{title}</h3>"
        f'<div class="wide" role="region" tabindex="0" aria-label="{title}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, table.rows))}</tbody>"
        f"</table></div>{notes}</div>"
    )


def _row(row: Row) -> str:
    first, *others = row.cells
    cells = "".join(f"<td{_value(cell)}>{escape(cell.text)}</td>" for cell in others)
    name = f'<th scope="row">{escape(first.text)}</th>'
    return f"<tr{filtered(modifier=row.modifier)}>{name}{cells}</tr>"


def _value(cell: Cell) -> str:
    return "" if cell.value is None else f' data-value="{cell.value!r}"'


def _run(run: Run) -> str:
    """All that a run's result file holds."""
    name = modifier_title(run.modifier)
    stated = "".join(
        f"<dt>{key}</dt><dd><code>{escape(str(run.record.get(key) or DASH))}</code></dd>"
        for key in _STATED
    )
    details = "".join(
        f"<details><summary>{key}</summary>"
        f"<pre>{escape(yaml.safe_dump(run.record.get(key), sort_keys=False))}</pre></details>"
        for key in _DETAILS
    )
    iterations = "" if run.iterations is None else f", {run.iterations} iterations"
    return (
        f'<details class="run"{filtered(modifier=name)}><summary>{escape(str(run.folder))}'
        f"<span>{escape(name)}, seed {run.seed}{iterations}</span></summary>"
        f"<dl>{stated}</dl>{details}</details>"
    )
