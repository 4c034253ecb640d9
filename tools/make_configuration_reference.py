#!/usr/bin/env python3
"""Writes `docs/configuration.md` from `tadp_d2/config.py`: each key, its default, its comment.

python tools/make_configuration_reference.py
"""

import ast
import io
import re
import tokenize
from pathlib import Path
from typing import NamedTuple

from tadp_d2.files import replacing

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "tadp_d2" / "config.py"
PAGE = ROOT / "docs" / "configuration.md"

INTRODUCTION = """\
# Configuration reference

Every key that this project adds to Detectron2's, and Detectron2's own whose defaults it changes.
`tools/make_configuration_reference.py` makes this page from
[config.py](../tadp_d2/config.py); a test fails while the two differ.

A value comes from, the later the stronger: the default, the files that a config names in `_BASE_`,
the config file, `--preset` (a file of [configs/presets](../configs/presets)), and `KEY VALUE`
pairs at the end of the command line. An unknown key, a value of the wrong kind or one out of range
ends in a message that names it. A run writes all its values into `config.yaml` of its
`OUTPUT_DIR`.

Data sets, rates, the FPN and the heads are configured by
[Detectron2's own keys](https://detectron2.readthedocs.io/en/latest/modules/config.html).
"""


class Row(NamedTuple):
    """Keys of which one comment speaks.

    Attributes:
        keys: name, such as "TEXT.DOMAIN" -> its default as it is written.
        meaning: the comment; empty for none.
        about: the name below the comment, of a key or of the node that holds the keys.
    """

    keys: dict[str, str]
    meaning: str
    about: str


def read_blocks(source: str) -> list[list[Row]]:
    """The keys that a source text sets on `cfg`; blank lines part the blocks."""
    comments = _read_comments(source)
    blocks: list[list[Row]] = []
    end = 0
    for statement in ast.walk(ast.parse(source)):
        if not isinstance(statement, ast.Assign):
            continue
        line, name = statement.lineno, ast.unparse(statement.targets[0]).removeprefix("cfg.")
        if not blocks or "" in source.splitlines()[end:line]:
            blocks.append([])
        end, rows = line, blocks[-1]
        if line in comments or not rows or not _speaks_of(rows[-1], name):
            rows.append(Row({}, comments.get(line, ""), name))
        # A call makes a node, which holds keys and is none.
        if not isinstance(statement.value, ast.Call):
            rows[-1].keys[name] = ast.get_source_segment(source, statement.value) or ""
    return [[row for row in rows if row.keys] for rows in blocks]


def _read_comments(source: str) -> dict[int, str]:
    """Line of a statement -> the comment on the lines directly above it."""
    comments: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        # Not those behind a statement, which are for tools.
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#"):
            line, text = token.start[0], token.string.removeprefix("#").strip()
            comments[line + 1] = f"{comments.pop(line, '')} {text}".strip()
    return comments


def _speaks_of(row: Row, name: str) -> bool:
    """Whether a comment speaks of a key further down, too.

    It does where the key's name begins as that below the comment, where it is mentioned, or where
    it lies in the node below the comment.
    """
    first, other = (key.rpartition(".")[2].partition("_")[0] for key in (row.about, name))
    mentioned = re.search(rf"\b{other}(_|\b)", row.meaning)
    return bool(row.meaning) and (
        first == other or mentioned is not None or name.startswith(f"{row.about}.")
    )


def make_page(source: str) -> str:
    """The reference as Markdown, a table for each block."""
    return "\n".join([INTRODUCTION, *map(_section, read_blocks(source))])


def _section(rows: list[Row]) -> str:
    names = [name.split(".") for row in rows for name in row.keys]
    title = ".".join(
        same[0] for same in zip(*(name[:-1] for name in names), strict=False) if len(set(same)) == 1
    )
    lines = [f"## {title}", "", "| key | default | |", "| --- | --- | --- |"]
    if not title:
        # Keys from everywhere are together for a reason, which is said at their head.
        lines[0:2] = ["## Other keys", "", _escape(rows[0].meaning), ""]
        rows = [rows[0]._replace(meaning=""), *rows[1:]]
    for keys, meaning, _ in rows:
        cells = ["<br>".join(f"`{text}`" for text in texts) for texts in (keys, keys.values())]
        lines.append(f"| {cells[0]} | {cells[1]} | {_escape(meaning)} |")
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", text)


if __name__ == "__main__":
    with replacing(PAGE) as temporary:
        temporary.write_text(make_page(SOURCE.read_text("utf-8")), "utf-8")
    print(PAGE)
