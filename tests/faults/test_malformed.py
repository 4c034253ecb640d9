"""Malformed data, weights and configs, each through the commands that meet it.

A run ends in exit code 2 and one message that names the culprit, before it writes anything unless
the file had to be read in full; the doctor finds the same.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel

from tadp_d2.synthetic.data_folder import MODEL_FOLDER

from ..forked import ForkedCommands, Result
from .malformed import (
    CAPTIONS,
    CASES,
    DETECTION,
    JPEG,
    SEGMENTATION,
    SPLIT,
    TOLERATED,
    XML,
    Case,
    cut,
    put,
    remove,
    swap,
)

SETS = {
    DETECTION: ("voc_2012_trainval", "watercolor_test"),
    SEGMENTATION: ("cityscapes_train", "dark_zurich_val"),
}
# In the environment of all runs.
KEYS = {name: f"secret of {name}" for name in ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY")}
# What cannot be together with the rest of TOLERATED.
AT_ODDS = ("split of one picture", "no objects", "caption file without a last line end")
SETTINGS = {
    "SOLVER.MAX_ITER": 2,
    "SOLVER.IMS_PER_BATCH": 2,
    "INPUT.FIXED_SIZE_TRAIN": (128, 64),
    "INPUT.FIXED_SIZE_TEST": (128, 64),
    "INPUT.CROP.SIZE": [64, 64],
}
FOLDERS = ("VOC2012", "watercolor", "cityscapes", "dark_zurich", "captions")


@pytest.fixture(scope="module")
def healthy(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("healthy")
    for name in FOLDERS:
        shutil.copytree(world / name, folder / name)
    model = tmp_path_factory.mktemp("model") / MODEL_FOLDER
    shutil.copytree(world / MODEL_FOLDER, model)
    (folder / MODEL_FOLDER).symlink_to(model)
    # The smallest UNet with the same tokenizer, text encoder and VAE.
    config = UNet2DConditionModel.load_config(model / "unet")
    small = {"block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4, "attention_head_dim": 2}
    UNet2DConditionModel.from_config({**config, **small}).save_pretrained(model / "unet")
    return folder


class Bench:
    """A folder with a world, in which commands run; the world is made anew for every case."""

    def __init__(self, folder: Path, healthy: Path, commands: ForkedCommands):
        self.world = folder / "world"
        self.output = folder / "output"
        self._healthy = healthy
        self._commands = commands

    def damage(self, damage: Callable[[Path], None]) -> None:
        for folder in (self.world, self.output):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._healthy, self.world, symlinks=True)
        damage(self.world)

    def run(self, *commands: Sequence[str]) -> list[Result]:
        return self._commands.run(*commands, limit=60, datasets=self.world, **KEYS)

    def train(self, case: Case) -> list[str]:
        flags = [option for option in case.options if option.startswith("--")]
        return ["train_net.py", *self._config(case), *flags, *self._keys(case)]

    def doctor(self, case: Case) -> list[str]:
        """With the run's config, or of its data sets alone if they are what is wrong."""
        of_data = case.config in SETS and not any("{world}" in option for option in case.options)
        # Without a config nobody says that captions are needed.
        of_data = of_data and "no captions" not in case.named
        what = SETS[case.config] if of_data else self._config(case)
        return ["tadp-d2", "doctor", *what, "--opts", *self._keys(case)]

    def _config(self, case: Case) -> tuple[str, str]:
        return "--config-file", str(self.world / case.config)

    def _keys(self, case: Case) -> list[str]:
        settings = {
            "MODEL.DIFFUSION.WEIGHTS": self.world / MODEL_FOLDER,
            "OUTPUT_DIR": self.output,
        }
        # What a config of its own says is not to be overridden.
        if case.config in SETS:
            train, test = SETS[case.config]
            settings |= SETTINGS | {"DATASETS.TRAIN": (train,), "DATASETS.TEST": (test,)}
        pairs = [str(item) for pair in settings.items() for item in pair]
        options = [option for option in case.options if not option.startswith("--")]
        return [*pairs, *(option.replace("{world}", str(self.world)) for option in options)]

    def contents(self) -> dict[Path, tuple]:
        """Every path of the world with what tells whether it was touched."""
        states = {path: path.lstat() for path in self.world.rglob("*")}
        return {path: (state.st_mtime_ns, state.st_size) for path, state in states.items()}


@pytest.fixture(scope="module")
def bench(healthy, forked, tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("bench"), healthy, forked)


def matches(text: str, patterns: tuple[str, ...]) -> bool:
    return all(re.search(pattern, text) for pattern in patterns)


def problems(doctor: Result) -> list[str]:
    return [line for line in doctor.stdout.splitlines() if line.startswith("  \N{BALLOT X} ")]


def test_there_are_a_hundred_cases():
    assert len(CASES) >= 100


@pytest.mark.parametrize("name", CASES)
def test_a_run_ends_in_one_message_and_the_doctor_finds_it(bench, name):
    case = CASES[name]
    bench.damage(case.damage)
    before = bench.contents()
    run, doctor = bench.run(bench.train(case), bench.doctor(case))
    for code, *output in (run, doctor):
        assert code == 2 and "Traceback" not in "".join(output), output
    *_, message = run.stderr.splitlines()
    assert re.findall("^error: ", run.stderr, re.M) == ["error: "] == [message[:7]], run.stderr
    assert matches(message, case.named), message
    assert len(message) < 2000
    assert any(matches(problem, case.named) for problem in problems(doctor)), doctor.stdout

    left = {path.name for path in bench.output.rglob("*") if path.is_file()}
    assert left <= ({"config.yaml", "log.txt"} if case.late else set())
    assert bench.output.exists() <= case.late
    assert bench.contents() == before and not (bench.world / "executed").exists()


@pytest.mark.parametrize("name", TOLERATED)
def test_the_doctor_passes_what_is_merely_unusual(bench, name):
    bench.damage(TOLERATED[name])
    ((code, stdout, stderr),) = bench.run(bench.doctor(Case(TOLERATED[name], ())))
    assert code == 0, stdout + stderr


def test_a_run_takes_what_is_merely_unusual(bench):
    """All of it that can be at once."""

    def damage(world):
        for name, unusual in TOLERATED.items():
            if name not in AT_ODDS:
                unusual(world)

    bench.damage(damage)
    ((code, stdout, stderr),) = bench.run(bench.train(Case(damage, ())))
    assert code == 0, stdout + stderr
    written = b"".join(path.read_bytes() for path in bench.output.rglob("*") if path.is_file())
    assert b"total_loss" in written and (bench.output / "model_final.pth").exists()
    # What of the environment is logged and saved are no keys.
    assert b"secret of" not in written and "secret of" not in stdout + stderr


def test_the_doctor_lists_all_problems(bench):
    def damage(world):
        swap(XML.replace("5003", "5001"), "<name>[a-z]+<", "<name>dragon<")(world)
        swap(XML.replace("5003", "5002"), "<xmax>", "<xmax>9999")(world)
        cut(JPEG, 0.6)(world)
        put(JPEG.replace("5003", "5004"), "text")(world)
        swap(SPLIT, r"\Z", "missing\n5001\n")(world)
        swap(CAPTIONS, '"image_id": "5005"', '"image_id": 5005')(world)
        remove(JPEG.replace("5003", "5006"))(world)

    bench.damage(damage)
    (doctor,) = bench.run(bench.doctor(Case(damage, ())))
    assert doctor.code == 2, doctor.stderr
    expected = [
        (SPLIT, "already in line"),
        ("lists 'missing', but there is no .*xml",),
        ("lists '5006', but there is no .*jpg",),
        ("lists 'missing', but there is no .*jpg",),
        ("5001.xml: unknown class 'dragon'",),
        ("5002.xml: the box of",),
        ("5004.jpg: cannot be read",),
        (f"{CAPTIONS}:6", "image_id"),
        ("no caption for image '5005'",),
        ("5003.jpg: cannot be read",),
    ]
    found = problems(doctor)
    assert len(found) == len(expected), found
    for problem, patterns in zip(found, expected, strict=True):
        assert matches(problem, patterns), problem
