"""The sheet shows what was drawn by the prompts above it."""

import pytest
from PIL import Image

from tadp_d2.personalization import samples
from tadp_d2.personalization.samples import SampleSheet
from tadp_d2.personalization.settings import InversionSettings


@pytest.fixture
def drawn(monkeypatch):
    """The prompts of all pictures that were drawn, in order."""
    prompts = []

    def draw(model, prompt, *_):
        prompts.append(prompt)
        return Image.new("RGB", (8, 8), prompt)

    monkeypatch.setattr(samples, "draw_sample", draw)
    return prompts


@pytest.fixture
def shown(monkeypatch):
    """The rows of each sheet: label -> colours."""
    sheets = []
    write = samples.contact_sheet

    def contact_sheet(pictures, columns, titles, rows):
        colours = [picture.getpixel((0, 0)) for picture in pictures]
        starts = range(0, len(colours), columns)
        sheets.append({r: colours[i : i + columns] for r, i in zip(rows, starts, strict=True)})
        return write(pictures, columns, titles, rows=rows)

    monkeypatch.setattr(samples, "contact_sheet", contact_sheet)
    return sheets


def test_rows_of_other_prompts_or_samplers_are_not_shown(drawn, shown, tmp_path):
    red, blue = (255, 0, 0), (0, 0, 255)
    settings = InversionSettings(token="<new>", init="dog", steps=8, rate=1e-3)

    def add_row(prompts, step, steps=2):
        SampleSheet(tmp_path, prompts, steps, settings).add_row(None, step)
        return shown[-1]

    assert add_row(("red", "blue"), 0) == {"step 0": [red, blue]}
    # What is there is not drawn again.
    assert add_row(("red", "blue"), 0) == {"step 0": [red, blue]}
    assert drawn == ["red", "blue"]
    assert add_row(("red", "blue"), 4) == {"step 0": [red, blue], "step 4": [red, blue]}
    assert add_row(("blue", "red"), 8) == {"step 8": [blue, red]}
    assert add_row(("red", "blue"), 8, steps=3) == {"step 8": [red, blue]}
    assert add_row(("red", "blue"), 8) == {f"step {step}": [red, blue] for step in (0, 4, 8)}
