"""The pages say what is there: links, commands, config keys, defaults, and an example that runs."""

import argparse
import ast
import re
import runpy
import shlex
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg

from tadp_d2.cli import COMMANDS
from tadp_d2.config import add_tadp_config

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), ROOT / "datasets" / "README.md"])
REFERENCE = ROOT / "tools" / "make_configuration_reference.py"

# How a comment names a version of Detectron2, or what only some of them do.
VERSION = re.compile(r"Detectron2 0\.[56]|before its main|some versions")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def leaves(node: CfgNode, prefix: str = "") -> dict:
    """Name -> value of every key."""
    found = {}
    for name, value in node.items():
        inside = leaves(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else {}
        found |= inside or {prefix + name: value}
    return found


@pytest.fixture(scope="module")
def keys() -> dict:
    cfg = get_cfg()
    add_tadp_config(cfg)
    return leaves(cfg)


@each_page
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)\s#]+)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@each_page
def test_the_program_takes_the_commands(page):
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    for command in COMMANDS:
        command.add(commands)
    blocks = re.findall(r"^```\w*\n(.*?)^```$", page.read_text(), re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    # Those with variables are run, by test_tutorial.
    for line in (line.strip() for line in lines if "$" not in line):
        if line.startswith("tadp-d2 "):
            parser.parse_args(shlex.split(line, comments=True)[1:])


@each_page
def test_configs_and_keys_exist(page, keys):
    text = page.read_text()
    named = set(re.findall(r"configs/[\w/]+\.yaml", text))
    assert all((ROOT / name).is_file() for name in named), named
    roots = "|".join({key.partition(".")[0] for key in keys})
    for name in set(re.findall(rf"\b(?:{roots})\.[A-Z][A-Z0-9_.]*[A-Z0-9]\b(?!_?\*)", text)):
        assert any(key == name or key.startswith(f"{name}.") for key in keys), name


def test_the_configuration_reference_is_that_of_the_source():
    make_page = runpy.run_path(str(REFERENCE))["make_page"]
    page = make_page((ROOT / "tadp_d2" / "config.py").read_text())
    assert page == (DOCS / "configuration.md").read_text(), f"stale: run python {REFERENCE}"


def test_the_configuration_reference_has_every_key_with_its_default(keys):
    text = (DOCS / "configuration.md").read_text()
    cells = [re.findall(r"`(.*?)`(?=<br>| \|)", line) for line in text.splitlines()]
    found = {}
    for both in cells:
        half = len(both) // 2
        found |= {k: ast.literal_eval(v) for k, v in zip(both[:half], both[half:], strict=True)}
    theirs = leaves(get_cfg())
    assert found.keys() >= {key for key, value in keys.items() if theirs.get(key, ...) != value}
    assert found == {key: keys[key] for key in found}


def test_a_comment_speaks_of_the_keys_that_belong_to_it():
    read_blocks = runpy.run_path(str(REFERENCE))["read_blocks"]
    blocks = read_blocks(
        "cfg.A = CN()\n"
        "# A size, and\n# OTHER.\n"
        "cfg.A.SIZE_X = 1\n"
        "cfg.A.SIZE_Y = 2_0\n"
        "cfg.A.OTHER = ''\n"
        "cfg.A.LONE = 3  # not this\n"
        "\n"
        "# A node.\n"
        "cfg.B = CN()\n"
        "cfg.B.KEY = None\n"
    )
    assert [[(row.keys, row.meaning) for row in rows] for rows in blocks] == [
        [
            ({"A.SIZE_X": "1", "A.SIZE_Y": "2_0", "A.OTHER": "''"}, "A size, and OTHER."),
            ({"A.LONE": "3"}, ""),
        ],
        [({"B.KEY": "None"}, "A node.")],
    ]


def test_every_file_that_bridges_versions_of_detectron2_is_on_their_page():
    page = (DOCS / "detectron2.md").read_text()
    files = [file for file in ROOT.glob("tadp_d2/**/*.py") if VERSION.search(file.read_text())]
    assert files
    assert [f for f in files if f"(../{f.relative_to(ROOT)})" not in page] == []


def test_the_example_of_the_backbone_runs(world, tmp_path, monkeypatch):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "world").symlink_to(world)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", (DOCS / "backbone.md").read_text(), re.M | re.S)
    exec(code, {})
