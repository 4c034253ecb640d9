"""Depth end to end: every config trains; a model learns, is evaluated, predicts, is reported."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from PIL import Image

from tadp_d2.cli import main
from tadp_d2.data.catalog import read_known
from tadp_d2.data.loader import build_test_loader, build_train_loader
from tadp_d2.data.readers.depth_maps import read_depth
from tadp_d2.engine.optimizer import build_optimizer, build_scheduler
from tadp_d2.engine.setup import load_config
from tadp_d2.engine.trainer import Trainer
from tadp_d2.evaluation.depth_metrics import DepthEvaluator, compare_depth, valid_pixels

CONFIGS = Path(__file__).parents[2] / "configs"
SCENE = ("MODEL.CONDITIONER.NAME", "SceneEmbedding")
ROWS = sorted((CONFIGS / "nyu_depth").glob("[!B]*.yaml"))


@pytest.fixture
def small(world, model_folder, tmp_path):
    """Settings for the synthetic rooms at a small size."""
    return [
        *("MODEL.DIFFUSION.WEIGHTS", str(model_folder), "MODEL.DEPTH_HEAD.CHANNELS", 8),
        *("INPUT.FIXED_SIZE_TRAIN", (96, 64), "INPUT.CROP.SIZE", [64, 64]),
        *("INPUT.FIXED_SIZE_TEST", (96, 64), "TEST.WINDOW_SIZE", 64, "TEST.WINDOW_STRIDE", 32),
        *("SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", 0),
        *("TEXT.CAPTION_DIR", str(world / "captions"), "OUTPUT_DIR", str(tmp_path / "run")),
    ]


def train(cfg, iterations):
    """Losses of a few iterations, and the model."""
    torch.manual_seed(0)
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    scheduler = build_scheduler(cfg, optimizer)
    batches, losses = iter(build_train_loader(cfg)), []
    with EventStorage():
        for _ in range(iterations):
            optimizer.zero_grad()
            loss = sum(model(next(batches)).values())
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
    return losses, model


def test_there_is_a_config_for_every_row():
    names = {path.stem for path in ROWS}
    assert names == {"vpd", "vpd_ls", "tadp_0", "tadp_20", "tadp_40", "tadp_ta_0", "empty"}


@pytest.mark.parametrize("preset", ["", "nyu_depth_fast"])
@pytest.mark.parametrize("row", ROWS, ids=lambda path: path.stem)
def test_every_row_says_what_the_papers_say(row, preset):
    cfg = load_config(str(row), preset)
    assert cfg.OUTPUT_DIR == f"output/nyu_depth_{row.stem}"
    epochs = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH / 24231
    assert epochs == pytest.approx(1 if preset else 25, abs=0.001)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY) == (5e-4, 0.1)
    assert (cfg.SOLVER.WEIGHT_DECAY_NORM, cfg.SOLVER.WEIGHT_DECAY_BIAS) == (0, 0)
    assert cfg.SOLVER.UNET_LR_FACTOR == 0.1
    assert cfg.SOLVER.LOWEST_LR_FACTOR * cfg.SOLVER.BASE_LR == pytest.approx(3e-5)
    assert cfg.MODEL.DIFFUSION.LATENT_SCALING == (row.stem != "vpd")
    assert list(cfg.MODEL.DIFFUSION.ATTENTION_MAPS.LEVELS) == []
    assert cfg.MODEL.DEPTH_HEAD.MAX_DEPTH == 10
    # The released sentences come with a package that need not be there.
    templates = ["MODEL.CONDITIONER.TEMPLATES", "single"]
    released = load_config(str(row), "released_depth", templates)
    assert (released.SOLVER.UNET_LR_FACTOR, released.MODEL.DIFFUSION.TIMESTEP) == (0.01, 1)


@pytest.mark.parametrize("preset", ["", "nyu_depth_fast"])
@pytest.mark.parametrize("row", ROWS, ids=lambda path: path.stem)
def test_every_row_trains_two_steps(row, preset, small):
    cfg = load_config(str(row), preset, overrides=small)
    losses, model = train(cfg, 2)
    assert all(0.01 < loss < 3 for loss in losses)
    conditioner = [p for p in model.conditioner.parameters() if p.requires_grad]
    assert bool(conditioner) == (cfg.MODEL.CONDITIONER.NAME == "TextAdapter")
    assert all(parameter.grad is not None for parameter in conditioner)


def test_a_model_learns_the_depth_of_its_rooms(small, make_depth_config):
    """It is nearer to the truth than the mean depth, which needs no image."""
    cfg = make_depth_config(
        *small,
        *("DATASETS.TEST", ("nyu_depth_v2_train",), "SOLVER.MAX_ITER", 40),
        *("SOLVER.BASE_LR", 0.005, "SOLVER.UNET_LR_FACTOR", 0.1, "SOLVER.IMS_PER_BATCH", 4),
        *("INPUT.COLOR_AUG_DEPTH", False, "INPUT.CUT_DEPTH", 0.0),
    )
    losses, model = train(cfg, 40)
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:2])
    evaluator = DepthEvaluator("nyu_depth_v2_train")
    with torch.no_grad():
        for inputs in build_test_loader(cfg, "nyu_depth_v2_train"):
            evaluator.process(inputs, model.eval()(inputs))
    found = evaluator.evaluate()["depth"]
    mean = mean_depth_scores("nyu_depth_v2_train")
    assert found["RMSE"] < 0.8 * mean["RMSE"]
    assert found["d1"] > mean["d1"]


def mean_depth_scores(dataset):
    """What the mean of all depths scores as the depth of every pixel."""
    truths = [read_depth(e["depth_file_name"], e["depth_unit"]) for e in read_known(dataset)]
    counted = [truth[valid_pixels(truth, 1e-3, 10, "eigen")] for truth in truths]
    mean = np.concatenate(counted).mean()
    scores = [compare_depth(np.full_like(truth, mean), truth) for truth in counted]
    return {name: np.mean([score[name] for score in scores]) for name in scores[0]}


def test_a_run_from_training_to_a_report(make_depth_config, small, world, tmp_path):
    cfg = make_depth_config(*small, "SOLVER.MAX_ITER", 2, "TEST.GALLERY_IMAGES", 2)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(cfg.dump())
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    results = json.loads((run / "results.json").read_text())
    assert set(results["metrics"]) == set(cfg.DATASETS.TEST)
    scores = results["metrics"]["nyu_depth_v2_test"]["depth"]
    assert list(scores)[-1] == "RMSE" and len(scores) == 9
    assert 0 <= scores["d1"] <= scores["d2"] <= scores["d3"] <= 1
    for title in ("image", "truth", "prediction", "error"):
        folder = run / "gallery" / "nyu_depth_v2_test" / "bathroom%2Frgb_00000.jpg"
        assert (folder / f"{title}.jpg").is_file()

    entry = read_known("nyu_depth_v2_test")[0]
    output = tmp_path / "predictions"
    words = ["predict", entry["file_name"], "--weights", str(run / "model_final.pth")]
    main([*words, "--caption", "a bathroom", "--output", str(output)])
    record = json.loads((output / "rgb_00000.json").read_text())
    stored = np.array(Image.open(output / record["depth_map"]))
    assert stored.shape == (entry["height"], entry["width"])
    assert stored.max() * record["meters_per_value"] == pytest.approx(record["farthest"], abs=1e-3)

    main(["report", str(run), "--output", str(tmp_path / "report")])
    page = (tmp_path / "report" / "report.html").read_text()
    assert "RMSE (m) (lower is better)" in page
    assert f"{scores['RMSE']:.3f}" in page


def test_a_room_is_told_to_predict(make_depth_config, small, world, tmp_path, capsys):
    run, cfg = tmp_path / "run", make_depth_config(*small, *SCENE, "SOLVER.MAX_ITER", 0)
    run.mkdir()
    (run / "config.yaml").write_text(cfg.dump())
    trainer = Trainer(cfg)
    # As it begins the head returns the middle of its range everywhere.
    for parameter in trainer.model.depth_head.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    trainer.checkpointer.save("model_final")
    image = read_known("nyu_depth_v2_test")[0]["file_name"]
    words = ["predict", image, "--weights", str(run / "model_final.pth"), "--output"]

    def record(name):
        return json.loads((tmp_path / name / "rgb_00000.json").read_text())

    main([*words, str(tmp_path / "one"), "--room", "bathroom"])
    assert record("one")["room"] == "bathroom"
    assert record("one")["prompt"] == "averaged embedding of bathroom"
    file = tmp_path / "rooms.json"
    file.write_text(json.dumps({"rgb_00000.jpg": "study_room"}))
    main([*words, str(tmp_path / "file"), "--rooms", str(file)])
    assert record("file")["prompt"] == "averaged embedding of study room"
    # Another room is another input: the depth is not the same.
    depths = [np.array(Image.open(tmp_path / name / "rgb_00000.png")) for name in ("one", "file")]
    assert depths[0].dtype == np.uint16 and not np.array_equal(*depths)
    file.write_text('{"rgb_00000.jpg": ["kitchen"]}')
    for given, message in (
        ([], "this model reads a room: --room or --rooms"),
        (["--caption", "a bathroom"], "--caption: this model reads no caption"),
        (["--room", "castle"], "its room is 'castle'; expected one of printer room"),
        (["--rooms", str(file)], "rooms.json: expected {"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*words, str(tmp_path / "none"), *given])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "none").exists() or not [*(tmp_path / "none").glob("rgb*")]
