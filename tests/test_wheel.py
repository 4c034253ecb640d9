"""The wheel: what it holds, and that it works where there is no checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of what git tracks of it: a build leaves files beside the sources."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copy(ROOT / name, folder)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("tadp_d2", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    (folder / "datasets" / "VOC2007").mkdir(parents=True)
    shutil.copy(ROOT / "datasets" / "README.md", folder / "datasets")
    (folder / "datasets" / "VOC2007" / "1.jpg").write_bytes(b"not to be packed")
    wheels = tmp_path_factory.mktemp("wheels")
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", wheels)
    _run(sys.executable, "-m", "pip", "wheel", "--quiet", *options, folder)
    (file,) = wheels.iterdir()
    return file


def _run(*command: object, **keywords) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, **keywords
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_of_the_package_and_the_configs_once(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if "dist-info" not in name}
    expected = {
        f"{'' if name == 'tadp_d2' else 'tadp_d2/'}{file.relative_to(ROOT)}"
        for name in ("tadp_d2", "configs")
        for file in (ROOT / name).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert packed == {*expected, "tadp_d2/datasets/README.md"}


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of the programs of a fresh environment that has this one's packages, too."""
    folder = tmp_path_factory.mktemp("environment")
    _run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    options = ("--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    _run(sys.executable, "-m", "pip", *options)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A path in such a file follows the environment's own; files such as that of an editable
    # installation are not read there.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


# One process for all commands: most of the time of each is that of its imports.
RUN = """
import json, sys
import tadp_d2
from tadp_d2.cli import main
from tadp_d2.study.adaptation import SCHEDULES
for command in json.loads(sys.argv[1]):
    print("===", command[0])
    main(command)
print("===", tadp_d2.__file__)
assert all(schedule.config.is_file() for schedule in SCHEDULES.values())
"""


@pytest.mark.exhaustive
def test_an_installed_copy_trains_predicts_and_examines_in_an_empty_folder(
    installed, world, model_folder, tmp_path
):
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    outside = {"cwd": tmp_path, "env": {**own, "DETECTRON2_DATASETS": str(world)}}
    assert "--config-file NAME|FILE" in _run(installed / "tadp-d2", "train", "--help", **outside)

    (package,) = installed.parent.glob("lib/python*/site-packages/tadp_d2")
    quick = "quick_schedules/voc2watercolor_simple"
    base = package / "configs" / f"{quick}.yaml"
    (tmp_path / "own.yaml").write_text(
        f"_BASE_: {base}\nMODEL:\n  DIFFUSION:\n    WEIGHTS: {model_folder}\nOUTPUT_DIR: run\n"
    )
    small = ("INPUT.FIXED_SIZE_TRAIN", (128, 128), "INPUT.FIXED_SIZE_TEST", (128, 128))
    short = ("SOLVER.MAX_ITER", 1, "SOLVER.IMS_PER_BATCH", 2, "TEST.GALLERY_IMAGES", 0)
    image = world / "watercolor" / "JPEGImages" / "1.jpg"
    commands = (
        ("configs", "--path", "quick_schedules/voc"),
        ("train", "--config", "own.yaml", "--preset", "paper_tables", *small, *short),
        ("predict", image, "--weights", "run/model_final.pth", "--caption", "a dog"),
        ("doctor", "--config", quick, "--opts", "MODEL.DIFFUSION.WEIGHTS", model_folder),
    )
    plain = json.dumps([[str(word) for word in command] for command in commands])
    printed = _run(installed / "python", "-c", RUN, plain, **outside)
    sections = dict(part.split("\n", 1) for part in printed.split("=== ")[1:])
    assert list(sections) == ["configs", "train", "predict", "doctor", str(package / "__init__.py")]
    assert str(base) in sections["configs"].splitlines()
    assert sections["doctor"].splitlines()[-1] == "all is well"
    assert (tmp_path / "run" / "results.json").is_file()
    assert (tmp_path / "predictions" / "1.json").is_file()
