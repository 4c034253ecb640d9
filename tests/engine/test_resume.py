"""A run is continued as it was begun, from its own checkpoints, or not at all."""

import os
from pathlib import Path

import pytest

from tadp_d2.engine.checkpoint import find_checkpoints
from tadp_d2.engine.resume import check_output
from tadp_d2.errors import UserError


@pytest.fixture
def run(tmp_path):
    """run(cfg, *names) makes a run's folder: config and empty checkpoints, of which the first is
    the last one."""

    def make(cfg, *names):
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "config.yaml").write_text(cfg.dump())
        (folder / "last_checkpoint").write_text(names[0])
        for name in names:
            (folder / name).touch()
        return folder

    return make


def resume(cfg):
    check_output(cfg, evaluation=False, resume=True)


@pytest.mark.parametrize(
    "changes, named",
    [
        (("SOLVER.BASE_LR", 0.5), "SOLVER.BASE_LR is 0.5 and was"),
        (("SEED", 2), "SEED is 2 and was 1"),
        (("SOLVER.IMS_PER_BATCH", 6), "SOLVER.IMS_PER_BATCH is 6"),
        (
            ("INPUT.FIXED_SIZE_TRAIN", (64, 64)),
            r"INPUT.FIXED_SIZE_TRAIN is \[64, 64\] and was \[128",
        ),
        (("TEXT.MODIFIER_TRAIN", "null"), "TEXT.MODIFIER_TRAIN is 'null' and was ''"),
        (("MODEL.RPN.NMS_THRESH", 0.5), "MODEL.RPN.NMS_THRESH is 0.5 and was 0.7"),
        (("DATASETS.TRAIN", ("voc_2007_trainval",)), "DATASETS.TRAIN is"),
    ],
)
def test_another_training_is_refused(make_config, run, changes, named):
    run(make_config(), "model_0000001.pth")
    with pytest.raises(UserError, match=f"was begun with another config: {named}"):
        resume(make_config(*changes))


def test_all_that_differs_is_counted(make_config, run):
    run(make_config(), "model_0000001.pth")
    changes = [f"SOLVER.{name}" for name in ("BASE_LR", "WEIGHT_DECAY", "POLY_POWER", "GAMMA")]
    changes += [f"MODEL.RPN.{name}" for name in ("NMS_THRESH", "LOSS_WEIGHT", "POSITIVE_FRACTION")]
    with pytest.raises(UserError, match="another config: MODEL.RPN.LOSS_WEIGHT .* and 2 more"):
        resume(make_config(*(item for name in changes for item in (name, 0.123))))


def test_what_changes_no_training_may_differ(make_config, run, tmp_path):
    run(make_config(), "model_0000001.pth")
    resume(make_config())
    resume(
        make_config(
            *("SOLVER.MAX_ITER", 10**6, "SOLVER.CHECKPOINT_PERIOD", 7, "TEST.EVAL_PERIOD", 3),
            *("DATALOADER.NUM_WORKERS", 1, "TEST.PRECISION", "bf16", "INPUT.FIXED_SIZE_TEST"),
            *((64, 64), "DATASETS.TEST", ("comic_test",), "MODEL.RPN.PRE_NMS_TOPK_TEST", 5),
            *("MODEL.DIFFUSION.LATENT_CACHE.FOLDER", str(tmp_path)),
        )
    )


def test_a_key_that_the_runs_version_lacked_was_at_its_default(make_config, run):
    folder = run(make_config(), "model_0000001.pth")
    text = (folder / "config.yaml").read_text()
    assert "  POLY_POWER: 0.9\n" in text
    (folder / "config.yaml").write_text(text.replace("  POLY_POWER: 0.9\n", ""))
    resume(make_config())
    with pytest.raises(UserError, match="SOLVER.POLY_POWER is 1.0 and was 0.9"):
        resume(make_config("SOLVER.POLY_POWER", 1.0))


@pytest.mark.parametrize("text", ["", "SEED: [\n", "- 1\n", "\x00"])
def test_a_damaged_config_is_named(make_config, run, text):
    folder = run(make_config(), "model_0000001.pth")
    (folder / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="config.yaml: not the config of a run"):
        resume(make_config())


def test_without_a_config_it_is_said_that_none_was_compared(make_config, run, caplog):
    folder = run(make_config(), "model_0000001.pth")
    (folder / "config.yaml").unlink()
    resume(make_config("SOLVER.BASE_LR", 0.5))
    assert "has no config.yaml: with which config it was begun is not known" in caplog.text


def test_a_run_without_its_checkpoints_is_not_begun_anew(make_config, run):
    cfg = make_config()
    folder = run(cfg, "model_0000001.pth")
    (folder / "model_0000001.pth").unlink()
    with pytest.raises(UserError, match="last_checkpoint: the checkpoint that it names is gone"):
        resume(cfg)
    # That of an iteration before will do.
    (folder / "model_0000000.pth").touch()
    resume(cfg)


def test_a_folder_without_a_run_is_where_one_begins(make_config, tmp_path):
    resume(make_config())
    # Stopped before the first checkpoint, with another config.
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(make_config().dump())
    resume(make_config("SOLVER.BASE_LR", 0.5))


def test_there_must_be_a_checkpoint_to_evaluate(make_config, run):
    cfg = make_config("MODEL.WEIGHTS", "elsewhere.pth")
    with pytest.raises(UserError, match="run holds no checkpoint that --resume could evaluate"):
        check_output(cfg, evaluation=True, resume=True)
    check_output(cfg, evaluation=True, resume=False)
    run(cfg, "model_final.pth")
    # With other settings, too.
    check_output(make_config("SOLVER.BASE_LR", 0.5), evaluation=True, resume=True)


@pytest.mark.parametrize("left", ["last_checkpoint", "model_0000001.pth"])
def test_a_run_is_not_overwritten(make_config, run, left):
    cfg = make_config()
    folder = run(cfg, "model_0000001.pth")
    for name in {"last_checkpoint", "model_0000001.pth"} - {left}:
        (folder / name).unlink()
    with pytest.raises(UserError, match="holds a run already: continue it with --resume"):
        check_output(cfg, evaluation=False, resume=False)
    check_output(cfg, evaluation=True, resume=False)


def test_a_folder_may_have_any_name(tmp_path):
    for name in ("with [brackets]", "a//b", "./c/."):
        folder = f"{tmp_path}/{name}/"
        os.makedirs(folder)
        Path(folder, "model_0000001.pth").touch()
        assert [Path(path).name for path in find_checkpoints(folder)] == ["model_0000001.pth"]


def test_the_last_checkpoint_comes_first_and_then_the_newest(make_config, run, tmp_path):
    names = ["model_0000003.pth", "model_final.pth", "model_0000005.pth", "model_0000001.pth"]
    folder = run(make_config(), *names, "model_best.pth")

    def found():
        return [path.removeprefix(f"{folder}/") for path in find_checkpoints(folder)]

    rest = ["model_0000005.pth", "model_0000001.pth", "model_final.pth"]
    assert found() == ["model_0000003.pth", *rest]
    # Only its name counts, and not what it says besides.
    (folder / "last_checkpoint").write_text(f"{tmp_path}/model_best.pth")
    assert found()[:2] == ["model_best.pth", "model_0000005.pth"]
    for damage in (b"\xff\xfe", b"", b"absent.pth"):
        (folder / "last_checkpoint").write_bytes(damage)
        assert found()[0] == "model_0000005.pth"
