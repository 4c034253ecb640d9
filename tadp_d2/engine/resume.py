"""What must be there and equal for a run to be continued, or its last checkpoint evaluated."""

import logging
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from tadp_d2.config.keys import Changes, find_key, flatten
from tadp_d2.config.registration import add_tadp_config
from tadp_d2.engine.checkpoint import find_checkpoints
from tadp_d2.errors import UserError, reason

_logger = logging.getLogger(__name__)

# Changes what is learned; but to train for longer is a reason to resume.
_MAY_CHANGE = ("SOLVER.MAX_ITER",)
# Differing keys that a message names.
_NAMED = 5


def check_output(cfg: CfgNode, evaluation: bool, resume: bool) -> None:
    """Checks that the output folder holds what is asked for, and nothing that would be lost.

    Raises:
        UserError: a run would be overwritten, has lost its checkpoints, or had another config; or
            there is no checkpoint to evaluate.
    """
    folder = Path(cfg.OUTPUT_DIR)
    found = find_checkpoints(folder)
    begun = found or (folder / "last_checkpoint").exists()
    if not resume:
        if begun and not evaluation:
            raise UserError(
                f"{folder} holds a run already: continue it with --resume, or choose another "
                "OUTPUT_DIR"
            )
        return
    if found:
        if not evaluation:
            _check_same_config(cfg, folder)
    elif evaluation:
        raise UserError(
            f"{folder} holds no checkpoint that --resume could evaluate; MODEL.WEIGHTS without "
            "--resume names one elsewhere"
        )
    elif begun:
        raise UserError(
            f"{folder / 'last_checkpoint'}: the checkpoint that it names is gone, and no other is "
            "left; put it back, or begin anew in another OUTPUT_DIR"
        )


def read_config(folder: Path) -> dict[str, Any] | None:
    """The values of a run's `config.yaml` by name; None where there is none.

    Raises:
        UserError: it is damaged.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        return None
    try:
        config = yaml.safe_load(file.read_text("utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise _damaged(file, reason(error)) from None
    if not isinstance(config, dict):
        raise _damaged(file, "it holds no keys")
    return flatten(config)


def _damaged(file: Path, why: str) -> UserError:
    return UserError(
        f"{file}: not the config of a run ({why}); put back what was there, or remove it if the "
        "run goes on with the config that it was begun with"
    )


def _check_same_config(cfg: CfgNode, folder: Path) -> None:
    recorded = read_config(folder)
    if recorded is None:
        _logger.warning(f"{folder} has no config.yaml: with which config it was begun is not known")
        return
    defaults = get_cfg()
    add_tadp_config(defaults)
    # What a version before this one did not know was at its default.
    recorded = _plain(defaults) | recorded
    differing = [
        f"{name} is {value!r} and was {recorded[name]!r}"
        for name, value in _plain(cfg).items()
        if value != recorded[name]
        and find_key(name).changes is Changes.TRAINING
        and name not in _MAY_CHANGE
    ]
    if differing:
        more = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
        raise UserError(
            f"{folder} was begun with another config: {'; '.join(differing[:_NAMED])}{more}. A run "
            "is continued with the same; SOLVER.MAX_ITER and keys that change no training may "
            "differ. For another config choose another OUTPUT_DIR"
        )


def _plain(cfg: CfgNode) -> dict[str, Any]:
    """The values as YAML returns them: lists for tuples."""
    return flatten(yaml.safe_load(cfg.dump()))
