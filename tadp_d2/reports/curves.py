"""Learning curves as SVG: lines of numbers over iterations. Nothing here knows of runs."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

# Of the drawing, in its own units; the page scales it.
WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 40, 22, 10, 28
# More points than this in a line are not seen.
MAX_POINTS = 200
# A line of so few points shows them.
MAX_DOTS = 20


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        label: shown where the line is pointed at.
        modifier: what a reader may filter by.
        css: class that gives the color.
        points: iteration and value, in the order of the iterations.
    """

    label: str
    modifier: str
    css: str
    points: Sequence[tuple[float, float]]


def chart(title: str, lines: Sequence[Line]) -> str:
    """An `<svg>` of lines over iterations from 0; values that are not finite are left out."""
    drawn = [(line, thinned([p for p in line.points if math.isfinite(p[1])])) for line in lines]
    points = [point for _, own in drawn for point in own]
    up = ticks(min((y for _, y in points), default=0), max((y for _, y in points), default=1))
    right = max((x for x, _ in points), default=1) or 1
    axes = _Axes(right, up[0], up[-1])
    parts = [axes.draw([x for x in ticks(0, right) if x <= right], up)]
    for line, own in drawn:
        places = [(axes.x(x), axes.y(y)) for x, y in own]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places)
        parts.append(
            f'<g class="line {line.css}" data-modifier="{html.escape(line.modifier)}">'
            f'<title>{html.escape(line.label)}</title><polyline points="{path}"/>'
            f"{dots if len(places) <= MAX_DOTS else ''}</g>"
        )
    label = html.escape(f"{title}, over iterations")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most 200 points, evenly chosen; the last is always among them."""
    step = math.ceil(len(points) / MAX_POINTS)
    return list(points[::-1][:: step or 1][::-1])


def ticks(low: float, high: float) -> list[float]:
    """Four to ten round numbers that enclose a range: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        high = low + (abs(low) or 1)
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [index * step for index in range(first, last + 1)]


@dataclass(frozen=True)
class _Axes:
    """From numbers to places in the drawing: iterations 0 to `right`, values `low` to `high`."""

    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / self.right

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    def draw(self, iterations: Sequence[float], values: Sequence[float]) -> str:
        """Lines across and numbers."""
        across = [
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{self.y(v):.1f}" y2="{self.y(v):.1f}"/>'
            f'<text x="{LEFT - 6}" y="{self.y(v) + 4:.1f}" text-anchor="end">{v:g}</text>'
            for v in values
        ]
        below = [
            f'<text x="{self.x(v):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{v:g}'
            "</text>"
            for v in iterations
        ]
        return f'<g class="axes">{"".join(across)}{"".join(below)}</g>'
