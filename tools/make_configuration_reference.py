#!/usr/bin/env python3
"""Writes `docs/configuration.md` from the rows of `tadp_d2/config/keys.py`.

python tools/make_configuration_reference.py
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tadp_d2.config.keys import ADDED, CHANGED, DETECTRON2, IDLE, Key
from tadp_d2.files import replacing

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"

INTRODUCTION = """\
# Configuration reference

Every key that this project adds to Detectron2's, and those of Detectron2 whose default it changes,
whose value it checks, or that it refuses. `tools/make_configuration_reference.py` makes this page
from [keys.py](../tadp_d2/config/keys.py); a test fails while the two differ.

A value comes from, the later the stronger: the default, the files that a config names in `_BASE_`,
the config file, `--preset` (files of [configs/presets](../configs/presets), in their order), and
`KEY VALUE` pairs at the end of the command line. An unknown key, a value of the wrong kind or one
that is not allowed ends in a message that names it. A run writes all its values into `config.yaml`
of its `OUTPUT_DIR`.

Data sets, learning rates, the FPN and the heads are configured by
[Detectron2's own keys](https://detectron2.readthedocs.io/en/latest/modules/config.html).

What another value of a key *changes*: training, and so every result; testing, what a trained model
scores; or nothing beyond rounding. Paths of weights, tokens and captions change nothing by
themselves, because results and checkpoints record the fingerprints of what is there.
"""


def make_page() -> str:
    """The reference as Markdown."""
    changed = [key for key in CHANGED if key.default is not DETECTRON2]
    checked = [key for key in CHANGED if key.default is DETECTRON2]
    return "\n".join(
        [
            INTRODUCTION,
            *(_section(title, keys) for title, keys in itertools.groupby(ADDED, _title)),
            _section("Detectron2's keys with another default", changed),
            _table(
                "Detectron2's keys whose values are checked or that change no result",
                ("key", "values", "changes"),
                ((_code(key.name), _values(key), key.changes) for key in checked),
            ),
            _table(
                "Detectron2's keys that no run acts on",
                ("key", "because"),
                ((_code(key.name), _escape(key.idle)) for key in IDLE),
                "They may not be set. A key that belongs to a part that another key switches off, "
                "or that a chosen head or schedule does not read, may.",
            ),
        ]
    )


def _title(key: Key) -> str:
    """The section of the config: "TEXT", and of the model "MODEL.DIFFUSION"."""
    sections = key.name.split(".")
    return ".".join(sections[: 1 + (sections[0] == "MODEL")])


def _section(title: str, keys: Iterable[Key]) -> str:
    return _table(
        title,
        ("key", "default", "values", "changes", ""),
        (
            (_code(key.name), _code(repr(key.default)), _values(key), key.changes, _meaning(key))
            for key in keys
        ),
    )


def _table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], introduction: str = ""
) -> str:
    head = [f"## {title}", "", *([introduction, ""] if introduction else [])]
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join([*head, *(f"| {' | '.join(cells)} |" for cells in lines), ""])


def _values(key: Key) -> str:
    return _escape(key.allowed.expected) if key.allowed else ""


def _meaning(key: Key) -> str:
    return _escape(key.meaning + (f" ({key.source})" if key.source else ""))


def _code(text: str) -> str:
    return f"`{text}`"


def _escape(text: str) -> str:
    # Within a word an underscore is one.
    return re.sub(r"([\\`*<>|\[\]]|\b_|_\b)", r"\\\1", text)


if __name__ == "__main__":
    with replacing(PAGE) as temporary:
        temporary.write_text(make_page(), "utf-8")
    print(PAGE)
