"""Referring segmentation metrics: the golden file, hand-computed numbers, the evaluator."""

import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from tadp_d2.data.readers.refer import draw_mask
from tadp_d2.evaluation.refer_metrics import (
    THRESHOLDS,
    ReferringEvaluator,
    best_mask,
    best_of,
    count_answers,
    count_pixels,
    object_mask,
    summarize,
)

FOLDER = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parents[1] / "golden")


@pytest.fixture(scope="module")
def golden():
    with safe_open(FOLDER / "refer_evaluation.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def test_agrees_with_the_released_evaluation(golden):
    truths = golden["targets"][golden["reference_of_expression"]].bool().numpy()
    found = [object_mask(logits).numpy() for logits in golden["logits"]]
    counts = [count_pixels(*pair) for pair in zip(found, truths, strict=True)]
    assert [both for both, _ in counts] == golden["intersection"].tolist()
    assert [either for _, either in counts] == golden["union"].tolist()
    assert any(either == 0 for _, either in counts), "an empty mask is not in the file"
    results = summarize(counts)
    assert results["oIoU"] == pytest.approx(golden["overall_iou"].item(), rel=1e-12)
    assert results["mIoU"] == pytest.approx(golden["mean_iou"].item(), rel=1e-12)
    assert golden["precision_thresholds"].tolist() == list(THRESHOLDS)
    precision = [results[f"P@{threshold}"] for threshold in THRESHOLDS]
    assert precision == pytest.approx(golden["precision"].tolist(), rel=1e-12)


def test_numbers_by_hand():
    # IoU 0.5, 0 (nothing there, nothing found), 0.9.
    assert summarize([(5, 10), (0, 0), (9, 10)]) == pytest.approx(
        {
            "oIoU": 70.0,
            "mIoU": 100 * 1.4 / 3,
            "P@0.5": 200 / 3,
            "P@0.6": 100 / 3,
            "P@0.7": 100 / 3,
            "P@0.8": 100 / 3,
            "P@0.9": 100 / 3,
        }
    )
    assert all(math.isnan(value) for value in summarize([]).values())


def rectangle(x0, y0, x1, y1):
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def entry(number, image_id, *polygons, size=(20, 30)):
    return {
        "expression_id": number,
        "image_id": image_id,
        "height": size[0],
        "width": size[1],
        "polygons": polygons,
    }


def logits(mask):
    mask = torch.as_tensor(mask).float()
    return torch.stack([0.5 - mask, mask - 0.5])


def test_the_best_answers_without_text():
    # Image 1: three expressions of a 10 x 10 object, one of another of 5 x 4. Image 2: one of each
    # of two that share half of their area.
    big, small = rectangle(0, 0, 10, 10), rectangle(20, 0, 25, 4)
    left, right = rectangle(0, 0, 10, 10), rectangle(5, 0, 15, 10)
    entries = [entry(n, 1, big) for n in (1, 2, 3)] + [entry(4, 1, small)]
    entries += [entry(5, 2, left), entry(6, 2, right)]
    evaluator = ReferringEvaluator()
    for one in entries:
        evaluator.process([one], [{"sem_seg": logits(np.zeros((20, 30)))}])
    results = evaluator.evaluate()["referring"]
    assert results["oIoU"] == results["mIoU"] == 0
    # One object: the big one for all of image 1, either for image 2.
    both, either = 3 * 100 + 0 + 100 + 50, 3 * 100 + 120 + 100 + 150
    assert results["oIoU_one_object"] == pytest.approx(100 * both / either)
    # Any mask: the big one, and both of image 2 together; the small one would lower the ratio.
    both, either = 3 * 100 + 0 + 200, 3 * 100 + 120 + 300
    assert results["oIoU_without_text"] == pytest.approx(100 * both / either)


@pytest.mark.parametrize("seed", range(5))
def test_no_answer_without_text_is_better(seed):
    """All answers to two images of three pixels, tried."""
    rng = np.random.default_rng(seed)
    images = [rng.integers(2, size=(1, 3, n), dtype=np.uint8) for n in (3, 2)]
    for masks in images:
        masks[0, 0] = 1

    def overall(answers):
        pairs = [
            count_pixels(answer.astype(bool), masks[..., place].astype(bool))
            for answer, masks in zip(answers, images, strict=True)
            for place in range(masks.shape[2])
        ]
        return summarize(pairs)["oIoU"]

    any_mask = [np.array(bits).reshape(1, 3) for bits in itertools.product((0, 1), repeat=3)]
    best = max(overall(answers) for answers in itertools.product(any_mask, repeat=2))
    assert best_mask(images) == pytest.approx(best)
    objects = [np.moveaxis(masks, 2, 0) for masks in images]
    best = max(overall(answers) for answers in itertools.product(*objects))
    assert best_of([count_answers(masks) for masks in images]) == pytest.approx(best)


def test_overlaps_count_or_not():
    one = entry(1, 1, rectangle(0, 0, 10, 10), rectangle(5, 0, 15, 10))
    found = np.zeros((20, 30), bool)
    found[:10, :15] = True
    for overlaps, expected in ((True, 100.0), (False, 100 * 2 / 3)):
        evaluator = ReferringEvaluator(overlaps)
        evaluator.process([one], [{"sem_seg": logits(found)}])
        assert evaluator.evaluate()["referring"]["oIoU"] == pytest.approx(expected)


def test_the_released_size_squashes_the_truth_as_pillow_does():
    rng = np.random.default_rng(0)
    one = entry(1, 1, [1, 1, 28, 3, 17.5, 18], rectangle(2, 12, 9, 19))
    # Of mode P, for which Pillow takes the nearest pixel, as the released code relies on.
    image = Image.new("P", (30, 20))
    image.putdata(draw_mask(one).ravel().astype(int).tolist())
    squashed = np.asarray(image.resize((16, 16))) != 0
    found = rng.random((16, 16)) < 0.5
    evaluator = ReferringEvaluator()
    output = {"sem_seg": logits(np.ones((20, 30))), "sem_seg_input": logits(found)}
    evaluator.process([one], [output])
    both, either = (found & squashed).sum(), (found | squashed).sum()
    assert evaluator.evaluate()["referring"]["oIoU"] == pytest.approx(100 * both / either)
