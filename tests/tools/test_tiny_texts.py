"""What texts say about an image is true of it, and every word is one of the tokenizer's."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

from tadp_d2.synthetic.drawing.class_figures import CLASSES
from tadp_d2.synthetic.drawing.scenes import place
from tadp_d2.synthetic.sentences import plural
from tadp_d2.synthetic.tiny_tokenizer import make_tokenizer
from tadp_d2.synthetic.training_samples import draw_turn

TOOLS = str(Path(__file__).parents[2] / "tools")
COLORS = ["white", "gray", "black", "brown", "orange", "yellow", "red", "green", "blue", "purple"]


@pytest.fixture(scope="module")
def tools():
    sys.path.insert(0, TOOLS)
    try:
        names = ("tiny_crops", "tiny_texts", "tiny_images")
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(TOOLS)


@pytest.fixture(scope="module")
def images():
    """A turn of all kinds: nine scenes, three streets, three rooms."""
    samples = [draw_turn(index, 6) for index in range(15)]
    assert [bool(sample.things) for sample in samples] == [True] * 12 + [False] * 3
    return [
        {**sample._asdict(), "things": [tuple(thing) for thing in sample.things]}
        for sample in samples
    ]


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_text_names_only_what_is_there_and_where_it_is(tools, images, mirrored):
    crops, texts, _ = tools
    torch.manual_seed(0)
    forms = set()
    for image in images[:9]:
        things = crops.seen(image["things"], mirrored)
        middles = {}
        for thing in things:
            middles.setdefault(thing.name, []).append((thing.left + thing.right) / 2)
        for _ in range(60):
            text = texts.varied(image, things, mirrored, whole=True)
            for name in CLASSES:
                words = (name, plural(name))
                assert name in middles or not any(re.search(rf"\b{w}\b", text) for w in words)
            for _, _, where in re.findall(r"(in|on) (a|an) (park|street|beach|meadow)\b", text):
                assert place(where) == place(image["setting"])
            for color, name in re.findall(rf"\b({'|'.join(COLORS)}) (\w+)", text):
                assert (name, color) in {(t.name, t.color) for t in things}
                forms.add("colored")
            for name, side in re.findall(r"\ban? (\w+) on the (left|right)$", text):
                limit = min(middles[name]) if side == "left" else 1 - max(middles[name])
                assert limit < 0.5
                forms.add(side)
            for one, side, other in re.findall(r"^a (\w+) (left|right) of a (\w+)$", text):
                gaps = [b - a for a in middles[one] for b in middles[other]]
                assert (max(gaps) if side == "left" else -min(gaps)) > 0.1
                forms.add("beside")
    assert forms == {"colored", "left", "right", "beside"}


def test_every_word_of_every_text_is_one_token(tools, images, world):
    crops, texts, _ = tools
    torch.manual_seed(0)
    tokenizer = make_tokenizer(texts.vocabulary(images), 2**14)
    styles = {}
    for image in images:
        things = crops.seen(image["things"], False)
        for _ in range(60):
            text = texts.styled(texts.varied(image, things, False, whole=True), image["style"])
            words = re.findall(r"\w+|,", text)
            assert len(tokenizer.tokenize(text)) == len(words), text
            styles.setdefault(image["style"], []).append(text)
    for style, own in styles.items():
        assert 0.02 < own.count("") / len(own) < 0.2, style
        assert sum("watercolor" in text for text in own) > 20 or style != "watercolor"


def test_samples_are_drawn_once_and_kept(tools, tmp_path, monkeypatch):
    _, _, kept = tools
    monkeypatch.setattr(kept, "_PART", 2)
    first = kept.kept_samples(tmp_path, 3, 6)
    assert len(first) == 3 and len(list(tmp_path.iterdir())) == 2
    expected = draw_turn(2, 6)
    assert first[2]["caption"] == expected.caption
    assert torch.equal(first[2]["image"], kept.to_tensor(expected.image))
    monkeypatch.setattr(kept, "in_processes", None)
    assert kept.kept_samples(tmp_path, 4, 6)[3]["style"] == draw_turn(3, 6).style
