"""Two processes on the CPU, by torchrun and by `--num-gpus`, do what one does."""

import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tadp_d2.data.loader import build_train_loader
from tadp_d2.engine.trainer import Trainer
from tadp_d2.modeling.conditioned import CaptionedRCNN

ROOT = Path(__file__).parents[2]
OBSERVED = Path(__file__).with_name("observed.py")
GUESSING = Path(__file__).with_name("guessing.py")
PYTHON = (sys.executable,)
TORCHRUN = (*PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
SEGMENTATION = "configs/quick_schedules/cityscapes2darkzurich_simple.yaml"
DETECTION = "configs/quick_schedules/voc2watercolor_simple.yaml"
ITERATIONS = 8
SETTINGS = {
    "SOLVER.MAX_ITER": ITERATIONS,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "SOLVER.CHECKPOINTS_KEPT": ITERATIONS,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.GRADIENT_ACCUMULATION": 2,
    # AdamW makes the same step of a gradient of 1e-9, which is float error, as of any other: the
    # error is a share of the rate.
    "SOLVER.BASE_LR": 0.00001,
    "SOLVER.WARMUP_ITERS": 0,
    "INPUT.FIXED_SIZE_TRAIN": (128, 64),
    "INPUT.FIXED_SIZE_TEST": (128, 64),
    "INPUT.CROP.SIZE": [64, 64],
    "TEST.WINDOW_SIZE": 64,
    "TEST.WINDOW_STRIDE": 43,
    "TEST.GALLERY_IMAGES": 2,  # more than a process sees of some sets
    # A conditioner that is trained, has a loss of its own and is evaluated.
    "MODEL.CONDITIONER.NAME": "TaggingAdapter",
    "MODEL.CONDITIONER.TAGGING.WIDTH": 16,
    "MODEL.CONDITIONER.TAGGING.HEADS": 2,
    "MODEL.CONDITIONER.TAGGING.QUERIES": 5,
}
TEST_SETS = ("cityscapes_val", "dark_zurich_test")  # three pictures, and two without labels


@pytest.fixture(scope="module")
def labelled_world(world, tmp_path_factory):
    """The world with a label for every pixel of the training pictures.

    The loss is a mean over a process's labelled pixels; the mean of two such means is one over
    all if both have as many.
    """
    folder = tmp_path_factory.mktemp("worlds") / "labelled"
    shutil.copytree(world, folder)
    for path in (folder / "cityscapes" / "gtFine" / "train").rglob("*.png"):
        labels = np.array(Image.open(path))
        Image.fromarray(np.where(labels == 255, 0, labels)).save(path)
    return folder


@pytest.fixture(scope="module")
def arguments_of(model_folder, image_encoder_folder):
    """arguments_of(argument, ...) is a run's command line, without the program."""

    def arguments_of(*arguments, config=SEGMENTATION, settings=SETTINGS):
        weights = {
            "MODEL.DIFFUSION.WEIGHTS": model_folder,
            "MODEL.CONDITIONER.IMAGE_ENCODER": image_encoder_folder,
        }
        pairs = [str(item) for pair in (settings | weights).items() for item in pair]
        options = [argument for argument in arguments if str(argument).startswith("--")]
        overrides = [str(argument) for argument in arguments if argument not in options]
        return [*options, "--config-file", config, *pairs, *overrides]

    return arguments_of


@pytest.fixture(scope="module")
def start(labelled_world, arguments_of, tmp_path_factory):
    """start(command, argument, ...) runs the script on that world; returns the process.

    What it writes is in the file `process.log`: a pipe that nobody reads would stop it.
    """

    def start(command, *arguments, datasets=labelled_world, **options):
        log = tmp_path_factory.mktemp("logs") / "output"
        with open(log, "w") as out:
            process = subprocess.Popen(
                [*map(str, command), *arguments_of(*arguments, **options)],
                cwd=ROOT,
                env={**os.environ, "DETECTRON2_DATASETS": str(datasets), "PYTHONPATH": str(ROOT)},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        process.log = log
        return process

    return start


@pytest.fixture(scope="module")
def start_forks(forked, labelled_world, arguments_of):
    """start_forks(script, argument, ..., processes=2) starts a run; returns its processes.

    They start quickly, as forks with the variables of torchrun if there are several.
    """

    def start_forks(script, *arguments, processes=2, datasets=labelled_world, **options):
        command = [script, *arguments_of(*arguments, **options)]
        return [
            forked.start(command, datasets=datasets, **variables)
            for variables in (_torchrun(processes) if processes > 1 else [{}])
        ]

    return start_forks


@pytest.fixture(scope="module")
def in_forks(start_forks):
    """in_forks(script, argument, ..., processes=2) is what the first process of a run prints."""

    def in_forks(script, *arguments, processes=2, **options):
        started = start_forks(script, *arguments, processes=processes, **options)
        results = [result for process in started for result in process.results()]
        printed = ["".join(result[1:]) for result in results]
        assert all(result.code == 0 for result in results), printed
        return printed[0]

    return in_forks


@pytest.fixture(scope="module")
def observe(in_forks):
    """observe(argument, ..., processes=1) is such a run on that world."""

    def observe(*arguments, processes=1):
        return in_forks(OBSERVED, *arguments, processes=processes)

    return observe


def _torchrun(processes):
    """What torchrun sets for each of the processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
    ranks = [dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)) for rank in range(processes)]
    return [address | sizes | rank for rank in ranks]


def finish(process, code=0):
    """What the process wrote, once it ended with that code; None for any."""
    process.wait(timeout=300)
    output = process.log.read_text()
    assert code in (None, process.returncode), output
    return output


def losses(folder):
    return json.loads((folder / "losses.json").read_text())


def metrics(folder):
    return json.loads((folder / "results.json").read_text())["metrics"]


def pictures(folder):
    files = [path for path in (folder / "gallery").rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def end_at(run, folder, iteration):
    """A copy of a run as it was after so many iterations."""
    folder.mkdir()
    name = f"model_{iteration - 1:07d}.pth"
    shutil.copy(run / name, folder)
    (folder / "last_checkpoint").write_text(name)


@pytest.fixture(scope="module")
def alone(observe, tmp_path_factory):
    """A run of one process."""
    folder = tmp_path_factory.mktemp("runs") / "alone"
    observe("OUTPUT_DIR", folder)
    return folder


@pytest.fixture(scope="module")
def together(alone, observe, tmp_path_factory):
    """The same run, from its third iteration on by two processes with half of the batch each."""
    folder = tmp_path_factory.mktemp("runs") / "together"
    end_at(alone, folder, 2)
    test = ("DATASETS.TEST", TEST_SETS, "TEST.SUBMISSION", True)
    observe("--resume", "OUTPUT_DIR", folder, *test, processes=2)
    return folder


def test_the_losses_of_two_processes_are_those_of_one_with_twice_the_batch(alone, together):
    expected = losses(alone)
    assert len(expected) == ITERATIONS
    assert losses(together) == pytest.approx(expected[2:], rel=5e-4)
    # Other pictures would make more of a difference.
    assert np.ptp(expected) > 0.05 * expected[0]


def test_the_gradients_of_two_processes_are_averaged_as_those_of_one(alone, together):
    """AdamW makes the same step of a gradient twice as large: the weights do not show it."""
    expected, found = (
        json.loads((run / "gradients.json").read_text()) for run in (alone, together)
    )
    # Rounding grows from step to step: the first are of equal weights.
    assert found[:3] == pytest.approx(expected[2:5], rel=0.02)


def test_all_processes_hold_the_same_weights(together):
    first, second = (torch.load(together / f"weights_{rank}.pth") for rank in (0, 1))
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_two_processes_evaluate_an_odd_number_of_pictures_as_one_does(
    together, make_segmentation_config, image_encoder_folder, tmp_path
):
    kept = ("CONDITIONER", "GALLERY")
    shared = {key: v for key, v in SETTINGS.items() if any(word in key for word in kept)}
    cfg = make_segmentation_config(
        *("DATASETS.TEST", TEST_SETS, "TEST.SUBMISSION", True),
        *(item for pair in shared.items() for item in pair),
        *("MODEL.CONDITIONER.IMAGE_ENCODER", str(image_encoder_folder)),
    )
    model = Trainer.build_model(cfg)
    model.load_state_dict(torch.load(together / "model_final.pth", weights_only=True)["model"])
    Trainer.test(cfg, model)
    own = Path(cfg.OUTPUT_DIR)
    assert metrics(together) == metrics(own)
    # The test set without labels has none.
    assert metrics(own)["cityscapes_val"]["tags"]["mAP"] > 0
    assert "tags" not in metrics(own)["dark_zurich_test"]
    assert pictures(together) == pictures(own) and pictures(own)
    files = {path.relative_to(own): path for path in (own / "submission").rglob("*.png")}
    assert len(files) == 3 * (3 + 2)
    for name, path in files.items():
        assert (together / name).read_bytes() == path.read_bytes()


@pytest.fixture(params=["in_forks", pytest.param("num_gpus", marks=pytest.mark.exhaustive)])
def guess_in_two_processes(request, in_forks, start, world):
    """guess_in_two_processes(argument, ...) runs GUESSING on the world in two processes."""

    def guess(*arguments, **options):
        options.update(config=DETECTION, datasets=world)
        if request.param == "in_forks":
            in_forks(GUESSING, *arguments, **options)
        else:
            finish(start((*PYTHON, GUESSING), "--num-gpus=2", *arguments, **options))

    return guess


def test_detections_of_two_processes_are_scored_as_those_of_one(
    guess_in_two_processes, make_config, monkeypatch, tmp_path
):
    overrides = {
        "DATASETS.TEST": ("watercolor_test",),
        "TEST.COCO_METRICS": True,
        "TEST.GALLERY_IMAGES": 4,  # more than a process sees
    }
    cfg = make_config(*(item for pair in overrides.items() for item in pair))
    guess_in_two_processes("--eval-only", "OUTPUT_DIR", tmp_path, settings=overrides)
    monkeypatch.setattr(CaptionedRCNN, "inference", runpy.run_path(str(GUESSING))["guess"])
    Trainer.test(cfg, Trainer.build_model(cfg))
    own, two = Path(cfg.OUTPUT_DIR), tmp_path / "evaluation"
    assert 10 < metrics(own)["watercolor_test"]["voc07"]["AP"] < 90
    assert metrics(two) == metrics(own)
    assert pictures(two) == pictures(own) and pictures(own)


def wait_for(path, process, printed):
    while not path.exists():
        assert process.poll() is None, printed()
        time.sleep(0.02)


@pytest.fixture(params=["forks", pytest.param("torchrun", marks=pytest.mark.exhaustive)])
def stop_after(request, start, start_forks):
    """stop_after(path, argument, ...) is what a run prints that is stopped once the path exists.

    All processes are stopped, as torchrun does it, which is also asked itself.
    """

    def stop_after(path, *arguments):
        if request.param == "torchrun":
            process = start((*TORCHRUN, "train_net.py"), *arguments)
            wait_for(path, process, process.log.read_text)
            process.send_signal(signal.SIGTERM)
            return finish(process, code=None)  # torchrun's own
        processes = start_forks("train_net.py", *arguments)
        wait_for(path, processes[0], processes[0].printed)
        for process in processes:
            os.kill(process.pid, signal.SIGTERM)
        results = [result for process in processes for result in process.results()]
        output = "".join(text for result in results for text in result[1:])
        assert "Traceback" not in output
        return output

    return stop_after


def test_a_stopped_run_of_two_processes_saves_once_and_is_continued_by_one(
    alone, stop_after, observe, tmp_path
):
    """Each of the two holds the state of half of the optimizer; the one then holds all of it."""
    folder = tmp_path / "run"
    shared = ("SOLVER.SHARD_OPTIMIZER", True)
    output = stop_after(folder / "model_0000001.pth", *shared, "OUTPUT_DIR", folder)
    assert "--resume continues the run" in output
    assert "]: Traceback" not in output  # as torch marks that of a process; torchrun has its own
    iteration = int((folder / "last_checkpoint").read_text()[6:13]) + 1
    assert 2 <= iteration < ITERATIONS
    output = observe("--resume", "OUTPUT_DIR", folder)
    assert f"Starting training from iteration {iteration}" in output
    assert losses(folder) == pytest.approx(losses(alone)[iteration:], rel=5e-4)


@pytest.mark.exhaustive
def test_one_process_that_fails_ends_all_with_its_message(
    start, labelled_world, make_segmentation_config, tmp_path
):
    world = tmp_path / "world"
    shutil.copytree(labelled_world, world)
    # The second draw is the other process's first.
    entry = build_train_loader(make_segmentation_config()).dataset[1]
    name = Path(entry["file_name"]).relative_to(os.environ["DETECTRON2_DATASETS"])
    (world / name).write_bytes((world / name).read_bytes()[:1000])
    process = start(
        *((*PYTHON, "train_net.py"), "--num-gpus=2", "OUTPUT_DIR", tmp_path / "run"), datasets=world
    )
    output = finish(process, code=2)
    assert [line for line in output.splitlines() if str(name) in line] == [
        line for line in output.splitlines() if line.startswith("error: ")
    ]
    assert "Traceback" not in output
