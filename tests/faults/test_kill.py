"""A run that is killed at random moments and continued ends as one that was left alone.

The suite tries one seed. `TADP_FAULT_SEEDS=20 python -m pytest tests/faults` tries more.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
CONFIG = "configs/quick_schedules/cityscapes2darkzurich_simple.yaml"
ITERATIONS = 12
SETTINGS = {
    "SOLVER.MAX_ITER": ITERATIONS,
    "SOLVER.CHECKPOINT_PERIOD": 3,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.GRADIENT_ACCUMULATION": 2,
    "TEST.EVAL_PERIOD": 6,
    "TEST.GALLERY_IMAGES": 0,
    "INPUT.FIXED_SIZE_TRAIN": (128, 64),
    "INPUT.FIXED_SIZE_TEST": (128, 64),
    "INPUT.CROP.SIZE": [64, 64],
    "DATALOADER.NUM_WORKERS": 1,
}


@pytest.fixture(scope="module")
def command(model_folder):
    """command(folder) begins or continues a run in it."""

    def command(folder):
        settings = SETTINGS | {"MODEL.DIFFUSION.WEIGHTS": model_folder, "OUTPUT_DIR": folder}
        pairs = [str(item) for pair in settings.items() for item in pair]
        return ["train_net.py", "--resume", "--config-file", CONFIG, *pairs]

    return command


@pytest.fixture(scope="module")
def start(command, forked):
    """start(folder) begins or continues a run in it; returns the process."""
    return lambda folder: forked.start(command(folder))


def finish(process):
    ((code, *outputs),) = process.results()
    return code, "".join(outputs)


def result(folder):
    state = torch.load(folder / "model_final.pth", weights_only=True)
    return state["model"], state["trainer"]["_trainer"]["optimizer"]["state"]


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    code, output = finish(start(folder))
    assert code == 0, output
    assert "Traceback" not in output
    return folder


def scores(folder):
    """The final metrics, and those of every evaluation on the way."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    key = "cityscapes_val/sem_seg/mIoU"
    scored = [(line["iteration"], line[key]) for line in lines if key in line]
    assert [iteration for iteration, _ in scored] == [5, ITERATIONS]
    return json.loads((folder / "results.json").read_text())["metrics"], scored


def assert_same(folder, undisturbed):
    (weights, optimizer), (expected, expected_optimizer) = result(folder), result(undisturbed)
    assert all(torch.equal(weights[key], expected[key]) for key in expected)
    for index, state in expected_optimizer.items():
        assert all(torch.equal(optimizer[index][key], value) for key, value in state.items())
    assert scores(folder) == scores(undisturbed)
    assert not list(folder.glob(".*.partial"))


def wait_for(process, text):
    while text not in process.printed():
        assert process.poll() is None, f"the run ended without {text!r}"
        time.sleep(0.02)


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL


def kill_while_saving(process, folder):
    """Kills a run in the middle of writing a checkpoint."""
    while process.poll() is None:
        if partial := list(folder.glob(".model_*.partial")):
            os.killpg(process.pid, signal.SIGSTOP)
            if any(file.exists() and file.stat().st_size for file in partial):
                return kill(process)
            os.killpg(process.pid, signal.SIGCONT)
        time.sleep(0.001)
    raise AssertionError("the run ended without a checkpoint that was seen half-written")


@pytest.mark.parametrize("seed", range(int(os.environ.get("TADP_FAULT_SEEDS", 1))))
def test_killed_at_random_moments(start, undisturbed, tmp_path, seed):
    print("seed", seed)
    moments = random.Random(seed)
    kill_while_saving(start(tmp_path / "run"), tmp_path / "run")
    assert list((tmp_path / "run").glob(".model_*.partial"))
    for _ in range(2):
        process = start(tmp_path / "run")
        # In the first iterations, or in an evaluation.
        wait_for(process, moments.choice(["Starting training", "Start inference"]))
        time.sleep(moments.uniform(0, 3))
        kill(process)
    code, output = finish(start(tmp_path / "run"))
    assert code == 0, output
    assert_same(tmp_path / "run", undisturbed)


@pytest.mark.exhaustive
def test_continued_by_a_process_of_its_own(start, command, world, undisturbed, tmp_path):
    """Nothing rests on what a fork inherits."""
    kill_while_saving(start(tmp_path / "run"), tmp_path / "run")
    process = subprocess.run(
        [sys.executable, *command(tmp_path / "run")],
        cwd=ROOT,
        env={**os.environ, "DETECTRON2_DATASETS": str(world)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stdout
    assert_same(tmp_path / "run", undisturbed)


MOMENTS = ("Starting training", pytest.param("Start inference", marks=pytest.mark.exhaustive))


@pytest.mark.parametrize("moment", MOMENTS)
def test_sigterm_to_all_processes_saves_and_ends_cleanly(start, undisturbed, tmp_path, moment):
    process = start(tmp_path / "run")
    wait_for(process, moment)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGTERM)  # launchers repeat it
    code, output = finish(process)
    assert code == 128 + signal.SIGTERM, output
    assert "Traceback" not in output and "--resume continues the run" in output
    code, output = finish(start(tmp_path / "run"))
    assert code == 0, output
    assert_same(tmp_path / "run", undisturbed)


@pytest.mark.exhaustive
def test_killed_before_the_last_evaluation(start, undisturbed, tmp_path):
    """All iterations are done; the final checkpoint, or the evaluation after it, is not."""
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    newest = max(folder.glob("model_0*.pth"))
    for name in ("model_final.pth", "results.json"):
        (folder / name).unlink()
    (folder / "last_checkpoint").write_text(newest.name)
    lines = (folder / "metrics.json").read_text().splitlines(keepends=True)
    (folder / "metrics.json").write_text("".join(lines[:-1]) + lines[-1][:20])
    code, output = finish(start(folder))
    assert code == 0, output
    assert_same(folder, undisturbed)


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(start, undisturbed, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    (folder / "model_final.pth").unlink()
    newest, before = sorted(folder.glob("model_*.pth"), reverse=True)  # two are kept
    (folder / "last_checkpoint").write_text(newest.name)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    (folder / ".model_0000008.pth.abc.partial").write_bytes(content)
    code, output = finish(start(folder))
    assert code == 0, output
    assert f"{newest}: cannot be read as a checkpoint" in output and "the one before it" in output
    assert f"Starting training from iteration {int(before.stem[6:]) + 1}" in output
    assert_same(folder, undisturbed)
