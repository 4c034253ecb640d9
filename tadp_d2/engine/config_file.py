"""Config files: what YAML allows, and what a config must not hold."""

from pathlib import Path
from typing import Any

import yaml

from tadp_d2.errors import UserError, reason


def check_config_file(file: Path, above: tuple[Path, ...] = ()) -> None:
    """Checks a config file and those that it rests on (`_BASE_`).

    Args:
        above: the files that rest on this one.

    Raises:
        UserError: a file is absent or no safe YAML mapping, a key stands twice, so that YAML would
            drop the first one's value, an alias is used, a few of which can grow to any size, or
            the files rest on each other in a circle.
    """
    if not file.is_file():
        raise UserError(f"{above[-1]}: _BASE_ names {file}" if above else f"no config file {file}")
    if file.resolve() in above:
        raise UserError(f"{file}: rests on itself by _BASE_; take the circle apart")
    try:
        text = file.read_text("utf-8")
        root = yaml.compose(text, yaml.SafeLoader)
        if not isinstance(root, yaml.MappingNode):
            raise UserError(f"{file}: expected keys and values, such as SEED: 1")
        _check_node(root, file, set())
        content = yaml.safe_load(text)
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
        check_config_file(file.parent / Path(base).expanduser(), (*above, file.resolve()))


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
