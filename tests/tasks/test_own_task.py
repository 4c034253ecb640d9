"""The task of docs/architecture.md, from training to a report, without a change to the package."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY

from tadp_d2.cli import main
from tadp_d2.data.catalog import read_known
from tadp_d2.engine.trainer import Trainer
from tadp_d2.modeling.conditioned import register_conditioned
from tadp_d2.tasks.task import TASK_REGISTRY

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


@pytest.fixture(scope="module", autouse=True)
def registered():
    section = PAGE.read_text().partition("## A new task")[2]
    exec(re.search(r"^```python\n(.*?)^```$", section, re.M | re.S)[1], {"__name__": __name__})
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
    truth = [len(entry["annotations"]) for entry in read_known("watercolor_test")]
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
