"""All files of a report, from the folders of runs."""

from collections.abc import Sequence
from pathlib import Path

from tadp_d2.errors import UserError
from tadp_d2.files import replacing
from tadp_d2.reports.comparison import compare
from tadp_d2.reports.formats import latex
from tadp_d2.reports.page import page
from tadp_d2.reports.runs import find_runs
from tadp_d2.reports.tables import all_tables
from tadp_d2.reports.tidy import results_csv
from tadp_d2.reports.zoo import model_zoo


def write_report(
    sources: Sequence[Path], folder: Path, attention: Sequence[Path] = ()
) -> list[Path]:
    """Writes a page, the tables in Markdown and LaTeX, and all numbers as CSV.

    Args:
        sources: output folders of runs, or folders of such folders.
        folder: for the files; it is made if it does not exist.
        attention: sheets of attention maps, for the page.

    Returns:
        The files.

    Raises:
        UserError: a file of a run is missing or damaged, or two runs contradict each other.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: --output names a folder")
    runs = find_runs(sources)
    comparisons = compare(runs)
    tables = all_tables(comparisons)
    # Nothing is written before all of it was made.
    contents = {
        "report.html": page(runs, comparisons, attention),
        "MODEL_ZOO.md": model_zoo(runs, comparisons),
        "tables.tex": "\n".join(map(latex, tables)),
        "results.csv": results_csv(comparisons),
    }
    for name, text in contents.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, "utf-8")
    return [folder / name for name in contents]
