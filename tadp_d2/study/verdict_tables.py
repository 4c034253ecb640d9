"""The answers of a study as tables in Markdown."""

from collections.abc import Iterable, Sequence

from tadp_d2.reports.formats import markdown
from tadp_d2.reports.tables import DASH, Cell, Row, Table, mean_cell
from tadp_d2.study.questions import TARGETS
from tadp_d2.study.verdicts import CLAIMS, Answer, ArmFinding

_COLUMNS = ("difference to", "mean", "95 % interval", "wins", "the paper", "verdict")


def tables(answers: Iterable[Answer]) -> str:
    """A table for each question and target; a number that was not run is a dash."""
    parts = []
    for answer in answers:
        parts.append(f"## {answer.question.title}\n")
        for domain, findings in answer.findings.items():
            target = TARGETS[domain]
            metric = target.metric
            columns = ("", metric, "seeds", *_COLUMNS)
            table = Table(f"{target.dataset}, {metric}", columns, _rows(findings))
            parts += [f"{table.title}\n", markdown(table)]
    return "\n".join(parts)


def _rows(findings: Sequence[ArmFinding]) -> list[Row]:
    """A line for each claim, of which the first of an arm has its mean."""
    rows, before = [], ""
    for finding in findings:
        repeated = finding.arm == before
        name = "" if repeated else finding.arm
        seeds = str(finding.spread.number) if finding.spread else DASH
        mean = [Cell(""), Cell("")] if repeated else [mean_cell(finding.spread), Cell(seeds)]
        rows.append(Row([Cell(name), *mean, *map(Cell, _texts(finding))]))
        before = finding.arm
    return rows


def _texts(finding: ArmFinding) -> list[str]:
    claim, difference = finding.claim, finding.difference
    if claim is None:
        return [DASH] * len(_COLUMNS)
    source = f" ({claim.source})" if claim.source else ""
    claimed = CLAIMS.get(claim.direction, DASH) + source
    if difference is None:
        return [claim.against, DASH, DASH, DASH, claimed, DASH]
    low_to_high = "{:+.1f} to {:+.1f}".format(*difference.interval) if difference.interval else DASH
    mean, wins = f"{difference.mean:+.1f}", f"{finding.wins} of {difference.pairs}"
    return [claim.against, mean, low_to_high, wins, claimed, finding.verdict]
