"""What the trainer asks of the model, and when it evaluates how."""

import json
from pathlib import Path

import pytest
import torch

from tadp_d2.data.loader import build_test_loader
from tadp_d2.engine.trainer import Trainer
from tadp_d2.errors import UserError
from tadp_d2.tasks.task import get_task


def test_a_model_that_draws_no_training_images_is_not_asked_to(
    make_config, make_segmentation_config
):
    Trainer(make_config("VIS_PERIOD", 5))
    with pytest.raises(UserError, match="VIS_PERIOD is 5, .* CaptionedSegmentor does not draw"):
        Trainer(make_segmentation_config("VIS_PERIOD", 5))


ONE_SET = ("DATASETS.TEST", ("watercolor_test",), "TEST.GALLERY_IMAGES", 0)
AUGMENTED = ("TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (128,), "TEST.AUG.FLIP", False)


def test_a_run_is_evaluated_under_augmentation_at_its_end(make_config):
    cfg = make_config(
        *(*ONE_SET, *AUGMENTED, "TEST.COCO_METRICS", True, "SOLVER.MAX_ITER", 2),
        *("TEST.EVAL_PERIOD", 1, "SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", 0),
    )
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir()
    Trainer(cfg).train()
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    scored = {
        name: [line["iteration"] for line in lines if f"watercolor_test/{name}/AP50" in line]
        for name in ("voc07", "voc07_TTA")
    }
    assert scored == {"voc07": [0, 2], "voc07_TTA": [2]}
    results = json.loads((folder / "results.json").read_text())
    sets = ["voc07", "voc_area", "coco"]
    assert list(results["metrics"]["watercolor_test"]) == [*sets, *(f"{s}_TTA" for s in sets)]
    assert results["metric_sets"].keys() >= results["metrics"]["watercolor_test"].keys()
    # Detectron2's files of both.
    for place in (folder, folder / "augmented"):
        assert (place / "coco_instances_results.json").exists()


def found(cfg, model):
    """(boxes, scores) of each image, with and without augmentation."""
    augmented = get_task(cfg).augmentation()(cfg, model).eval()
    batches = list(build_test_loader(cfg, "watercolor_test"))[:2]
    with torch.no_grad():
        for batch in batches:
            (plain,), (other,) = model(batch), augmented(batch)
            yield plain["instances"], other["instances"]


def test_the_augmentation_that_changes_nothing_changes_no_detection(make_config):
    cfg = make_config(*ONE_SET, *AUGMENTED, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    model = Trainer.build_model(cfg).eval()
    for plain, augmented in found(cfg, model):
        assert len(plain) == len(augmented) > 10
        assert torch.equal(plain.pred_classes, augmented.pred_classes)
        torch.testing.assert_close(plain.scores, augmented.scores)
        boxes = (instances.pred_boxes.tensor for instances in (plain, augmented))
        torch.testing.assert_close(*boxes, rtol=0, atol=1e-2)
    mirrored = make_config(
        *ONE_SET, *AUGMENTED, "TEST.AUG.FLIP", True, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0
    )
    plain, augmented = next(found(mirrored, model))
    assert not torch.equal(plain.scores, augmented.scores)


def test_what_cannot_be_augmented_is_not(make_config, make_segmentation_config):
    for make in (make_segmentation_config, make_config):
        keypoints = ("MODEL.KEYPOINT_ON", True) if make is make_config else ()
        with pytest.raises(UserError, match="TEST.AUG.ENABLED is True: there is no test-time aug"):
            make(*AUGMENTED, *keypoints)
