"""The figure is read as a reader does: a mark is as far along as the numbers below it say."""

from xml.etree import ElementTree

import pytest

from tadp_d2.reports.spread import Difference, Spread
from tadp_d2.study.differences_figure import figure
from tadp_d2.study.questions import QUESTIONS, Claim
from tadp_d2.study.verdicts import Answer, ArmFinding

SVG = "{http://www.w3.org/2000/svg}"


def panel(finding: ArmFinding) -> ElementTree.Element:
    """That of one claim about one target."""
    answer = Answer(QUESTIONS["latent-scaling"], {"watercolor": [finding]})
    root = ElementTree.fromstring(figure([answer]))
    (block,) = root.findall(f"{SVG}g")
    return block.findall(f"{SVG}g")[-1]


def finding(difference: Difference | None, direction: int | None = 1) -> ArmFinding:
    return ArmFinding("scaled", Spread(1.0, None, 5), Claim("not scaled", direction), difference)


def values(panel: ElementTree.Element):
    """From a place across to the value that the numbers below give it."""
    numbers = {}
    for text in panel.findall(f"{SVG}text"):
        try:
            numbers[float(text.text)] = float(text.get("x"))
        except ValueError:
            continue  # "watercolor, AP50"
    low, high = min(numbers), max(numbers)
    assert low <= 0 <= high
    return lambda x: low + (x - numbers[low]) / (numbers[high] - numbers[low]) * (high - low)


@pytest.mark.parametrize("mean, interval", [(2.0, (1.2, 3.1)), (-7.5, (-30.0, 4.0))])
def test_mean_and_interval_lie_where_the_scale_says(mean, interval):
    drawn = panel(finding(Difference(mean, interval, 5)))
    value = values(drawn)
    (mark,) = drawn.findall(f"{SVG}g")
    line, circle = mark.find(f"{SVG}line"), mark.find(f"{SVG}circle")
    # A tenth of a pixel of 200, over a range of up to 40.
    assert value(float(circle.get("cx"))) == pytest.approx(mean, abs=0.03)
    ends = [value(float(line.get(end))) for end in ("x1", "x2")]
    assert ends == pytest.approx(interval, abs=0.03)


@pytest.mark.parametrize("direction, low_to_high", [(1, (0, 4)), (-1, (-2, 0))])
def test_the_side_that_the_paper_expects_is_shaded(direction, low_to_high):
    drawn = panel(finding(Difference(1.0, (-1.5, 3.5), 5), direction))
    value = values(drawn)
    (shade,) = drawn.findall(f"{SVG}rect")
    left = float(shade.get("x"))
    ends = value(left), value(left + float(shade.get("width")))
    assert ends == pytest.approx(low_to_high, abs=0.03)


@pytest.mark.parametrize("direction", [0, None])
def test_no_side_is_shaded_where_the_paper_expects_none(direction):
    assert not panel(finding(Difference(1.0, None, 2), direction)).findall(f"{SVG}rect")


def test_verdicts_differ_in_colour_and_what_was_not_run_is_a_dash():
    colors = {
        panel(finding(Difference(mean, (mean - 1, mean + 1), 5)))
        .find(f".//{SVG}circle")
        .get("fill")
        for mean in (2.0, -2.0, 0.0)
    }
    assert len(colors) == 3
    empty = panel(finding(None))
    assert empty.find(f".//{SVG}circle") is None
    assert "-" in [text.text for text in empty.findall(f"{SVG}text")]


def test_the_longest_name_is_not_cut():
    name = "an arm with a long name " * 4
    arm = ArmFinding(name, Spread(1.0, None, 5), Claim("none", 1), Difference(1.0, None, 5))
    root = ElementTree.fromstring(figure([Answer(QUESTIONS["latent-scaling"], {"comic": [arm]})]))
    (label,) = (text for text in root.iter(f"{SVG}text") if name in text.text)
    left = float(root.get("viewBox").split()[0])
    assert label.get("text-anchor") == "end"
    # Letters are about half as wide as the font is high.
    assert float(label.get("x")) - 13 / 2 * len(label.text) > left
