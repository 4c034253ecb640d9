"""The pages say what is there: links, commands, config keys, defaults, and an example that runs."""

import argparse
import ast
import re
import runpy
import shlex
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from tadp_d2.cli import COMMANDS
from tadp_d2.config import add_tadp_config
from tadp_d2.config.keys import KEYS, flatten

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), ROOT / "datasets" / "README.md"])
REFERENCE = ROOT / "tools" / "make_configuration_reference.py"

# How a comment names a version of Detectron2, or what only some of them do.
VERSION = re.compile(r"Detectron2 0\.[56]|before its main|some versions")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pytest.fixture(scope="module")
def keys() -> dict:
    """Name -> default of every key."""
    cfg = get_cfg()
    add_tadp_config(cfg)
    return flatten(cfg)


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
        # Rows are of later versions of Detectron2, too.
        known = (*keys, *KEYS)
        assert any(key == name or key.startswith(f"{name}.") for key in known), name


def test_the_configuration_reference_is_that_of_the_rows():
    page = runpy.run_path(str(REFERENCE))["make_page"]()
    assert page == (DOCS / "configuration.md").read_text(), f"stale: run python {REFERENCE}"


def test_the_configuration_reference_has_every_key_with_its_default(keys):
    rows = re.findall(
        r"^\| `([A-Z0-9_.]+)` \| `(.*?)` \|", (DOCS / "configuration.md").read_text(), re.M
    )
    found = {name: ast.literal_eval(default) for name, default in rows}
    theirs = flatten(get_cfg())
    named = re.findall(r"^\| `([A-Z0-9_.]+)` \|", (DOCS / "configuration.md").read_text(), re.M)
    assert set(named) >= {key for key, value in keys.items() if theirs.get(key, ...) != value}
    assert found == {key: keys[key] for key in found}


def test_every_file_that_bridges_versions_of_detectron2_is_on_their_page():
    page = (DOCS / "detectron2.md").read_text()
    files = [file for file in ROOT.glob("tadp_d2/**/*.py") if VERSION.search(file.read_text())]
    assert files
    assert [f for f in files if f"(../{f.relative_to(ROOT)})" not in page] == []


@pytest.mark.parametrize("page", ["backbone.md", "quick_start.md"])
def test_the_example_in_python_runs(page, world, tmp_path, monkeypatch):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "data").symlink_to(world)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S)
    exec(code, {})


def test_the_messages_of_troubleshooting_are_those_of_the_code():
    """Each is part of a text in the package, between two values that a message is filled with."""
    texts = set()
    for file in ROOT.glob("tadp_d2/**/*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
    page = (DOCS / "troubleshooting.md").read_text()
    messages = re.findall(r"^\| `(.+?)`(?: \(warning\))? \|", page, re.M)
    assert len(messages) > 30
    assert [m for m in messages if not any(m in text for text in texts)] == []


def test_every_page_is_in_the_index():
    index = (DOCS / "README.md").read_text()
    names = {page.name for page in DOCS.glob("*.md")} - {"README.md"}
    assert {name for name in names if f"]({name})" not in index} == set()


@each_page
def test_anchors_are_titles(page):
    """A link within the documents leads to a title that is there."""
    for target, anchor in re.findall(r"\]\(([^)\s#:]*)#([^)\s]+)\)", page.read_text()):
        text = (page.parent / target if target else page).read_text()
        titles = re.findall(r"^#+ (.+)$", text, re.M)
        assert anchor in {_anchor(title) for title in titles}, f"{target}#{anchor}"


def _anchor(title: str) -> str:
    """As GitHub makes it of a title."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
