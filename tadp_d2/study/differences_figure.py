"""The answers of a study as one image: differences, their intervals, and the paper's claims."""

from collections.abc import Callable, Iterable, Sequence

from tadp_d2.reports.curves import ticks
from tadp_d2.reports.markup import escape
from tadp_d2.reports.tables import DASH
from tadp_d2.study.questions import TARGETS
from tadp_d2.study.verdicts import Answer, ArmFinding

# Of the drawing, in pixels; a character's width is that of a wide one of the font.
_CHARACTER, _PANEL, _GAP, _ROW, _HEAD, _FOOT = 7, 200, 36, 20, 46, 34
_COLORS = {
    "agrees": "#1a7f37",
    "disagrees": "#cf222e",
    "better": "#0969da",
    "worse": "#0969da",
    "undecided": "#8c959f",
}
_CLAIMED, _GRID, _INK = "#ddf4e4", "#d8dee4", "#1f2328"
_LEGEND = (
    "Mean difference of the pairs of seeds and its 95 % interval, in points of the metric. Shaded: "
    "the side on which the paper expects it.",
    "Green agrees with the paper, red disagrees, grey is undecided; blue, where it says nothing.",
)


def figure(answers: Iterable[Answer]) -> str:
    """An SVG: a block for each question, in it a line for each claim, a panel for each target.

    The panels of a question share a scale. What was not run is a dash.
    """
    answers = list(answers)
    panels = max(len(answer.findings) for answer in answers)
    labels = [_label(*line) for answer in answers for line in _lines(answer)]
    labels_width = 12 + _CHARACTER * max(map(len, labels), default=0)
    width = labels_width + panels * (_PANEL + _GAP)
    y, parts = 0, []
    for line in _LEGEND:
        y += _ROW
        parts.append(_text(0, y, line))
    for answer in answers:
        drawn, height = _block(answer, labels_width)
        parts.append(f'<g transform="translate(0 {y})">{drawn}</g>')
        y += height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 0 {width + 20} {y}" '
        f'font-family="sans-serif" font-size="13" fill="{_INK}">'
        f'<rect x="-10" width="{width + 20}" height="{y}" fill="#ffffff"/>'
        f"{''.join(parts)}</svg>"
    )


def _claimed(answer: Answer) -> dict[str, dict[tuple[str, str], ArmFinding]]:
    """Domain -> arm and what it is compared with -> what was found."""
    return {
        domain: {(f.arm, f.claim.against): f for f in findings if f.claim}
        for domain, findings in answer.findings.items()
    }


def _lines(answer: Answer) -> list[tuple[str, str]]:
    return list(dict.fromkeys(line for own in _claimed(answer).values() for line in own))


def _label(arm: str, against: str) -> str:
    return f"{arm} − {against}"


def _block(answer: Answer, labels_width: int) -> tuple[str, int]:
    """A question, and its height."""
    found, lines = _claimed(answer), _lines(answer)
    scale = _scale([f for own in found.values() for f in own.values()])
    parts = [f'<g font-weight="bold">{_text(0, _HEAD - 18, answer.question.title)}</g>']
    parts += [
        _text(labels_width - 12, _middle(row) + 4, _label(*line), "end")
        for row, line in enumerate(lines)
    ]
    for number, (domain, own) in enumerate(found.items()):
        panel = _panel(domain, [own.get(line) for line in lines], scale)
        left = labels_width + number * (_PANEL + _GAP)
        parts.append(f'<g transform="translate({left} 0)">{panel}</g>')
    return "".join(parts), _HEAD + len(lines) * _ROW + _FOOT


def _middle(row: int) -> float:
    return _HEAD + (row + 0.5) * _ROW


def _scale(findings: Sequence[ArmFinding]) -> list[float]:
    """Round numbers around 0 and all that is drawn."""
    ends = [0.0]
    for finding in findings:
        if finding.difference:
            ends += [finding.difference.mean, *(finding.difference.interval or ())]
    return ticks(min(ends), max(ends))


def _panel(domain: str, findings: Sequence[ArmFinding | None], scale: Sequence[float]) -> str:
    """A target's lines; None for one that the question does not ask there."""
    target, bottom = TARGETS[domain], _HEAD + len(findings) * _ROW

    def x(value: float) -> float:
        return (value - scale[0]) / (scale[-1] - scale[0]) * _PANEL

    parts = [_text(_PANEL / 2, _HEAD - 4, f"{domain}, {target.metric}", "middle")]
    for row, finding in enumerate(findings):
        if finding and finding.claim and finding.claim.direction:
            left, right = (x(0), _PANEL) if finding.claim.direction > 0 else (0, x(0))
            parts.append(
                f'<rect x="{left:.1f}" y="{_HEAD + row * _ROW + 2}" width="{right - left:.1f}" '
                f'height="{_ROW - 4}" fill="{_CLAIMED}"/>'
            )
    for value in scale:
        color = _INK if value == 0 else _GRID
        parts.append(_line(x(value), _HEAD, x(value), bottom, color))
        parts.append(_text(x(value), bottom + 14, f"{value:g}", "middle"))
    parts += [_mark(f, _middle(row), x) for row, f in enumerate(findings) if f]
    return "".join(parts)


def _mark(finding: ArmFinding, y: float, x: Callable[[float], float]) -> str:
    """The mean and the interval around it."""
    difference = finding.difference
    if difference is None:
        return _text(x(0) + 4, y + 4, DASH)
    color = _COLORS[finding.verdict]
    low, high = difference.interval or (difference.mean, difference.mean)
    told = f"{difference.mean:+.1f} ({low:+.1f} to {high:+.1f}), {finding.verdict}"
    return (
        f"<g><title>{escape(told)}</title>"
        f"{_line(x(low), y, x(high), y, color, 3)}"
        f'<circle cx="{x(difference.mean):.1f}" cy="{y:.1f}" r="4.5" fill="{color}"/></g>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: int = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" '
        f'stroke-width="{width}"/>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
