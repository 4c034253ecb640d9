"""One picture by itself gives what an evaluation gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.evaluation import DatasetEvaluator

from tadp_d2.data.images import read_rgb
from tadp_d2.engine.trainer import Trainer
from tadp_d2.errors import UserError
from tadp_d2.inference.predictor import Predictor, load_model


class Collector(DatasetEvaluator):
    """Keeps what an evaluation sees."""

    def __init__(self):
        self.seen = []

    def process(self, inputs, outputs):
        self.seen += zip(inputs, outputs, strict=True)

    def evaluate(self):
        return {}


def evaluated(cfg, tmp_path):
    """(input, output) of each picture, by what --eval-only calls."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(tmp_path)
    collector = Collector()
    Trainer.test(cfg, load_model(cfg), [collector])
    return collector.seen


def predicted(predictor, inputs):
    pixels = np.asarray(read_rgb(Path(inputs["file_name"]))[0])
    return predictor(pixels, inputs["caption"])


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_boxes_are_those_of_an_evaluation(detector, trained_config, tmp_path, order, monkeypatch):
    cfg = trained_config(detector, "INPUT.FORMAT", order)
    if order == "BGR":  # the checkpoint says that it was trained on RGB
        monkeypatch.setattr("tadp_d2.records.provenance.Provenance.check", lambda *_: None)
    predictor = Predictor(cfg)
    seen = evaluated(cfg, tmp_path)
    assert len(seen) == 6
    for inputs, output in seen:
        own, expected = predicted(predictor, inputs)["instances"], output["instances"]
        assert len(own) > 10
        assert own.image_size == expected.image_size
        assert torch.equal(own.pred_boxes.tensor, expected.pred_boxes.tensor)
        assert torch.equal(own.scores, expected.scores)
        assert torch.equal(own.pred_classes, expected.pred_classes)


def test_segments_are_those_of_an_evaluation(segmentor, trained_config, tmp_path):
    cfg = trained_config(segmentor)
    predictor = Predictor(cfg)
    for inputs, output in evaluated(cfg, tmp_path):
        assert torch.equal(predicted(predictor, inputs)["sem_seg"], output["sem_seg"])


def test_the_caption_goes_through_the_modifier(detector, trained_config):
    predictor = Predictor(trained_config(detector))
    assert predictor.prompt("a dog") == "a watercolor style painting of a dog"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    dog, cat, again = (
        predictor(pixels, caption)["instances"].scores for caption in ("a dog", "a cat", "a dog")
    )
    assert torch.equal(dog, again)
    assert not torch.equal(dog, cat)


def test_a_predictor_needs_weights_that_fit(detector, segmentor, trained_config):
    with pytest.raises(UserError, match="MODEL.WEIGHTS is empty"):
        load_model(trained_config(detector, "MODEL.WEIGHTS", ""))
    with pytest.raises(UserError, match="no checkpoint at .*absent.pth"):
        load_model(trained_config(detector, "MODEL.WEIGHTS", "absent.pth"))
    with pytest.raises(UserError, match="trained with other features"):
        load_model(trained_config(detector, "MODEL.DIFFUSION.TIMESTEP", 1))
    with pytest.raises(UserError, match="trained with other classes"):
        load_model(trained_config(detector, "MODEL.WEIGHTS", str(segmentor / "model_final.pth")))
