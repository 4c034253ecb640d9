"""What the doctor found, and how it is reported."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from tadp_d2.errors import UserError


class Kind(StrEnum):
    """How a finding is meant; the value is the symbol of its line."""

    GOOD = "\N{CHECK MARK}"
    NOTE = "\N{BULLET}"
    PROBLEM = "\N{BALLOT X}"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    kind: Kind
    text: str


def problems(errors: Iterable[UserError]) -> Iterator[Finding]:
    """Findings of what checks reported, each once."""
    return (Finding(Kind.PROBLEM, text) for text in dict.fromkeys(map(str, errors)))


@dataclass
class Printout:
    """Prints findings in sections as they come.

    Attributes:
        most: problems of a section that are shown; further ones are counted.
        problems: how many there were.
    """

    most: int
    problems: int = field(default=0, init=False)

    def section(self, title: str, findings: Iterable[Finding]) -> None:
        """Prints a section."""
        print(title, flush=True)
        count = 0
        for finding in findings:
            count += finding.kind is Kind.PROBLEM
            if finding.kind is not Kind.PROBLEM or count <= self.most:
                print(f"  {finding.kind} {finding.text}", flush=True)
        if count > self.most:
            print(f"  {Kind.PROBLEM} and {count - self.most} more problems (--all shows them)")
        self.problems += count
