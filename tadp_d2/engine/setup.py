"""From a command line to a checked config."""

import argparse
import difflib
import logging
import os
import random
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from tadp_d2.config import add_tadp_config
from tadp_d2.data.images import set_pixel_limit
from tadp_d2.engine.checks import check_config, check_inputs
from tadp_d2.engine.config_file import check_config_file
from tadp_d2.engine.launch import is_first_failure
from tadp_d2.errors import UserError
from tadp_d2.progress import hide_library_bars

PRESETS = Path(__file__).parents[2] / "configs" / "presets"


def setup(args: argparse.Namespace) -> CfgNode:
    """Reads the config of `train_net.py`'s arguments, checks what it names, prepares the output.

    An evaluation writes into the folder `evaluation` of the run, so that it changes nothing else
    there; nothing at all is written before all that can be checked was found right.

    Raises:
        UserError: the config is wrong, or data, captions, weights or a checkpoint are missing.
    """
    hide_library_bars()
    cfg = load_config(args.config_file, args.preset, args.opts)
    set_pixel_limit(cfg.INPUT.MAX_PIXELS)
    check_inputs(cfg, args.eval_only, args.resume)
    cfg.defrost()
    if cfg.SEED < 0:
        cfg.SEED = _random_seed(cfg.OUTPUT_DIR, args.resume)
    if args.eval_only:
        cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "evaluation")
    cfg.freeze()
    default_setup(cfg, args)
    _set_up_loggers(cfg)
    return cfg


def _random_seed(folder: str, resume: bool) -> int:
    """One for all processes, recorded in the run's config; that of the run to be resumed."""
    recorded = Path(folder, "config.yaml")
    if resume and recorded.is_file():
        seed = yaml.safe_load(recorded.read_text())["SEED"]
    else:
        seed = random.randrange(2**31)
    # The first process writes that file when all have read it.
    return comm.all_gather(seed)[0]


def _set_up_loggers(cfg: CfgNode) -> None:
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="tadp_d2")
    if torch.device(cfg.MODEL.DEVICE).type == "cpu":
        logging.getLogger(__name__).warning("Running on the CPU")
    # Its training loop prints the traceback of every error; a user's error is one message, and
    # another process's is that one's to tell.
    logging.getLogger("detectron2.engine.train_loop").addFilter(
        lambda record: (
            not record.exc_info
            or (not issubclass(record.exc_info[0], UserError) and is_first_failure())
        )
    )


def load_config(config_file: str = "", preset: str = "", overrides: Sequence[str] = ()) -> CfgNode:
    """Defaults, then a config file, then a preset of `configs/presets/`, then `KEY VALUE` pairs.

    Raises:
        UserError: a file is absent or malformed, a key unknown, or a value of the wrong kind.
    """
    cfg = get_cfg()
    add_tadp_config(cfg)
    defaults = cfg.clone()
    for file in (config_file, _preset_file(preset)):
        if file:
            _merge_file(cfg, str(file))
    _merge_overrides(cfg, list(overrides))
    _refuse_null(cfg, defaults)
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    check_config(cfg)
    cfg.freeze()
    return cfg


def _preset_file(preset: str) -> Path | None:
    if not preset:
        return None
    names = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if preset not in names:
        raise UserError(f"unknown preset {preset!r}: expected one of {', '.join(names)}")
    return PRESETS / f"{preset}.yaml"


def _merge_file(cfg: CfgNode, file: str) -> None:
    check_config_file(Path(file))
    try:
        cfg.merge_from_file(file, allow_unsafe=False)
    except (KeyError, ValueError, AssertionError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: {_explain(cfg, error)}") from None


def _merge_overrides(cfg: CfgNode, overrides: list[str]) -> None:
    if len(overrides) % 2:
        raise UserError(f"overrides come in pairs KEY VALUE; found {' '.join(overrides)!r}")
    try:
        cfg.merge_from_list(overrides)
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(f"command line: {_explain(cfg, error)}") from None


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
