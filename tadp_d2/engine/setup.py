"""From a command line to a checked config."""

import argparse
import difflib
import logging
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from tadp_d2.config import add_tadp_config
from tadp_d2.data.build import load_dataset
from tadp_d2.data.night_driving import has_labels, is_sem_seg
from tadp_d2.engine.checkpoint import check_checkpoint
from tadp_d2.engine.train_step import PRECISIONS
from tadp_d2.errors import UserError
from tadp_d2.modeling.meta_arch import get_modifiers
from tadp_d2.progress import hide_library_bars
from tadp_d2.weights import find_weights

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
    check_inputs(cfg, args.eval_only, args.resume)
    if args.eval_only:
        cfg.defrost()
        cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "evaluation")
        cfg.freeze()
    default_setup(cfg, args)
    _set_up_loggers(cfg)
    return cfg


def _set_up_loggers(cfg: CfgNode) -> None:
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="tadp_d2")
    if torch.device(cfg.MODEL.DEVICE).type == "cpu":
        logging.getLogger(__name__).warning("Running on the CPU")
    # Detectron2's evaluator announces itself for every class and metric.
    logging.getLogger("detectron2.evaluation.pascal_voc_evaluation").setLevel(logging.WARNING)
    # Its training loop prints the traceback of every error; a user's error is one message.
    logging.getLogger("detectron2.engine.train_loop").addFilter(
        lambda record: not (record.exc_info and issubclass(record.exc_info[0], UserError))
    )


def check_inputs(cfg: CfgNode, evaluation: bool, resume: bool) -> None:
    """Finds now what would otherwise fail later, perhaps after days of training.

    Raises:
        UserError: data, captions, weights or a checkpoint are missing, or a run would be
            overwritten.
    """
    if os.path.exists(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")) and not (
        evaluation or resume
    ):
        raise UserError(
            f"{cfg.OUTPUT_DIR} holds a run already: continue it with --resume, or choose another "
            "OUTPUT_DIR"
        )
    training = () if evaluation else cfg.DATASETS.TRAIN
    for dataset in (*cfg.DATASETS.TEST, *training):
        load_dataset(cfg, dataset)
        unlabelled = is_sem_seg(dataset) and not has_labels(dataset)
        if unlabelled and (dataset in training or not cfg.TEST.SUBMISSION):
            raise UserError(
                f"data set {dataset!r} has no labels: it can be evaluated with TEST.SUBMISSION "
                "True, which writes files for its benchmark server, and not be trained on"
            )
    find_weights(cfg.MODEL.DIFFUSION.WEIGHTS, cfg.MODEL.DIFFUSION.REVISION)
    check_checkpoint(cfg.MODEL.WEIGHTS)


def load_config(config_file: str = "", preset: str = "", overrides: Sequence[str] = ()) -> CfgNode:
    """Defaults, then a config file, then a preset of `configs/presets/`, then `KEY VALUE` pairs.

    A SEED below 0 becomes a random one, which the run records.

    Raises:
        UserError: a file is absent or malformed, a key unknown, or a value of the wrong kind.
    """
    cfg = get_cfg()
    add_tadp_config(cfg)
    for file in (config_file, _preset_file(preset)):
        if file:
            _merge_file(cfg, str(file))
    _merge_overrides(cfg, list(overrides))
    if cfg.SEED < 0:
        cfg.SEED = secrets.randbelow(2**31)
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    check_config(cfg)
    cfg.freeze()
    return cfg


def check_config(cfg: CfgNode) -> None:
    """
    Raises:
        UserError: a value is outside of what its key allows.
    """
    for key, value, allowed in (
        ("INPUT.RESIZE", cfg.INPUT.RESIZE, ("fixed", "shortest_edge")),
        ("TEXT.CAPTION_TEXT", cfg.TEXT.CAPTION_TEXT, ("clean", "raw")),
        ("SOLVER.AMP.DTYPE", cfg.SOLVER.AMP.DTYPE, tuple(PRECISIONS)),
    ):
        if value not in allowed:
            raise UserError(f"{key} is {value!r}: expected one of {', '.join(allowed)}")
    if cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.AMP.DTYPE == "fp16" and cfg.MODEL.DEVICE == "cpu":
        raise UserError("SOLVER.AMP.DTYPE fp16 needs a GPU: use bf16 on a CPU")
    if cfg.SOLVER.GRADIENT_ACCUMULATION < 1:
        raise UserError(
            f"SOLVER.GRADIENT_ACCUMULATION is {cfg.SOLVER.GRADIENT_ACCUMULATION}: expected 1 or "
            "more"
        )
    for key in ("FIXED_SIZE_TRAIN", "FIXED_SIZE_TEST"):
        size = cfg.INPUT[key]
        if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
            raise UserError(f"INPUT.{key} is {size}: expected width and height in pixels")
    if cfg.TEST.WINDOW_SIZE and not 0 < cfg.TEST.WINDOW_STRIDE <= cfg.TEST.WINDOW_SIZE:
        raise UserError(
            f"TEST.WINDOW_STRIDE is {cfg.TEST.WINDOW_STRIDE}: expected 1 to WINDOW_SIZE, "
            f"{cfg.TEST.WINDOW_SIZE}"
        )
    for key in ("TRAIN", "TEST"):
        if not cfg.DATASETS[key]:
            raise UserError(f"DATASETS.{key} names no data set; is --config-file missing?")
    get_modifiers(cfg)


def _preset_file(preset: str) -> Path | None:
    if not preset:
        return None
    names = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if preset not in names:
        raise UserError(f"unknown preset {preset!r}: expected one of {', '.join(names)}")
    return PRESETS / f"{preset}.yaml"


def _merge_file(cfg: CfgNode, file: str) -> None:
    if not Path(file).is_file():
        raise UserError(f"no config file {file}")
    try:
        cfg.merge_from_file(file, allow_unsafe=False)
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not a safe YAML file ({error})") from None
    except (KeyError, ValueError, AssertionError, OSError) as error:
        raise UserError(f"{file}: {_explain(cfg, error)}") from None


def _merge_overrides(cfg: CfgNode, overrides: list[str]) -> None:
    if len(overrides) % 2:
        raise UserError(f"overrides come in pairs KEY VALUE; found {' '.join(overrides)!r}")
    try:
        cfg.merge_from_list(overrides)
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(f"command line: {_explain(cfg, error)}") from None


def _explain(cfg: CfgNode, error: Exception) -> str:
    """The message of a config error, with the known key that looks most like an unknown one."""
    # str() of a KeyError would put its message in quotes.
    message = str(error.args[0]) if isinstance(error, KeyError) else str(error)
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
