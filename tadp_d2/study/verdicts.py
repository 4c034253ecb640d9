"""What the results of a study say of the paper's claims, as tables in Markdown."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tadp_d2.errors import UserError
from tadp_d2.reports.formats import markdown
from tadp_d2.reports.published import Benchmark
from tadp_d2.reports.spread import Difference, paired_difference, spread
from tadp_d2.reports.tables import DASH, Cell, Row, Table, mean_cell
from tadp_d2.study.questions import TARGETS, Arm, Claim, Question

_COLUMNS = ("difference to", "mean", "95 % interval", "wins", "the paper", "verdict")
_CLAIMS = {1: "better", -1: "worse", 0: "equal", None: DASH}

# Training -> seed -> its result.
Results = Mapping[str, Mapping[int, Mapping[str, Any]]]


def read(folder: Path) -> list[dict[str, Any]]:
    """The results in the files of a folder.

    Raises:
        UserError: there are none, or a file is no result.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"{folder}: no results there; expected the folder results/ of a study")
    try:
        return [json.loads(file.read_text("utf-8"))["result"] for file in files]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder}: not all of its .json files are results of a study") from None


def tables(questions: Iterable[Question], results: Iterable[Mapping[str, Any]]) -> str:
    """A table for each question and target, in Markdown; a number that was not run is a dash."""
    by_training: dict[str, dict[int, Mapping[str, Any]]] = {}
    for result in results:
        by_training.setdefault(result["training"], {})[result["seed"]] = result
    parts = []
    for question in questions:
        parts.append(f"## {question.title}\n")
        for domain, arms in question.arms().items():
            table = _table(TARGETS[domain], arms, by_training)
            parts += [f"{table.title}\n", markdown(table)]
    return "\n".join(parts)


def _table(target: Benchmark, arms: Sequence[Arm], results: Results) -> Table:
    values = {arm.name: _values(target, arm, results) for arm in arms}
    rows = []
    for arm in arms:
        own = values[arm.name]
        # Each claim in a line of its own, of which the first has the arm's mean.
        names = [
            [Cell(arm.name), mean_cell(spread(list(own.values())))],
            *[[Cell(""), Cell("")]] * len(arm.claims),
        ]
        told = [_told(own, values[claim.against], claim) for claim in arm.claims]
        told = told or [[Cell(DASH)] * len(_COLUMNS)]
        rows += [Row([*name, *cells]) for name, cells in zip(names, told, strict=False)]
    metric = target.metrics[-1]
    return Table(f"{target.dataset}, {metric}", ("", metric, *_COLUMNS), rows)


def _values(target: Benchmark, arm: Arm, results: Results) -> dict[int, float]:
    """Seed -> metric."""
    of_seeds = results.get(arm.training.name, {})
    tested = {seed: result["tests"].get(target.dataset, {}) for seed, result in of_seeds.items()}
    return {
        seed: own[arm.test.name][target.metrics[-1]]
        for seed, own in tested.items()
        if arm.test.name in own
    }


def _told(own: Mapping[int, float], other: Mapping[int, float], claim: Claim) -> list[Cell]:
    difference = paired_difference(own, other)
    source = f" ({claim.source})" if claim.source else ""
    claimed = f"{_CLAIMS[claim.direction]}{source}"
    if difference is None:
        return [Cell(text) for text in (claim.against, DASH, DASH, DASH, claimed, DASH)]
    low_to_high = "{:+.1f} to {:+.1f}".format(*difference.interval) if difference.interval else DASH
    pairs = own.keys() & other.keys()
    wins = f"{sum(own[seed] > other[seed] for seed in pairs)} of {len(pairs)}"
    mean = f"{difference.mean:+.1f}"
    texts = (claim.against, mean, low_to_high, wins, claimed, verdict(difference, claim.direction))
    return [Cell(text) for text in texts]


def verdict(difference: Difference, claimed: int | None) -> str:
    """Whether seeds agree with a claim: only an interval beyond 0 decides.

    Args:
        claimed: as `Claim.direction`.

    Returns:
        "agrees", "disagrees" or "undecided"; where nothing is claimed, "better" or "worse" for the
        first two. That two are equal is never shown, only refuted.
    """
    low, high = difference.interval or (0, 0)
    direction = 1 if low > 0 else -1 if high < 0 else 0
    if not direction:
        return "undecided"
    if claimed is None:
        return _CLAIMS[direction]
    return "agrees" if direction == claimed else "disagrees"
