"""Segmentation metrics against an independent count and against Cityscapes' own scripts."""

import itertools

import cv2
import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as cityscapes
from cityscapesscripts.helpers.labels import trainId2label
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from tadp_d2.data.datasets.cityscapes import register_street_scenes
from tadp_d2.data.datasets.cityscapes_categories import CLASSES
from tadp_d2.data.readers.label_maps import Folders
from tadp_d2.errors import UserError
from tadp_d2.evaluation.sem_seg import NamedSemSegEvaluator

# In neither truth nor prediction; in the prediction only; in the truth only.
ABSENT, INVENTED, MISSED = 16, 14, 9


@pytest.fixture
def street(tmp_path):
    """A registered set of three pictures, and a prediction for each."""
    rng = np.random.default_rng(0)
    for folder in ("images/city", "labels/city", "predictions"):
        (tmp_path / folder).mkdir(parents=True)
    truths, predictions = [], []
    for index in range(3):
        known = [c for c in range(19) if c not in (ABSENT, INVENTED)]
        truth = rng.choice([*known, 255], (20, 30)).astype(np.uint8)
        wrong = rng.choice([c for c in range(19) if c not in (ABSENT, MISSED)], (20, 30))
        prediction = np.where((rng.random((20, 30)) < 0.6) & (truth != 255), truth, wrong)
        prediction[prediction == MISSED] = 0
        name = f"city_{index:06d}_000000"
        Image.new("RGB", (30, 20)).save(tmp_path / f"images/city/{name}_leftImg8bit.png")
        Image.fromarray(truth).save(tmp_path / f"labels/city/{name}_labelTrainIds.png")
        truths.append(truth)
        predictions.append(prediction)
    register_street_scenes(
        "own_street",
        Folders(
            images=tmp_path / "images",
            nesting="*",
            image_suffix="_leftImg8bit.png",
            labels=tmp_path / "labels",
            label_suffix="_labelTrainIds.png",
        ),
    )
    yield tmp_path, truths, predictions
    DatasetCatalog.remove("own_street")
    MetadataCatalog.remove("own_street")


def evaluate(predictions):
    evaluator = NamedSemSegEvaluator("own_street", CLASSES)
    evaluator.reset()
    for entry, prediction in zip(DatasetCatalog.get("own_street"), predictions, strict=True):
        logits = torch.nn.functional.one_hot(torch.from_numpy(prediction).long(), 19)
        evaluator.process([entry], [{"sem_seg": logits.permute(2, 0, 1).float()}])
    return evaluator.evaluate()["sem_seg"]


def test_agrees_with_a_count_by_hand(street):
    _, truths, predictions = street
    metrics = evaluate(predictions)
    pairs = [
        (int(t), int(p))
        for truth, prediction in zip(truths, predictions, strict=True)
        for t, p in zip(truth.flat, prediction.flat, strict=True)
        if t != 255
    ]
    ious = []
    for index, name in enumerate(CLASSES):
        both = sum(t == p == index for t, p in pairs)
        either = sum(index in pair for pair in pairs)
        if index == ABSENT:
            assert np.isnan(metrics[f"IoU-{name}"])
        else:
            assert metrics[f"IoU-{name}"] == pytest.approx(100 * both / either)
        if either:
            ious.append(both / either)
    assert len(ious) == 18 and ious.count(0) == 2
    assert metrics["mIoU"] == pytest.approx(100 * sum(ious) / 18)
    assert metrics["pACC"] == pytest.approx(100 * sum(t == p for t, p in pairs) / len(pairs))


def test_agrees_with_cityscapes_scripts(street, monkeypatch):
    folder, truths, predictions = street
    files = []
    for kind, maps in (("truth", truths), ("prediction", predictions)):
        for index, classes in enumerate(maps):
            ids = np.zeros_like(classes, np.uint8)  # "unlabeled", as 255 is
            for train_id in range(19):
                ids[classes == train_id] = trainId2label[train_id].id
            files.append(str(folder / f"{kind}_{index}.png"))
            Image.fromarray(ids).save(files[-1])
    for name, value in (("evalInstLevelScore", False), ("JSONOutput", False), ("quiet", True)):
        monkeypatch.setattr(cityscapes.args, name, value)
    theirs = cityscapes.evaluateImgLists(files[3:], files[:3], cityscapes.args)
    ours = evaluate(predictions)
    for name in CLASSES:
        expected = 100 * theirs["classScores"][name]
        assert ours[f"IoU-{name}"] == pytest.approx(expected, nan_ok=True)
    assert theirs["classScores"][CLASSES[INVENTED]] == 0
    assert np.isnan(theirs["classScores"][CLASSES[ABSENT]])
    assert ours["mIoU"] == pytest.approx(100 * theirs["averageScoreClasses"])


def test_a_perfect_prediction_scores_100(street, caplog):
    _, truths, _ = street
    metrics = evaluate([np.where(truth == 255, 3, truth) for truth in truths])
    assert metrics["mIoU"] == metrics["pACC"] == 100
    assert "No pixel of truck, train in the truth of own_street" in caplog.text


def test_order_of_images_does_not_matter(street):
    _, _, predictions = street
    entries = DatasetCatalog.get("own_street")
    results = []
    for order in itertools.permutations(range(3)):
        evaluator = NamedSemSegEvaluator("own_street", CLASSES)
        evaluator.reset()
        for index in order:
            logits = torch.eye(19)[torch.from_numpy(predictions[index]).long()].permute(2, 0, 1)
            evaluator.process([entries[index]], [{"sem_seg": logits}])
        results.append(evaluator.evaluate()["sem_seg"]["mIoU"])
    assert len(set(results)) == 1


def test_a_model_of_other_classes_is_an_error(street):
    with pytest.raises(UserError, match="'own_street' is scored on road, .*trained on cat, dog"):
        NamedSemSegEvaluator("own_street", ["cat", "dog"])


def test_at_the_size_of_the_input_truths_are_stretched_as_opencv_does(street):
    _, truths, _ = street
    width, height = 23, 17
    stretched = [
        cv2.resize(t.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        for t in truths
    ]
    evaluator = NamedSemSegEvaluator("own_street", CLASSES, (width, height))
    evaluator.reset()
    wrong = 0
    for entry, truth in zip(DatasetCatalog.get("own_street"), stretched, strict=True):
        found = np.where(truth == 255, 3, truth)
        found[0, 0] = (found[0, 0] + 1) % 19
        wrong += truth[0, 0] != 255
        logits = torch.eye(19)[torch.from_numpy(found).long()].permute(2, 0, 1)
        evaluator.process([entry], [{"sem_seg": logits}])
    results = evaluator.evaluate()
    assert list(results) == ["sem_seg_stretched"]
    labelled = sum((t != 255).sum() for t in stretched)
    expected = 100 * (1 - wrong / labelled)
    assert results["sem_seg_stretched"]["pACC"] == pytest.approx(expected)
