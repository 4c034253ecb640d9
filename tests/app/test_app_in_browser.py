"""The page in a real browser, from the image to the copied command."""

import json
import shlex
import zlib

import numpy as np
import pytest
from PIL import Image

from tadp_d2.app.player import DRAWING, HEAT, Player, data_url
from tadp_d2.cli import main
from tadp_d2.conditioning.domains import get_modifier
from tadp_d2.data.images import read_rgb
from tadp_d2.inference.word_maps import AttentionProbe, make_prompts
from tadp_d2.modeling.backbone import find_diffusion_backbone
from tadp_d2.visualization.attention_sheet import draw_heat

WORDS = "[...document.querySelectorAll('#shown article')].map(a => [...a.querySelectorAll('.words button')].map(b => b.textContent).join(' '))"  # noqa: E501
SHOWN = "[...document.querySelectorAll('#shown img')].map(i => i.src)"
PROMPTS = "[...document.querySelectorAll('.prompt')].map(p => p.innerText)"
STATUS = "document.querySelector('#status').textContent"
READY = "sides.length === 2 && sides.every(side => side.reading) && image"


def write(browser, side, text):
    """Writes a caption with the keyboard."""
    browser.run(f"sides[{side}].text.focus(); sides[{side}].text.select()")
    browser.call("Input.insertText", text=text)


def predict(browser, wait):
    browser.run("document.querySelector('#run').focus(); results = null")
    browser.press("Enter", 13, "\r")
    wait("results && !job")


@pytest.fixture
def page(browser, server, wait):
    browser.problems.clear()
    browser.open(server.url, width=1280)
    wait(READY)
    return browser


def test_from_an_image_to_the_command(page, server, player, wait, tmp_path, monkeypatch):
    # With Tab alone one comes to the second image.
    page.run("document.querySelector('#images button').focus()")
    page.press("Tab", 9)
    page.press("Enter", 13, "\r")
    wait("image === 'dark_zurich_val:1' && sides[0].text.value")
    write(page, 0, "a dog and a bird")
    write(page, 1, "a dog")
    wait(f"{PROMPTS}[1].includes('a dog') && !{PROMPTS}[1].includes('bird')")
    wait(f"{PROMPTS}[0].includes('bird')")
    # Begin, 10 words, end.
    assert page.run(PROMPTS) == [
        "as the model reads it\n\na dark night photo of a dog and a bird\n\n12 of 77 tokens",
        "as the model reads it\n\na dog\n\n4 of 77 tokens",
    ]
    marked = "[...document.querySelectorAll('.prompt mark')].map(m => m.textContent)"
    assert page.run(marked) == ["dark", "night", "photo", "of", "and", "bird"]
    predict(page, wait)

    file, name = server.playground.shelf.find("dark_zurich_val:1")
    image = read_rgb(file)[0]
    pixels = np.asarray(image)
    output = play(player, pixels, "a dog and a bird", "simple")
    drawing = data_url(player.predictor.task.draw_large(pixels, output), DRAWING)
    assert page.run(SHOWN)[0] == drawing
    assert page.run(WORDS) == ["a dark night photo of a dog and a bird", "a dog"]

    # A word that is reached with Tab shows its maps on both sides, and leaves with Escape.
    page.run("document.querySelectorAll('#shown .words button')[6].focus()")
    assert page.run("document.activeElement.textContent") == "dog"
    player._speaker.test_modifier = get_modifier("night", "simple")
    prompt = make_prompts(player.predictor.model.conditioner, "a dog and a bird")["caption"]
    probe = AttentionProbe(player.cfg, find_diffusion_backbone(player.predictor.model))
    heat = draw_heat(image, probe(pixels, prompt)["mean"][6].numpy())
    assert page.run(SHOWN)[0] == data_url(heat, HEAT)
    assert page.run("[...document.querySelectorAll('.lit')].map(b => b.textContent)") == ["dog"] * 2
    page.press("Enter", 13, "\r")  # keeps it
    page.run("document.activeElement.blur()")
    assert page.run(SHOWN)[0] == data_url(heat, HEAT)
    page.press("Escape", 27)
    assert page.run(SHOWN)[0] == drawing

    command = page.run("document.querySelector('#shown pre').textContent")
    monkeypatch.chdir(tmp_path)
    main(shlex.split(command)[1:])
    (record,) = (json.loads(f.read_text()) for f in (tmp_path / "predictions").glob("*.json"))
    assert record["prompt"] == "a dark night photo of a dog and a bird"
    assert record["shares"] == player.predictor.task.write(output, tmp_path / "own.json")["shares"]
    assert len(record["shares"]) > 1

    rows = page.run("document.querySelector('#difference table').innerText").splitlines()
    assert rows[:2] == ["\tA\tB", "words only here\tdark night photo of and bird\t-"]
    first, second = (
        player.predictor.task.summary(found)
        for found in (output, play(player, pixels, "a dog", "null"))
    )
    for name in {**first, **second}:
        assert f"{name}\t{first.get(name, '-')}\t{second.get(name, '-')}" in rows
    assert len(rows) == 2 + len({**first, **second})
    loaded = page.run("performance.getEntriesByType('resource').map(e => e.name)")
    assert loaded and all(url.startswith(server.url) for url in loaded if url[:5] != "data:")
    assert page.problems == []


def play(player, pixels, text, modifier):
    """The model's output, not by way of the page."""
    conditioner = player.predictor.model.conditioner
    conditioner.test_modifier = get_modifier("night", modifier)
    return player.predictor(pixels, text)


def give(page, name, data, how):
    """Chooses or drops a file, given as bytes."""
    event = {
        "choose": "$('file').files = given.files; $('file').dispatchEvent(new Event('change'))",
        "drop": "document.dispatchEvent(new DragEvent('drop', {dataTransfer: given}))",
    }[how]
    page.run(
        f"(() => {{ const given = new DataTransfer(); given.items.add(new File([new Uint8Array("
        f"{list(data)})], {name!r})); {event}; }})()"
    )


def test_an_upload_is_shown_and_a_bad_one_gets_a_message(page, wait, tmp_path):
    Image.new("RGB", (60, 40), (0, 0, 250)).save(tmp_path / "blue.png")
    data = (tmp_path / "blue.png").read_bytes()
    give(page, "my <b>blue.png", data, "choose")
    wait("$('chosen').innerText === 'my <b>blue.png'")
    page.run("$('chosen').firstElementChild.decode()")
    assert page.run("$('chosen').firstElementChild.naturalWidth") == 60
    give(page, "notes.png", b"no image at all", "drop")
    wait(f"{STATUS}.includes('notes.png: ')")
    assert page.run(STATUS).startswith("notes.png: cannot be read as an image (no readable JPEG")
    assert page.run("$('status').className") == "error"
    # 30 000 x 30 000 pixels, in a file of 70 bytes.
    bomb = data[:16] + (30_000).to_bytes(4) * 2 + data[24:]
    bomb = bomb[:29] + zlib.crc32(bomb[12:29]).to_bytes(4) + bomb[33:]
    give(page, "bomb.png", bomb, "drop")
    wait(f"{STATUS}.includes('bomb.png: ')")
    assert "too large: " in page.run(STATUS)
    page.run("setup.largest = 10")
    give(page, "large.png", data, "drop")
    wait(f"{STATUS}.includes('large.png: is larger than')")
    # The good one is still chosen.
    assert page.run("$('chosen').innerText") == "my <b>blue.png"


def test_a_slow_prediction_shows_progress_and_is_cancelled(page, wait, monkeypatch):
    predict(page, wait)
    first = page.run(SHOWN)
    asked = []
    watched = Player._watched

    def forever(self, step):
        def stay():
            asked.append(1)
            while True:
                step()

        return watched(self, stay)

    monkeypatch.setattr(Player, "_watched", forever)
    page.run("$('run').click()")
    wait("$('progress').value === 1 && !$('progress').hidden")
    page.press("Escape", 27)
    wait(f"{STATUS} === 'Cancelled.'")
    assert page.run("[$('run').disabled, $('cancel').hidden, $('progress').hidden]") == [
        *(False, True, True)
    ]
    assert asked
    monkeypatch.undo()
    predict(page, wait)
    assert page.run(SHOWN) == first


def test_a_template_and_a_wrong_one(page, wait):
    page.run(
        "sides[0].modifier.value = OWN; sides[0].modifier.onchange();"
        "sides[0].template.value = 'no slot'; sides[0].template.oninput()"
    )
    wait(f"{PROMPTS}[0].includes('no slot')")
    assert "modifier template 'no slot': expected exactly one {caption}" in page.run(PROMPTS)[0]
    page.run("$('run').click()")
    wait(f"{STATUS}.includes('expected exactly one')")
    page.run("sides[0].domain.value = 'night'; sides[0].fit(); sides[0].modifier.value = 'ti';")
    page.run("sides[0].modifier.onchange()")
    wait(f"{PROMPTS}[0].includes('needs a learned token')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(browser, server, wait, scheme):
    browser.open(server.url, width=390, scheme=scheme)
    wait(READY)
    predict(browser, wait)
    assert browser.run("document.documentElement.scrollWidth") == 390
