"""What the results of a study show about the paper's claims.

`tables` and `figure` show it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tadp_d2.errors import UserError
from tadp_d2.reports.spread import Difference, Spread, paired_difference, spread
from tadp_d2.study.questions import TARGETS, Arm, Claim, Question, Target

# Part of the study -> what its results say of a run, besides the seed.
COMPARED = {"adaptation": "training", "depth": "condition", "prompts": "training"}
CLAIMS = {1: "better", -1: "worse", 0: "equal"}

# Training -> seed -> its result.
_Results = Mapping[str, Mapping[int, Mapping[str, Any]]]


@dataclass(frozen=True)
class ArmFinding:
    """What seeds show of an arm and of one claim about it.

    Attributes:
        arm: its name.
        spread: of the target's metric; None where none was run.
        claim: None for an arm that others are compared with.
        difference: to the arm of the claim; None where no seed has both.
        wins: number of seeds that have both and in which the arm is ahead.
    """

    arm: str
    spread: Spread | None
    claim: Claim | None = None
    difference: Difference | None = None
    wins: int = 0

    @property
    def verdict(self) -> str:
        """Empty where no seed has both arms."""
        if self.claim is None or self.difference is None:
            return ""
        return verdict(self.difference, self.claim.direction)


@dataclass(frozen=True)
class Answer:
    """A question and, by target domain, what was found there, in the order of its arms."""

    question: Question
    findings: Mapping[str, list[ArmFinding]]


def read(folder: Path, part: str = "adaptation") -> list[dict[str, Any]]:
    """The results in the files of a folder.

    Args:
        part: of the study; a key of `COMPARED`.

    Raises:
        UserError: there are none, or a file is none of this part.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"{folder}: no results there; expected results/ of the study {part}")
    read_files = {file: _read(file, part) for file in files}
    _check_comparable(read_files, part)
    return [content["result"] for content in read_files.values()]


def _read(file: Path, part: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8-sig"))
        # Those of the other parts lack some.
        complete = {COMPARED[part], "seed", "tests"} <= content["result"].keys()
        complete = complete and isinstance(content["made_of"], dict)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        complete = False
    if not complete:
        raise UserError(f"{file}: is no result of the study {part}; move it away")
    return content


def _check_comparable(contents: Mapping[Path, Mapping[str, Any]], part: str) -> None:
    """
    Raises:
        UserError: two files are of one training and seed, or of different diffusion models.
    """
    first = next(iter(contents))
    files: dict[tuple, Path] = {}
    for file, content in contents.items():
        result = content["result"]
        other = files.setdefault((result[COMPARED[part]], result["seed"]), file)
        if other != file:
            raise UserError(f"{file} and {other} are results of one training; move one away")
        model, expected = (c["made_of"].get("model") for c in (content, contents[first]))
        if model != expected:
            raise UserError(
                f"{file} and {first} are of different diffusion models, whose numbers cannot be "
                "compared: keep them in folders of their own"
            )


def answer(questions: Iterable[Question], results: Iterable[Mapping[str, Any]]) -> list[Answer]:
    """What results show on each question.

    Args:
        results: as `adaptation.train_and_test` gives them.
    """
    by_training: dict[str, dict[int, Mapping[str, Any]]] = {}
    for result in results:
        by_training.setdefault(result["training"], {})[result["seed"]] = result
    return [
        Answer(question, {d: _find(TARGETS[d], a, by_training) for d, a in question.arms().items()})
        for question in questions
    ]


def _find(target: Target, arms: Iterable[Arm], results: _Results) -> list[ArmFinding]:
    values: dict[str, dict[int, float]] = {}
    found = []
    for arm in arms:
        own = values[arm.name] = _values(target, arm, results)
        mean = spread(list(own.values()))
        if not arm.claims:
            found.append(ArmFinding(arm.name, mean))
        for claim in arm.claims:
            other = values[claim.against]
            wins = sum(own[seed] > other[seed] for seed in own.keys() & other.keys())
            found.append(ArmFinding(arm.name, mean, claim, paired_difference(own, other), wins))
    return found


def _values(target: Target, arm: Arm, results: _Results) -> dict[int, float]:
    """Seed -> metric."""
    of_seeds = results.get(arm.training.name, {})
    tested = {seed: result["tests"].get(target.dataset, {}) for seed, result in of_seeds.items()}
    return {
        seed: own[arm.test.name][target.metric]
        for seed, own in tested.items()
        if arm.test.name in own
    }


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
        return CLAIMS[direction]
    return "agrees" if direction == claimed else "disagrees"
