"""A table as Markdown and as LaTeX. No text in it can break it."""

from collections.abc import Sequence

from tadp_d2.reports.tables import DASH, Table


def markdown(table: Table) -> str:
    """A table in GitHub's Markdown, without its title."""
    lines = [_markdown_line(table.columns), "| --- " * len(table.columns) + "|"]
    lines += [_markdown_line([cell.text for cell in row.cells]) for row in table.rows]
    lines += ["", *(f"{_markdown_text(note)}\n" for note in table.notes)] if table.notes else []
    return "\n".join(lines).rstrip("\n") + "\n"


def _markdown_line(texts: Sequence[str]) -> str:
    line = "| " + " | ".join(map(_markdown_text, texts)) + " |"
    return line.replace("|  |", "| |")


def _markdown_text(text: str) -> str:
    for character in "\\|*_<>[]`":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def latex(table: Table) -> str:
    """A table in LaTeX, with the rules of booktabs."""
    columns = "l" + "r" * (len(table.columns) - 1)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _latex_line(table.columns),
        r"\midrule",
        *(_latex_line([cell.text for cell in row.cells]) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{_latex_text('. '.join([table.title, *table.notes]))}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_line(texts: Sequence[str]) -> str:
    return " & ".join(_latex_text(text) for text in texts) + r" \\"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def _latex_text(text: str) -> str:
    if text == DASH:
        return "--"
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
