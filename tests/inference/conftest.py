"""Runs as train_net.py leaves them, of models whose weights are random."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from tadp_d2.config.load import load_config
from tadp_d2.data.loader import build_test_loader
from tadp_d2.engine.checkpoint import RunCheckpointer
from tadp_d2.records.provenance import Provenance

QUICK = Path(__file__).parents[2] / "configs" / "quick_schedules"


def _run(config, folder, model_folder, *overrides, balance=None):
    settings = ("MODEL.DIFFUSION.WEIGHTS", str(model_folder), "OUTPUT_DIR", str(folder))
    cfg = load_config(str(QUICK / config), overrides=[*settings, *overrides])
    folder.mkdir()
    (folder / "config.yaml").write_text(cfg.dump())
    torch.manual_seed(0)
    model = build_model(cfg)
    with torch.no_grad():  # a training that changed the UNet
        for weights in model.backbone.parameters():
            if weights.requires_grad:
                weights.mul_(1.1)
    if balance:
        balance(cfg, model)
    RunCheckpointer(model, str(folder), Provenance(cfg, model)).save("model_final")
    return folder


@torch.no_grad()
def _mark_half(cfg, model):
    """Random weights may mark nothing, whatever they read: now half of the first image."""
    (first,) = model.eval()(next(iter(build_test_loader(cfg, cfg.DATASETS.TEST[0]))))
    background, marked = first["sem_seg"]
    model.sem_seg_head.predictor.bias[1] -= (marked - background).median()


@pytest.fixture(scope="session")
def detector(world, model_folder, tmp_path_factory):
    """The folder of a detector at 128 x 128."""
    return _run(
        "voc2watercolor_simple.yaml",
        tmp_path_factory.mktemp("runs") / "detector",
        model_folder,
        *("INPUT.FIXED_SIZE_TEST", "(128, 128)", "DATASETS.TEST", "('watercolor_test',)"),
        # The boxes of random weights have low scores.
        *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
    )


@pytest.fixture(scope="session")
def segmentor(world, model_folder, tmp_path_factory):
    """The folder of a segmentor in windows of 64 pixels at 128 x 64."""
    return _run(
        "cityscapes2darkzurich_simple.yaml",
        tmp_path_factory.mktemp("runs") / "segmentor",
        model_folder,
        *("INPUT.FIXED_SIZE_TEST", "(128, 64)", "DATASETS.TEST", "('dark_zurich_val',)"),
        *("TEST.WINDOW_SIZE", "64", "TEST.WINDOW_STRIDE", "43"),
    )


@pytest.fixture(scope="session")
def oracle_segmentor(world, model_folder, tmp_path_factory):
    """The folder of a segmentor that reads the names of what is there, at 64 x 64."""
    return _run(
        "pascal_prompts.yaml",
        tmp_path_factory.mktemp("runs") / "oracle_segmentor",
        model_folder,
        *("INPUT.FIXED_SIZE_TEST", "(64, 64)", "DATASETS.TEST", "('pascal_val',)"),
        *("MODEL.CONDITIONER.NAME", "Oracle"),
    )


@pytest.fixture(scope="session")
def referring_segmentor(world, model_folder, tmp_path_factory):
    """The folder of a model that reads expressions, at 64 x 64."""
    return _run(
        "refcoco.yaml",
        tmp_path_factory.mktemp("runs") / "referring_segmentor",
        model_folder,
        *("INPUT.FIXED_SIZE_TEST", "(64, 64)", "DATASETS.TEST", "('refcoco_watercolor_test',)"),
        balance=_mark_half,
    )


@pytest.fixture
def trained_config():
    """trained_config(folder, "KEY", value, ...) is the config of a run with its weights."""

    def load(folder, *overrides):
        pairs = ("MODEL.WEIGHTS", str(folder / "model_final.pth"), *overrides)
        return load_config(str(folder / "config.yaml"), overrides=pairs)

    return load
