import numpy as np
import pytest
import torch

from tadp_d2.diffusion.prompt_words import Word
from tadp_d2.inference.word_maps import Prompt
from tadp_d2.study.attention_shares import _named, _ratio, look, table


def test_the_ratio_is_that_of_the_means_within_and_without():
    heat = torch.tensor([[4.0, 1.0], [1.0, 1.0]])
    mask = np.zeros((8, 6), bool)
    mask[:4, :3] = True
    assert _ratio(heat, mask) == 4
    mask[:, :] = True
    assert _ratio(heat, mask) is None


def test_words_meet_the_boxes_of_their_class_and_the_end_of_the_text_all(world, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    found = look(world, "watercolor", pictures=4)
    assert {len(ratios) for ratios in found["end of text"].values()} == {4}
    # A picture names one class or more.
    assert all(len(ratios) >= 4 for ratios in found["words"].values())
    assert all(ratio > 0 for ratios in found["words"].values() for ratio in ratios)


def test_the_table_gives_median_and_share():
    ratios = {"s4": [0.5, 0.6, 2.0], "s5": [1.5]}
    lines = table([{"style": "photo", "words": ratios, "end of text": ratios}]).splitlines()
    cells = "0.60 (33%) | 1.50 (100%)"
    assert lines[2] == f"| photo | {cells} | {cells} |"


@pytest.mark.parametrize("count", [1, 2])
def test_plural_and_singular_are_the_same_class(count):
    spelled = {1: "person", 2: "people"}[count]
    prompt = Prompt("", [Word("a", (1,)), Word(spelled, (2,))], None)
    mask = np.ones((2, 2), bool)
    named, masks = _named(prompt, {"person": mask, "dog": mask})
    assert [word.text for word in named] == [spelled]
    assert len(masks) == 1
