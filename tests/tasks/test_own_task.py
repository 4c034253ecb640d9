"""A task that the package does not know, from training to a report, without any change to it."""

import json

import numpy as np
import pytest
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from PIL import Image, ImageDraw
from torch import nn

from tadp_d2.cli import main
from tadp_d2.engine.trainer import Trainer
from tadp_d2.modeling.conditioned import register_conditioned
from tadp_d2.tasks.metrics import Metric, MetricSet
from tadp_d2.tasks.task import TASK_REGISTRY, Task


@META_ARCH_REGISTRY.register()
class Counter(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.backbone = build_backbone(cfg)
        self.head = nn.Linear(sum(s.channels for s in self.backbone.output_shape().values()), 1)

    device = property(lambda self: self.head.weight.device)

    def forward(self, inputs):
        images = torch.stack([i["image"].to(self.device) / 127.5 - 1 for i in inputs])
        maps = self.backbone(images).values()
        counts = self.head(torch.cat([m.mean(dim=(2, 3)) for m in maps], dim=1))[:, 0].exp()
        if not self.training:
            return [{"count": count} for count in counts]
        truth = torch.tensor([float(len(i["instances"])) for i in inputs], device=self.device)
        return {"loss_count": (counts - truth).abs().mean()}


class CountEvaluator(DatasetEvaluator):
    def __init__(self, dataset):
        self.truth = {e["image_id"]: len(e["annotations"]) for e in Counting.entries(dataset)}

    def reset(self):
        self.errors = []

    def process(self, inputs, outputs):
        for image, output in zip(inputs, outputs, strict=True):
            self.errors.append(abs(float(output["count"]) - self.truth[image["image_id"]]))

    def evaluate(self):
        return {"counting": {"error": float(np.mean(self.errors))}}


@TASK_REGISTRY.register()
class Counting(Task):
    name, needs, architectures = "counting", "instances", frozenset({"Counter"})
    metric_sets = (
        MetricSet("counting", (Metric("error", "objects", False, top=None, decimals=2),)),
    )

    def evaluators(self, dataset):
        return [CountEvaluator(dataset)]

    def draw_prediction(self, dataset, pixels, output):
        image = Image.fromarray(pixels)
        ImageDraw.Draw(image).text((5, 5), f"{float(output['count']):.1f} objects")
        return image

    def write(self, output, file):
        return {"count": float(output["count"])}

    @staticmethod
    def entries(dataset):
        from tadp_d2.data.catalog import read_known

        return read_known(dataset)


@pytest.fixture(scope="module", autouse=True)
def registered():
    register_conditioned()
    yield
    for name in ("Counter", "ConditionedCounter"):
        META_ARCH_REGISTRY._obj_map.pop(name)
    TASK_REGISTRY._obj_map.pop("Counting")


def test_it_is_trained_evaluated_predicted_and_reported(make_config, world, tmp_path, capsys):
    cfg = make_config(
        *("MODEL.META_ARCHITECTURE", "ConditionedCounter"),
        *("MODEL.BACKBONE.NAME", "build_diffusion_backbone"),
        *("SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", 0),
        *("DATASETS.TEST", ("watercolor_test",), "TEST.GALLERY_IMAGES", 2),
    )
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(cfg.dump())
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    before = trainer.model.head.weight.clone()
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert not torch.equal(trainer.model.head.weight, before)

    results = json.loads((run / "results.json").read_text())
    error = results["metrics"]["watercolor_test"]["counting"]["error"]
    truth = [len(entry["annotations"]) for entry in Counting.entries("watercolor_test")]
    counts = _predict(run, world, tmp_path / "predictions", trainer)
    assert error == pytest.approx(np.abs(np.subtract(counts, truth)).mean(), rel=1e-4)
    assert (run / "gallery" / "watercolor_test.png").is_file()

    main(["report", str(run), "--output", str(tmp_path / "report")])
    page = (tmp_path / "report" / "report.html").read_text()
    assert "error (objects) (lower is better) (counting)" in page
    assert f"{error:.2f}" in page


def _predict(run, world, output, trainer):
    """The counts of the data set's images by the command, in the set's order."""
    folder = world / "watercolor" / "JPEGImages"
    ids = (world / "watercolor" / "ImageSets" / "Main" / "test.txt").read_text().split()
    files = [str(folder / f"{image_id}.jpg") for image_id in ids]
    words = ["predict", *files, "--weights", str(run / "model_final.pth")]
    main([*words, "--captions", "watercolor_test", "--output", str(output)])
    return [json.loads((output / f"{image_id}.json").read_text())["count"] for image_id in ids]
