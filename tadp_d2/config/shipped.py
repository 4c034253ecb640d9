"""The config files that come with the package: their folder, names and descriptions.

In a checkout they lie in its folder `configs/`, in an installed copy inside of the package. Nothing
heavy is imported.
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tadp_d2.errors import UserError

_PACKAGE = Path(__file__).parents[1]
_SUFFIXES = (".yaml", ".yml")
# How the first words of a file name a row of a paper.
_ROW = re.compile(r"((?:TADP|VPD|Tagging adapter), (?:table|figure) [^:]+): (.*)")


@dataclass(frozen=True)
class Description:
    """What a config is, by its own words.

    Attributes:
        row: of a paper, such as "TADP, table 5, simple"; empty for a config of none.
        text: what it does, in a line.
        architecture: its meta-architecture.
        task: `MODEL.TASK`; empty for the task of the architecture.
    """

    row: str
    text: str
    architecture: str
    task: str


def config_folder() -> Path:
    """The folder of the config files: that of the package, or that of its checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def config_names() -> list[str]:
    """The names of all config files, `ade20k/vpd` for example; without presets, in order."""
    return sorted(name for name in _names(config_folder()) if not name.startswith("presets/"))


def experiment_names() -> list[str]:
    """Those that can be run: without the bases of others."""
    return [name for name in config_names() if not Path(name).name.startswith("Base-")]


def preset_names() -> list[str]:
    """The names that `--preset` takes, in order."""
    return sorted(_names(config_folder() / "presets"))


def find_config(name: str) -> str:
    """The config file of a name, or the path of a file unchanged.

    Args:
        name: path of a YAML file, or one of `config_names`. Empty for no file.

    Raises:
        UserError: it is neither.
    """
    path = Path(name)
    if not name or path.suffix in _SUFFIXES or path.is_file():
        return name
    if name in config_names():
        return str(config_folder() / f"{name}.yaml")
    similar = difflib.get_close_matches(name, config_names(), n=1)
    hint = f"; did you mean {similar[0]}?" if similar else ""
    raise UserError(f"no config file {name}, and no config of that name{hint}: see tadp-d2 configs")


def advice(file: Path) -> str:
    """What the message adds that there is no such file: where the one is that was meant, if any."""
    parts = file.with_suffix("").parts
    below = parts[::-1].index("configs") if "configs" in parts else len(parts)
    name = "/".join(parts[len(parts) - below :])
    if name in config_names():
        return f"; that of the package is {config_folder() / name}.yaml"
    return ""


def find_preset(name: str) -> str:
    """The file of a preset.

    Raises:
        UserError: there is none of that name.
    """
    names = preset_names()
    if name not in names:
        raise UserError(f"unknown preset {name!r}: expected one of {', '.join(names)}")
    return str(config_folder() / "presets" / f"{name}.yaml")


def describe(file: str) -> Description:
    """What a config or preset says of itself, in the first sentence of the comment at its top."""
    comment = []
    for line in Path(file).read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# ").rstrip())
    text = " ".join(comment).split(". ")[0].removesuffix(".")
    row = _ROW.fullmatch(text)
    model = _read_model(Path(file))
    return Description(
        *(row.groups() if row else ("", text)),
        architecture=model.get("META_ARCHITECTURE", ""),
        task=model.get("TASK", ""),
    )


def _read_model(file: Path) -> dict[str, Any]:
    """The section MODEL of a config on its bases, of which the nearest value counts."""
    content = yaml.safe_load(file.read_text("utf-8"))
    below = _read_model(file.parent / content["_BASE_"]) if "_BASE_" in content else {}
    return {**below, **content.get("MODEL", {})}


def _names(folder: Path) -> Iterator[str]:
    for file in folder.rglob("*.yaml"):
        yield file.relative_to(folder).with_suffix("").as_posix()
