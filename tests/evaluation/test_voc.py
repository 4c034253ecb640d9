"""The metrics: by hand, by Detectron2's own evaluator, and by pycocotools."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import CLASS_NAMES, register_pascal_voc
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances

from tadp_d2.data.catalog import read_known
from tadp_d2.data.datasets.art import SHARED_CLASSES, register_target
from tadp_d2.errors import UserError
from tadp_d2.evaluation.coco import NamedCOCOEvaluator
from tadp_d2.evaluation.voc import ClassSubsetVOCEvaluator


def detections(boxes, classes, scores):
    """Boxes in Detectron2's coordinates, 0-based."""
    instances = Instances((1000, 1000))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.pred_classes = torch.tensor([CLASS_NAMES.index(name) for name in classes]).long()
    instances.scores = torch.tensor(scores, dtype=torch.float32)
    return {"instances": instances}


def evaluate(evaluator, outputs):
    """Runs an evaluator on image id -> detections."""
    evaluator.reset()
    for image_id, output in outputs.items():
        evaluator.process([{"image_id": image_id}], [output])
    return evaluator.evaluate()


@pytest.fixture
def make_set(tmp_path):
    """make_set({image id: [(class, box, difficult), ...]}) registers a target."""

    def make(pictures):
        root = tmp_path / "set"
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / folder).mkdir(parents=True)
        for image_id, objects in pictures.items():
            xml = "".join(
                f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
                f"<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax>"
                f"<ymax>{box[3]}</ymax></bndbox></object>"
                for name, box, difficult in objects
            )
            (root / "Annotations" / f"{image_id}.xml").write_text(
                "<annotation><size><width>1000</width><height>1000</height></size>"
                f"{xml}</annotation>"
            )
            (root / "JPEGImages" / f"{image_id}.jpg").write_bytes(b"")
        (root / "ImageSets" / "Main" / "test.txt").write_text("\n".join(pictures))
        register_target("made", root, "test")
        return "made"

    yield make
    if "made" in DatasetCatalog.list():
        DatasetCatalog.remove("made")
        MetadataCatalog.remove("made")


BOX = [101, 101, 200, 200]  # 1-based; [100, 100, 200, 200] for Detectron2
HIT, FAR = [100, 100, 200, 200], [500, 500, 600, 600]


def test_both_metrics_by_hand(make_set):
    # Two dogs; by score: a hit, a miss, a hit. Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    name = make_set({"a": [("dog", BOX, 0)], "b": [("dog", BOX, 0)]})
    results = evaluate(
        ClassSubsetVOCEvaluator(name, CLASS_NAMES),
        {
            "a": detections([HIT, FAR], ["dog", "dog"], [0.9, 0.8]),
            "b": detections([HIT], ["dog"], [0.7]),
        },
    )
    # 11 points: recall 0 to 0.5 at precision 1, 0.6 to 1 at 2/3.
    assert results["voc07"]["AP50-dog"] == pytest.approx(100 * (6 + 5 * 2 / 3) / 11)
    assert results["voc_area"]["AP50-dog"] == pytest.approx(100 * (0.5 + 0.5 * 2 / 3))
    # Boxes are exact, so every threshold gives the same.
    for metrics in results.values():
        assert metrics["AP"] == pytest.approx(metrics["AP50"])
        assert metrics["AP75"] == metrics["AP50"]


def test_iou_thresholds(make_set):
    name = make_set({"a": [("dog", BOX, 0)]})
    # 100 x 100 truth, 100 x 62 of it detected: IoU 0.62 passes 0.50, 0.55 and 0.60 of ten.
    output = {"a": detections([[100, 100, 200, 162]], ["dog"], [0.9])}
    metrics = evaluate(ClassSubsetVOCEvaluator(name, CLASS_NAMES), output)["voc_area"]
    assert (metrics["AP50"], metrics["AP75"]) == (100, 0)
    assert metrics["AP"] == pytest.approx(30)


def test_other_classes_of_the_model_are_not_scored(make_set):
    name = make_set({"a": [("dog", BOX, 0)]})
    clean = {"a": detections([HIT], ["dog"], [0.5])}
    noisy = {"a": detections([HIT, HIT, HIT], ["horse", "dog", "sofa"], [0.9, 0.5, 0.8])}
    evaluator = ClassSubsetVOCEvaluator(name, CLASS_NAMES)
    assert evaluate(evaluator, noisy) == evaluate(evaluator, clean)


def test_class_names_and_not_indices_are_matched(make_set):
    name = make_set({"a": [("dog", BOX, 0)]})
    output = detections([HIT], ["dog"], [0.5])
    output["instances"].pred_classes[:] = 0
    order = [*reversed(SHARED_CLASSES)]
    order.remove("dog")
    results = evaluate(ClassSubsetVOCEvaluator(name, ["dog", *order]), {"a": output})
    assert results["voc07"]["AP50-dog"] == pytest.approx(100)


def test_difficult_objects_neither_count_nor_hurt(make_set):
    name = make_set({"a": [("dog", BOX, 1), ("dog", [501, 501, 600, 600], 0)]})
    output = {"a": detections([HIT, FAR], ["dog", "dog"], [0.9, 0.8])}
    results = evaluate(ClassSubsetVOCEvaluator(name, CLASS_NAMES), output)
    assert results["voc_area"]["AP50-dog"] == 100


def test_classes_without_objects_are_left_out_of_the_means(make_set, caplog):
    name = make_set({"a": [("dog", BOX, 0), ("cat", BOX, 1)]})
    output = {"a": detections([HIT, HIT], ["dog", "cat"], [0.9, 0.9])}
    metrics = evaluate(ClassSubsetVOCEvaluator(name, CLASS_NAMES), output)["voc07"]
    assert metrics["AP50"] == pytest.approx(100)
    assert [key for key in metrics if "-" in key] == ["AP50-dog"]
    assert "No object of bicycle, bird, car, cat, person in the truth" in caplog.text


def test_no_detections_at_all(make_set):
    name = make_set({"a": [("dog", BOX, 0)]})
    results = evaluate(ClassSubsetVOCEvaluator(name, CLASS_NAMES), {"a": detections([], [], [])})
    assert results["voc07"]["AP50"] == 0


def test_a_class_that_the_model_does_not_know_is_an_error(make_set):
    name = make_set({"a": [("dog", BOX, 0)]})
    with pytest.raises(UserError, match="scored on person, which the model was not trained on"):
        ClassSubsetVOCEvaluator(name, SHARED_CLASSES[:-1])


def imperfect(dataset, seed=0):
    """Detections near the truth, some wrong, some absent."""
    generator = torch.Generator().manual_seed(seed)
    outputs = {}
    for entry in DatasetCatalog.get(dataset):
        boxes, classes = [], []
        for item in entry["annotations"]:
            jitter = torch.randn(4, generator=generator) * 6
            boxes.append((torch.tensor(item["bbox"]) + jitter).tolist())
            wrong = torch.rand(1, generator=generator) < 0.2
            classes.append("person" if wrong else CLASS_NAMES[item["category_id"]])
        # Distinct scores also after the evaluator's rounding to three digits.
        scores = (torch.randperm(900, generator=generator)[: len(boxes)] + 50) / 1000
        outputs[entry["image_id"]] = detections(boxes, classes, scores.tolist())
    return outputs


@pytest.mark.parametrize("metric, year", [("voc07", 2007), ("voc_area", 2012)])
def test_equal_to_detectron2s_own_evaluator_where_that_applies(world, metric, year):
    # Complete annotations, and exactly the classes that occur.
    MetadataCatalog.get("six").set(
        dirname=str(world / "VOC2007"), split="test", year=year, thing_classes=list(SHARED_CLASSES)
    )
    outputs = imperfect("voc_2007_test")
    for output in outputs.values():
        indices = output["instances"].pred_classes
        names = [SHARED_CLASSES.index(CLASS_NAMES[i]) for i in indices.tolist()]
        output["instances"].pred_classes = torch.tensor(names)
    expected = evaluate(PascalVOCDetectionEvaluator("six"), outputs)["bbox"]
    MetadataCatalog.remove("six")
    ours = evaluate(
        ClassSubsetVOCEvaluator("voc_2007_test", CLASS_NAMES), imperfect("voc_2007_test")
    )
    assert 0 < expected["AP"] < 100
    for key, value in expected.items():
        assert ours[metric][key] == pytest.approx(value)


def test_annotations_without_optional_fields_are_scored_and_left_as_they_are(world):
    files = sorted(Path(world, "watercolor", "Annotations").iterdir())
    before = [file.read_bytes() for file in files]
    assert b"<difficult>" not in before[0]
    evaluator = ClassSubsetVOCEvaluator("watercolor_test", CLASS_NAMES)
    results = evaluate(evaluator, imperfect("watercolor_test"))
    assert 0 < results["voc07"]["AP50"] <= 100
    assert [file.read_bytes() for file in files] == before


def test_coco_metrics_agree_where_both_are_exact(world, tmp_path):
    outputs = {}
    for entry in DatasetCatalog.get("comic_test"):
        boxes = [item["bbox"] for item in entry["annotations"]]
        names = [CLASS_NAMES[item["category_id"]] for item in entry["annotations"]]
        outputs[entry["image_id"]] = detections(boxes, names, [0.9] * len(boxes))
    results = evaluate(NamedCOCOEvaluator("comic_test", str(tmp_path)), outputs)
    assert set(results) == {"coco"}
    assert results["coco"]["AP"] == pytest.approx(100)
    assert results["coco"]["AP50"] == pytest.approx(100)


def test_a_set_of_one_image_that_detectron2_registered_is_scored_by_cocos_metrics(world, tmp_path):
    folder = tmp_path / "VOC"
    shutil.copytree(world / "VOC2007", folder)
    split = folder / "ImageSets" / "Main" / "one.txt"
    split.write_text("005001\n")
    register_pascal_voc("one", str(folder), "one", 2007)
    MetadataCatalog.get("one").evaluator_type = "pascal_voc"
    read = DatasetCatalog["one"]
    try:
        (entry,) = read_known("one")
        boxes = [item["bbox"] for item in entry["annotations"]]
        names = [CLASS_NAMES[item["category_id"]] for item in entry["annotations"]]
        outputs = {"005001": detections(boxes, names, [0.9] * len(boxes))}
        results = evaluate(NamedCOCOEvaluator("one", str(tmp_path)), outputs)
        assert results["coco"]["AP"] == pytest.approx(100)
        assert DatasetCatalog["one"] is read
    finally:
        DatasetCatalog.remove("one")
        MetadataCatalog.remove("one")


def test_a_model_that_finds_nothing_has_zeros_where_others_have_values(world, tmp_path):
    entries = DatasetCatalog.get("comic_test")
    item = entries[0]["annotations"][0]
    right = detections([item["bbox"]], [CLASS_NAMES[item["category_id"]]], [0.9])
    some = {entry["image_id"]: detections([], [], []) for entry in entries}
    metrics = []
    for outputs in (some, {**some, entries[0]["image_id"]: right}):
        evaluator = NamedCOCOEvaluator("comic_test", str(tmp_path))
        metrics.append(evaluate(evaluator, outputs)["coco"])
    nothing, one = metrics
    assert set(nothing.values()) == {0} | {v for v in nothing.values() if math.isnan(v)}
    assert {k: math.isnan(v) for k, v in nothing.items()} == {
        k: math.isnan(v) for k, v in one.items()
    }
    assert nothing["AP"] == 0 < one["AP"]
