"""Texts that come from annotations, other captions, or the command line."""

import json
import sys
from pathlib import Path

import pytest

from tadp_d2.captioning.export import export_captions
from tadp_d2.captioning.sets import CaptionImage, find_images
from tadp_d2.captioning.sources import class_names, fixed_text, nouns, oracle, published
from tadp_d2.data.present_classes import PresentClasses
from tadp_d2.data.texts import read_captions, write_captions
from tadp_d2.errors import UserError

VOCABULARY = tuple(f"class{i}" for i in range(20))
REAL = Path("../shared/data/tadp_captions")


def _images(number, present=(1, 4, 7, 19)):
    return [
        CaptionImage(str(i), Path(f"{i}.jpg"), PresentClasses(VOCABULARY, frozenset(present)))
        for i in range(number)
    ]


def test_an_oracle_names_the_classes_present_in_class_order(world):
    images = find_images("voc_2007_test")
    texts = oracle().texts(images, [])
    assert texts == [" ".join(image.classes()) for image in images]
    assert any(" " in text for text in texts)
    assert oracle().texts(_images(1), []) == ["class1 class4 class7 class19"]
    assert oracle().texts(_images(1, present=()), []) == [""]


@pytest.mark.parametrize("precision", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("recall", [0.5, 0.75, 1.0])
def test_precision_and_recall_hold_in_expectation(precision, recall):
    number, present = 3000, {"class1", "class4", "class7", "class19"}
    texts = oracle(precision, recall, seed=5).texts(_images(number), [])
    names = [text.split() for text in texts]
    right = sum(len(present & set(n)) for n in names)
    said = sum(len(n) for n in names)
    assert all(n == [c for c in VOCABULARY if c in n] for n in names)
    # Five standard deviations: of 12 000 names kept with probability `recall`, and of at most
    # 12 000 names added, whose number per image varies by at most 1/2 around its mean.
    assert abs(right / (4 * number) - recall) <= 5 * (recall * (1 - recall) / (4 * number)) ** 0.5
    expected = right * (1 - precision) / precision
    assert abs((said - right) - expected) <= 5 * 0.5 * number**0.5 * (precision < 1)


def test_an_oracles_errors_depend_on_the_image_and_the_seed_alone():
    images = _images(40)
    texts = oracle(0.5, 0.5, seed=1).texts(images, [])
    assert oracle(0.5, 0.5, seed=1).texts(images[::-1], [])[::-1] == texts
    assert oracle(0.5, 0.5, seed=1).texts(images[7:8], []) == texts[7:8]
    assert oracle(0.5, 0.5, seed=2).texts(images, []) != texts
    assert len(set(texts)) > 20
    few, more = (oracle(1.0, r, seed=1).texts(images, []) for r in (0.5, 0.75))
    assert all(set(a.split()) <= set(b.split()) for a, b in zip(few, more, strict=True))


def test_an_oracle_without_enough_absent_classes_adds_all_of_them():
    image = CaptionImage("1", Path("1.jpg"), PresentClasses(("a", "b", "c"), frozenset({0, 1})))
    assert oracle(0.1).texts([image], []) == ["a b c"]


@pytest.mark.parametrize("value", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_is_above_0_and_at_most_1(value):
    with pytest.raises(UserError, match="--precision .*expected a number above 0"):
        oracle(precision=value)
    with pytest.raises(UserError, match="--recall .*expected a number above 0"):
        oracle(recall=value)


def test_class_names_are_those_of_the_data_set():
    assert class_names().texts(_images(2), []) == [" ".join(VOCABULARY)] * 2
    stray = CaptionImage("1", Path("1.jpg"))
    for source in (class_names(), oracle()):
        with pytest.raises(UserError, match="1.jpg: belongs to no data set with classes"):
            source.texts([stray], [])
    assert fixed_text("a photo").texts([stray], []) == ["a photo"]


def _captions(tmp_path, texts):
    path = tmp_path / "other.jsonl"
    write_captions(path, "other", texts, {"model": "m"})
    return read_captions(path)


def test_nouns_are_left_in_their_order(tmp_path):
    pytest.importorskip("textblob")
    texts = {
        "0": "a large airplane on the ground",
        "1": "two trains are parked next to each other",
        "2": "a woman in cowboy gear riding a horse, a horse",
        "3": "three men on bicycles racing on a track",
        "4": "a cat sitting on a wooden ladder",
        "5": "",
        "6": "sitting",
    }
    source = nouns(_captions(tmp_path, texts), _images(7))
    assert source.texts(_images(7), []) == [
        *("airplane ground", "trains", "woman cowboy gear horse", "men bicycles track"),
        *("cat ladder", "", ""),
    ]
    assert source.made_by["from_made_by"] == {"model": "m"}
    assert source.made_by["tagger"].startswith("textblob ")


def test_without_a_tagger_nothing_pretends_to_be_one(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "textblob", None)
    monkeypatch.setitem(sys.modules, "textblob.taggers", None)
    with pytest.raises(UserError, match="pip install textblob"):
        nouns(_captions(tmp_path, {"0": "a dog"}), _images(1))


def test_captions_of_a_file_need_every_image(tmp_path):
    captions = _captions(tmp_path, {"0": "a dog", "2": "a bird"})
    with pytest.raises(UserError, match=r"no caption for image '1' \(1 such of 3\)"):
        published(captions, _images(3))


def test_an_export_is_the_published_format(tmp_path):
    captions = _captions(tmp_path, {"0": "a dög", "x/1.png": ""})
    export_captions(captions, tmp_path / "out.json")
    expected = {"0": {"captions": ["a dög"]}, "x/1.png": {"captions": [""]}}
    assert json.loads((tmp_path / "out.json").read_text()) == expected
    with pytest.raises(UserError, match="out.json exists already"):
        export_captions(captions, tmp_path / "out.json")
    with pytest.raises(UserError, match="ends in .json"):
        export_captions(captions, tmp_path / "out.jsonl")


@pytest.mark.skipif(not REAL.is_dir(), reason="the published caption files are not here")
@pytest.mark.parametrize("name", ["watercolor_captions", "dark_zurich_val_captions"])
def test_published_captions_come_through_unchanged(name, tmp_path):
    path = REAL / f"{name}.json"
    images = [CaptionImage(image_id, Path("none")) for image_id in json.loads(path.read_text())]
    source = published(read_captions(path), images)
    texts = dict(zip((i.image_id for i in images), source.texts(images, []), strict=True))
    write_captions(tmp_path / "d.jsonl", "d", texts, source.made_by)
    export_captions(read_captions(tmp_path / "d.jsonl"), tmp_path / "d.json")
    exported = json.loads((tmp_path / "d.json").read_text())
    original = json.loads(path.read_text())
    assert {i: e["captions"][0] for i, e in exported.items()} == {
        i: e["captions"][0] for i, e in original.items()
    }
