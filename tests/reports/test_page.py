"""The page in a real browser: it shows everything, sorts, filters, and needs nothing else."""

import json

import numpy as np
import pytest
from PIL import Image

from tadp_d2.cli import main
from tadp_d2.reports.curves import Line, chart, thinned, ticks

HOSTILE = "<script>document.title = 'owned'</script> of {caption} & \"so\" on"


@pytest.fixture
def report(make_run, voc, tmp_path):
    """The page of runs with pictures, curves and text that tries to break out."""
    values = {"null": (40, 70), "simple": (45, 75), "nearby": (9, 71), HOSTILE: (100, 72)}
    for number, (modifier, (ap, ap50)) in enumerate(values.items()):
        for seed in (1, 2, 3):
            folder = make_run(
                f"run_{number}_{seed}",
                modifier,
                seed,
                watercolor_test=voc(ap + seed, ap50, dog=80, cat=60),
                voc_2007_test=voc(60, 80, dog=90),
            )
            lines = [{"iteration": i, "total_loss": 2 - i / 100} for i in range(0, 100, 5)]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / "metrics.json").write_text(text)
            pictures = folder / "gallery" / "watercolor_test" / "night%2Fa%20b.png"
            pictures.mkdir(parents=True)
            for title in ("image", "truth", "prediction"):
                pixels = np.full((40, 60, 3), 60 * number, np.uint8)
                Image.fromarray(pixels).save(pictures / f"{title}.jpg")
    sheet = tmp_path / "attention.png"
    Image.new("RGB", (3000, 300), "green").save(sheet)
    output = tmp_path / "report"
    runs = str(tmp_path / "runs")
    main(["report", runs, "--attention", str(sheet), "--output", str(output)])
    return output / "report.html"


def column(browser, index):
    """The texts of a column of the table of Watercolor2k."""
    rows = "document.querySelectorAll('[data-dataset=watercolor_test] table')[0].tBodies[0].rows"
    return browser.run(f"[...{rows}].map(row => row.cells[{index}].textContent)")


def visible(browser, selector):
    return browser.run(
        f"[...document.querySelectorAll({selector!r})].filter(e => e.checkVisibility()).length"
    )


def test_everything_is_shown_and_nothing_is_wrong(browser, report):
    browser.problems.clear()
    browser.open(report, width=1280)
    # image, truth and four predictions, and the sheet of attention maps
    assert browser.run("[...document.images].filter(i => i.naturalWidth).length") == 7
    assert browser.run("document.querySelector('#images h4').textContent") == "night/a b.png"
    assert browser.run("document.querySelectorAll('#runs .run').length") == 12
    assert browser.run("document.querySelectorAll('#learning-curves polyline').length") == 12
    # (mean, cat, dog) and (mean, dog), of four modifiers
    assert visible(browser, "#classes .bar") == 20
    assert browser.run("document.title") == "tadp_d2 report"
    assert browser.run("document.body.textContent").count(HOSTILE) > 3
    assert browser.run("performance.getEntriesByType('resource').length") == 0
    assert browser.problems == []


def test_a_column_is_sorted_by_its_numbers_with_the_keyboard(browser, report):
    browser.open(report, width=1280)
    ours = 2
    before = column(browser, ours)
    assert before.count("-") == 3 + 7  # modifiers that were not run, other methods
    browser.run(
        "document.querySelectorAll('[data-dataset=watercolor_test] thead button')[2].focus()"
    )
    numbers = ["11.0 ± 1.0", "42.0 ± 1.0", "47.0 ± 1.0", "102.0 ± 1.0"]
    browser.press("Enter", 13, "\r")
    assert column(browser, ours) == numbers + ["-"] * 10
    browser.press(" ", 32, " ")
    assert column(browser, ours) == numbers[::-1] + ["-"] * 10
    sorted_by = "document.querySelectorAll('[aria-sort]')"
    assert browser.run(f"[...{sorted_by}].map(e => e.ariaSort)") == ["descending"]


def test_modifiers_and_data_sets_are_filtered(browser, report):
    browser.open(report, width=1280)
    browser.run("document.querySelector('[data-toggle=simple]').focus()")
    browser.press("Enter", 13, "\r")
    assert "TADP simple" in column(browser, 0)
    assert visible(browser, "tr[data-modifier=simple], figure[data-modifier=simple]") == 0
    assert visible(browser, "#classes .bar") == 15
    assert visible(browser, "#images img") == 5
    browser.run("const s = document.querySelector('select'); s.value = 'voc_2007_test';"
                "s.dispatchEvent(new Event('change'))")  # fmt: skip
    assert visible(browser, "#classes .bar") == 6
    assert visible(browser, "#images img") == 0
    browser.press("Enter", 13, "\r")
    assert visible(browser, "#classes .bar") == 8


def test_a_picture_is_enlarged_and_closed_with_the_keyboard(browser, report):
    browser.open(report, width=1280)
    browser.run("document.querySelector('[data-zoom]').focus()")
    browser.press("Enter", 13, "\r")
    assert browser.run("document.querySelector('dialog').open")
    browser.run("document.querySelector('dialog img').decode()")
    browser.press("Escape", 27)
    assert not browser.run("document.querySelector('dialog').open")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(browser, report, scheme, tmp_path):
    browser.open(report, width=390, scheme=scheme)
    assert browser.run("document.documentElement.scrollWidth") == 390
    browser.screenshot(tmp_path / "phone.png")
    pixels = np.asarray(Image.open(tmp_path / "phone.png").convert("L"), float)
    # A page of text: its ground is light or dark, and there is writing on it.
    ground = np.median(pixels)
    assert ground > 200 if scheme == "light" else ground < 60
    assert 0.01 < (abs(pixels - ground) > 100).mean() < 0.3


def test_a_chart_has_round_numbers_around_its_values_and_no_nan():
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert ticks(3, 97) == [0, 20, 40, 60, 80, 100]
    assert ticks(5, 5)[0] <= 5 <= ticks(5, 5)[-1]
    points = thinned([(i, i) for i in range(1001)])
    assert len(points) <= 200 and points[-1] == (1000, 1000)
    svg = chart("<loss>", [Line("<a>", '"m"', "c0", [(0, float("nan")), (5, 2.0)])])
    assert "nan" not in svg and "<loss>" not in svg and "<a>" not in svg
    assert chart("loss", [])
