"""The best checkpoint and the last, both evaluated and named; crops without labels."""

import json
from pathlib import Path

import pytest
import torch

from tadp_d2.engine.best_checkpoint import keep_best
from tadp_d2.engine.checkpoint import find_checkpoints
from tadp_d2.engine.trainer import Trainer
from tadp_d2.errors import UserError

QUICK = ("SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", 0, "TEST.GALLERY_IMAGES", 0)


@pytest.fixture
def scripted(make_segmentation_config, monkeypatch):
    """A run of four iterations whose evaluations give 10, 30, 20, 25 mIoU, and its weights then."""
    cfg = make_segmentation_config(*QUICK, "SOLVER.MAX_ITER", 4, "TEST.EVAL_PERIOD", 1)
    cfg.defrost()
    cfg.TEST.KEEP_BEST = True
    cfg.freeze()
    Path(cfg.OUTPUT_DIR).mkdir()
    values, weights = iter((10.0, 30.0, 20.0, 25.0)), []

    def test(cfg, model, evaluators=None, final=False):
        weights.append({k: v.clone() for k, v in model.state_dict().items()})
        sets = {"sem_seg": {"mIoU": next(values)}}
        results = {name: sets for name in cfg.DATASETS.TEST}
        content = {"metrics": results, "iteration": len(weights), "checkpoint": "last"}
        Path(cfg.OUTPUT_DIR, "results.json").write_text(json.dumps(content))
        return results

    monkeypatch.setattr(Trainer, "test", staticmethod(test))
    return cfg, weights


def test_the_best_and_the_last_are_kept_and_named(scripted):
    cfg, weights = scripted
    Trainer(cfg).train()
    folder = Path(cfg.OUTPUT_DIR)
    last, best = (
        json.loads((folder / f).read_text()) for f in ("results.json", "results_best.json")
    )
    assert (last["checkpoint"], last["iteration"]) == ("last", 4)
    assert (best["checkpoint"], best["iteration"]) == ("best", 2)
    assert best["weights"] == "model_best.pth"
    kept = torch.load(folder / "model_best.pth", weights_only=True)["model"]
    assert all(torch.equal(kept[name], weights[1][name]) for name in kept)
    assert any(not torch.equal(kept[name], weights[3][name]) for name in kept)
    # A run goes on from its last checkpoint.
    assert Path(find_checkpoints(folder)[0]).name == "model_final.pth"
    assert not any("best" in Path(path).name for path in find_checkpoints(folder))


class Saved:
    def __init__(self):
        self.names = []

    def save_model(self, name):
        self.names.append(name)


def test_nan_and_equal_values_are_not_better(scripted):
    cfg, _ = scripted
    saved, name = Saved(), cfg.DATASETS.TEST[0]
    counts = []
    for value in (float("nan"), 5.0, 5.0, float("nan"), 4.0, 6.0):
        results = {name: {"sem_seg": {"mIoU": value}}}
        Path(cfg.OUTPUT_DIR, "results.json").write_text(json.dumps({"metrics": results}))
        keep_best(cfg, saved, results)
        counts.append(len(saved.names))
    assert counts == [0, 1, 1, 1, 1, 2]


def test_a_batch_of_crops_without_labels_is_named(make_segmentation_config, monkeypatch):
    cfg = make_segmentation_config(*QUICK, "SOLVER.MAX_ITER", 1, "TEST.EVAL_PERIOD", 0)
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = Trainer(cfg)
    build = trainer.build_train_loader

    def without_labels(*args, **kwargs):
        for batch in build(*args, **kwargs):
            yield [{**i, "sem_seg": torch.full_like(i["sem_seg"], 255)} for i in batch]

    monkeypatch.setattr(trainer, "build_train_loader", without_labels)
    with pytest.raises(UserError, match="no pixel of the crops of .*leftImg8bit.png.* has a label"):
        trainer.train()
