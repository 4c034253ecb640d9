"""The tutorial: every command of it, in order, in an empty folder with small data sets."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The lengths that the page sets, shortened.
SHORT = {"STEPS": 1, "ITERATIONS": 1}

pytestmark = pytest.mark.exhaustive


def commands(page: Path) -> str:
    """The page's bash blocks as one script."""
    return "\n".join(re.findall(r"^```bash\n(.*?)^```$", page.read_text(), re.M | re.S))


def shorten(script: str) -> str:
    for name, value in SHORT.items():
        script, found = re.subn(rf"^{name}=\d+$", f"{name}={value}", script, flags=re.M)
        assert found == 1, f"the page sets {name} {found} times"
    return script


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    """The folder after all commands of the page."""
    folder = tmp_path_factory.mktemp("tutorial")
    for name in ("configs", "train_net.py"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "demo").mkdir()
    (folder / "demo" / "data").symlink_to(world)
    # As an activated environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", shorten(commands(ROOT / "docs" / "tutorial.md"))],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return folder


def test_every_image_has_a_caption_and_two_drawings(folder):
    names = sorted(path.stem for path in (folder / "my_images").iterdir())
    assert names
    assert len((folder / "my_images.jsonl").read_text().splitlines()) == 1 + 2 * len(names)
    for run in ("my_null", "my_token"):
        drawings = (folder / "predictions" / run).glob("*.jpg")
        assert sorted(path.stem for path in drawings) == names


def test_both_models_are_in_the_report(folder):
    with open(folder / "output" / "report" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["data set"], row["modifier"]) for row in rows}
    modifiers = ("null", "a <mine> style painting of {caption}")
    assert found == {(d, m) for d in ("voc_2007_test", "comic_test") for m in modifiers}
