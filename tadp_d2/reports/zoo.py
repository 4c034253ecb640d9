"""MODEL_ZOO.md: the tables of a report in Markdown, with how to read them."""

from collections.abc import Sequence

from tadp_d2.reports.comparison import Comparison
from tadp_d2.reports.formats import markdown
from tadp_d2.reports.runs import Run
from tadp_d2.reports.tables import (
    Table,
    effects_tables,
    other_tables,
    overview,
    paper_tables,
    runs_table,
)

_HEAD = """\
# Model zoo

Made by `tadp-d2 report`; do not edit. A dash is a number that was not run.

How to read the tables:

- AP and AP50 are in the VOC 2007 metric (11 points) unless a column names another one, over six
  classes; mIoU is over 19 classes as Cityscapes' scripts count. All are in 0..100.
- "paper" is TADP's tables 4 and 5. A result stands beside it only where the images are the
  published ones, by number and, where they are known, by ids.
- "a ± b" is mean and sample standard deviation over seeds. Only runs are averaged that are alike in
  all but the seed; "setting" tells those apart that are not. All means of a row are of the same
  seeds, as many as it says; where one of them lacks a metric, that is a dash and a note says so.
- A difference to null pairs the runs of equal seeds; its interval, 95 %, is the percentile
  bootstrap's over the pairs, and a dash below three of them. "better" and "worse" stand where it
  does not hold 0.
"""


def model_zoo(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> str:
    """The file's text."""
    parts = [
        _HEAD,
        "## The paper's target data sets\n",
        markdown(overview(comparisons)),
        *_titled(paper_tables(comparisons)),
        *_section("Other data", other_tables(comparisons)),
        *_section("Differences to null", effects_tables(comparisons)),
        *(["## Runs\n", markdown(runs_table(runs))] if runs else []),
    ]
    return "\n".join(parts)


def _section(title: str, tables: Sequence[Table]) -> list[str]:
    return [f"## {title}\n", *_titled(tables)] if tables else []


def _titled(tables: Sequence[Table]) -> list[str]:
    return [f"### {table.title}\n\n{markdown(table)}" for table in tables]
