"""Average precision of tags: against its definition, by hand, over processes and label maps."""

import math

import numpy as np
import pytest
import torch

from tadp_d2.data.present_classes import PresentClasses
from tadp_d2.evaluation import tag_metrics
from tadp_d2.evaluation.tag_metrics import TagEvaluator, average_precision

NAMES = ("background", "dog", "cat", "car", "sky")
VOCABULARY = ("background", "dog", "cat", "car")  # the sky is not looked for
PRESENT = {"a": {0, 1}, "b": {0, 2}, "c": {1, 2}, "d": set()}
SCORES = {
    "a": (0, 3.0, 1.0, 9.0, 0),
    "b": (0, 2.0, 2.0, 8.0, 0),
    "c": (0, 1.0, 3.0, 7.0, 0),
    "d": (0, 0.0, 2.0, 6.0, 0),
}


def by_definition(scores, present):
    """Sum over the thresholds, from the highest on, of precision times what recall gains."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = [p for s, p in zip(scores, present, strict=True) if s >= threshold]
        gained = sum(taken) / sum(present)
        total += (gained - recall) * sum(taken) / len(taken)
        recall = gained
    return total


def test_average_precision_is_that_of_its_definition_whatever_the_order():
    rng = np.random.default_rng(0)
    for number in range(50):
        scores = rng.integers(0, 2 + number, 30).astype(float)  # many are equal
        present = (rng.random(30) < 0.3).astype(float)
        present[0] = 1
        found = average_precision(scores, present)
        assert found == pytest.approx(by_definition(scores, present))
        order = rng.permutation(30)
        assert average_precision(scores[order], present[order]) == pytest.approx(found)
    assert math.isnan(average_precision(scores, np.zeros(30)))


def evaluator(ids):
    truths = {i: PresentClasses(VOCABULARY, frozenset(found)) for i, found in PRESENT.items()}
    own = TagEvaluator(NAMES, truths)
    for image_id in ids:
        output = {"tag_scores": torch.tensor(SCORES[image_id])}
        own.process([{"image_id": image_id}], [output])
    return own


def test_the_mean_is_over_the_classes_that_are_shown():
    tags = evaluator("abcd").evaluate()["tags"]
    assert tags.keys() == {"mAP", "AP-dog", "AP-cat", "AP-car", "AP-sky"}
    # Dogs are in the first and third image by their scores; cats in the first, and in one of two
    # that share the next score.
    assert tags["AP-dog"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert tags["AP-cat"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert math.isnan(tags["AP-car"]) and math.isnan(tags["AP-sky"])
    assert tags["mAP"] == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_an_image_that_two_processes_saw_counts_once(monkeypatch):
    expected = evaluator("abcd").evaluate()
    other = evaluator("dbb")._rows
    monkeypatch.setattr(tag_metrics.comm, "gather", lambda rows: [other, rows])
    found = evaluator("cab").evaluate()
    assert str(found) == str(expected)
    monkeypatch.setattr(tag_metrics.comm, "is_main_process", lambda: False)
    assert evaluator("cab").evaluate() is None
