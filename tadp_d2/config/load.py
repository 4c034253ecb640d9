"""From config files, presets and overrides to a checked config."""

import ast
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg

from tadp_d2.config.keys import check_values, flatten
from tadp_d2.config.registration import add_tadp_config
from tadp_d2.config.shipped import advice, find_config, find_preset
from tadp_d2.engine.checks import check_config
from tadp_d2.errors import UserError, reason


def load_config(
    config_file: str = "", preset: str | Sequence[str] = (), overrides: Sequence[str] = ()
) -> CfgNode:
    """Defaults, then a config file, then presets of `configs/presets/`, then `KEY VALUE` pairs.

    Args:
        config_file: path, or name of a config of the package such as "voc2watercolor_simple".
        preset: name of one, or of several that are merged in their order.

    Raises:
        UserError: a file is absent or malformed, a key unknown, or a value is not allowed.
    """
    cfg = get_cfg()
    add_tadp_config(cfg)
    defaults = cfg.clone()
    presets = [preset] if isinstance(preset, str) else preset
    for file in (find_config(str(config_file)), *map(find_preset, filter(None, presets))):
        if file:
            _merge_file(cfg, file)
    _merge_overrides(cfg, list(overrides))
    _refuse_null(cfg, defaults)
    check_values(flatten(cfg), flatten(defaults))
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    check_config(cfg)
    cfg.freeze()
    return cfg


def _merge_file(cfg: CfgNode, file: str) -> None:
    _check_file(Path(file))
    try:
        cfg.merge_from_file(file, allow_unsafe=False)
    except (KeyError, ValueError, AssertionError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: {_explain(cfg, error)}") from None


def _merge_overrides(cfg: CfgNode, overrides: list[str]) -> None:
    if len(overrides) % 2:
        raise UserError(f"overrides come in pairs KEY VALUE; found {' '.join(overrides)!r}")
    held = flatten(cfg)
    for place in range(1, len(overrides), 2):
        if isinstance(held.get(overrides[place - 1]), str):
            overrides[place] = _as_text(overrides[place])
    try:
        cfg.merge_from_list(overrides)
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(f"command line: {_explain(cfg, error)}") from None


def _as_text(value: Any) -> Any:
    """A key's text in the form that Detectron2 takes for a text, also if it looks like a number.

    A name is any text: 2024, [1]. One in quotation marks is taken without them, as in Detectron2.
    """
    try:
        read = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
    return value if read is None or isinstance(read, str) else repr(value)


def _refuse_null(cfg: CfgNode, defaults: CfgNode, prefix: str = "") -> None:
    for name, value in cfg.items():
        default = defaults.get(name)
        if isinstance(value, CfgNode):
            _refuse_null(value, default, f"{prefix}{name}.")
        # A modifier may be called null.
        elif value is None and default is not None and not name.startswith("MODIFIER"):
            raise UserError(f"{prefix}{name} is null: expected a value such as {default!r}")


def _explain(cfg: CfgNode, error: Exception) -> str:
    """The message of a config error, with the known key that looks most like an unknown one."""
    # str() of a KeyError would put its message in quotes.
    message = str(error.args[0]) if isinstance(error, KeyError) else str(error)
    message = " ".join(message.split())
    if "on-existent" not in message:
        return message
    key = message.rsplit(":", 1)[-1].strip().rstrip("'\"")
    similar = difflib.get_close_matches(key, _keys(cfg), n=1)
    hint = f"; did you mean {similar[0]}?" if similar else ""
    return f"unknown config key {key}{hint}"


def _keys(cfg: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for name, value in cfg.items():
        keys.append(prefix + name)
        if isinstance(value, CfgNode):
            keys += _keys(value, f"{prefix}{name}.")
    return keys


def _check_file(file: Path, above: tuple[Path, ...] = ()) -> None:
    """Checks a config file and those that it rests on (`_BASE_`).

    Args:
        above: the files that rest on this one.

    Raises:
        UserError: a file is absent or no safe YAML mapping, a key stands twice, so that YAML would
            drop the first one's value, an alias is used, a few of which can grow to any size, or
            the files rest on each other in a circle.
    """
    if not file.is_file():
        named = f"{above[-1]}: _BASE_ names {file}" if above else f"no config file {file}"
        raise UserError(f"{named}{advice(file)}")
    if file.resolve() in above:
        raise UserError(f"{file}: rests on itself by _BASE_; take the circle apart")
    try:
        loader = yaml.SafeLoader(file.read_text("utf-8-sig"))
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise UserError(f"{file}: expected keys and values, such as SEED: 1")
        _check_node(root, file, set())
        content = loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{file}{line}: not a safe YAML file ({error.problem})") from None
    # Also impossible dates, and more levels than Python can count.
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{file}: not a safe YAML file ({reason(error)})") from None
    bases = content.get("_BASE_", [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            raise UserError(f"{file}: _BASE_ is {base!r}: expected the name of a config file")
        _check_file(file.parent / Path(base).expanduser(), (*above, file.resolve()))


def _check_node(node: yaml.Node, file: Path, seen: set[int]) -> None:
    if not isinstance(node, yaml.CollectionNode):
        return
    where = f"{file}:{node.start_mark.line + 1}"
    if id(node) in seen:
        # Detectron2 writes lists of numbers so into the config.yaml of a run; they cannot grow.
        if all(isinstance(child, yaml.ScalarNode) for child in node.value):
            return
        raise UserError(f"{where}: used again by an alias; write it out where it is needed")
    seen.add(id(node))
    children: list[Any] = node.value
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice:
            raise UserError(f"{where}: {twice!r} stands there twice; join the two")
        children = [child for _, child in node.value]
    for child in children:
        _check_node(child, file, seen)
