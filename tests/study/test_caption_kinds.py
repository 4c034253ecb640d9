"""Texts are what their names say: counted by hand on many pictures."""

from pathlib import Path

import numpy as np
import pytest

from tadp_d2.captioning.rules import remove_style
from tadp_d2.data.datasets.art import SHARED_CLASSES
from tadp_d2.data.texts import read_captions
from tadp_d2.study import caption_kinds
from tadp_d2.study.caption_kinds import KINDS, CaptionedImage, read_pictures, write_texts
from tadp_d2.synthetic.drawing.scenes import describe, sample_scene


@pytest.fixture(scope="module")
def pictures() -> list[CaptionedImage]:
    """300 pictures of the world, without drawing them."""
    scenes = [sample_scene(np.random.default_rng(number)) for number in range(300)]
    return [
        CaptionedImage(
            str(number), describe(scene), frozenset(thing.name for thing in scene.objects)
        )
        for number, scene in enumerate(scenes)
    ]


@pytest.mark.parametrize("precision, recall", [(1, 1), (0.75, 1), (0.5, 1), (1, 0.75), (1, 0.5)])
def test_an_oracle_is_as_good_as_it_says(pictures, precision, recall):
    told = caption_kinds.oracle(pictures, seed=3, precision=precision, recall=recall)
    right = wrong = missing = 0
    for picture in pictures:
        names = told[picture.image_id].split()
        assert len(set(names)) == len(names)
        right += len(picture.classes.intersection(names))
        wrong += len(set(names) - picture.classes)
        missing += len(picture.classes - set(names))
    assert right + missing == sum(len(picture.classes) for picture in pictures)
    # Five standard deviations: of names kept with probability `recall`, and of names added, whose
    # number in a picture varies by at most 1/2 around its mean.
    named = right + missing
    assert abs(right - recall * named) <= 5 * (named * recall * (1 - recall)) ** 0.5
    expected = right * (1 - precision) / precision
    assert abs(wrong - expected) <= 5 * 0.5 * len(pictures) ** 0.5 * (precision < 1)


def things(caption: str) -> list[str]:
    """What a caption names, in the singular."""
    words = [word.strip(",").replace("people", "person") for word in caption.split()]
    return [word.removesuffix("s") for word in words if word.removesuffix("s") in SHARED_CLASSES]


@pytest.mark.parametrize("rate", [0.25, 0.5, 1.0])
def test_words_are_dropped_at_the_rate(pictures, rate):
    dropped = caption_kinds.drop_words(pictures, seed=1, rate=rate)
    named = sum(len(things(p.caption)) for p in pictures)
    left = sum(len(things(caption)) for caption in dropped.values())
    assert left == named - round(rate * named)
    for picture in pictures:
        kept = iter(things(picture.caption))
        # In their order, and the place stays.
        assert all(thing in kept for thing in things(dropped[picture.image_id]))
        assert dropped[picture.image_id].split()[-3:] == picture.caption.split()[-3:]


@pytest.mark.parametrize("rate", [0.25, 0.5, 1.0])
def test_words_are_wrong_at_the_rate(pictures, rate):
    spoiled = caption_kinds.replace_words(pictures, seed=1, rate=rate)
    pairs = [(p, things(p.caption), things(spoiled[p.image_id])) for p in pictures]
    wrong = sum(name not in p.classes for p, _, names in pairs for name in names)
    assert all(len(before) == len(after) for _, before, after in pairs)
    assert wrong == round(rate * sum(len(before) for _, before, _ in pairs))
    changed = sum(a != b for _, before, after in pairs for a, b in zip(before, after, strict=True))
    assert changed == wrong


def test_captions_that_are_spoiled_remain_captions():
    picture = CaptionedImage(
        "1", "two dogs, a person and a cat on a beach", frozenset(("dog", "person"))
    )
    assert caption_kinds._without(picture, {0}) == "a person and a cat on a beach"
    assert caption_kinds._without(picture, {1, 2}) == "two dogs on a beach"
    assert caption_kinds._without(picture, {0, 1, 2}) == "on a beach"
    people = CaptionedImage("1", "two people in a park", frozenset(SHARED_CLASSES) - {"bird"})
    assert caption_kinds.replace_words([people], 0, 1.0) == {"1": "two birds in a park"}


def test_what_is_spoiled_at_a_small_rate_is_spoiled_at_a_greater_one(pictures):
    quarter, half = (caption_kinds.drop_words(pictures, seed=0, rate=rate) for rate in (0.25, 0.5))
    for picture in pictures:
        assert set(things(half[picture.image_id])) <= set(things(quarter[picture.image_id]))


def test_texts_depend_on_the_seed_and_not_on_the_order(pictures):
    for kind, make in KINDS.items():
        made = make(pictures, 5)
        assert make(pictures[::-1], 5) == made
        assert list(made) == [picture.image_id for picture in pictures]
        drawn = kind[-4:] in ("0.25", " 0.5", "0.75") or kind == "words wrong: 1.0"
        assert (make(pictures, 6) != made) == drawn


@pytest.mark.parametrize("style", caption_kinds.STYLES)
def test_the_cleaning_rules_undo_what_names_the_style(pictures, style):
    uncleaned = KINDS[f"uncleaned {style}"](pictures, 0)
    for picture in pictures:
        assert style in uncleaned[picture.image_id]
        assert remove_style(uncleaned[picture.image_id], style) == picture.caption


def test_the_worlds_annotations_and_captions_agree(world, tmp_path: Path):
    pictures = read_pictures("watercolor_test")
    assert len(pictures) == 6
    assert all(set(things(p.caption)) == p.classes for p in pictures)
    write_texts(tmp_path / "watercolor_test.jsonl", "watercolor_test", "oracle", seed=0)
    captions = read_captions(tmp_path / "watercolor_test.jsonl")
    assert all(set(captions[p.image_id].split()) == p.classes for p in pictures)
    # Streets have their classes by pixels, and captions all the same.
    assert {p.classes for p in read_pictures("dark_zurich_val")} == {frozenset()}
