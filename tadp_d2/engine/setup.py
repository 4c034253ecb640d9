"""From a command line to a config whose data, weights and output folder are ready."""

import argparse
import logging
import os
import random
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from tadp_d2.config.load import load_config
from tadp_d2.config.shipped import find_config
from tadp_d2.data.images import set_pixel_limit
from tadp_d2.engine.checks import check_inputs
from tadp_d2.engine.launch import is_first_failure
from tadp_d2.engine.resume import read_config
from tadp_d2.errors import UserError
from tadp_d2.progress import hide_library_bars


def setup(args: argparse.Namespace) -> CfgNode:
    """Reads the config of `tadp-d2 train`'s arguments, checks what it names, prepares the output.

    An evaluation writes into the folder `evaluation` of the run, so that it changes nothing else
    there; nothing at all is written before all that can be checked was found right.

    Raises:
        UserError: the config is wrong, or data, captions, weights or a checkpoint are missing.
    """
    hide_library_bars()
    # Detectron2 reads the file, too.
    args.config_file = find_config(args.config_file)
    cfg = load_config(args.config_file, args.preset, args.opts)
    set_pixel_limit(cfg.INPUT.MAX_PIXELS)
    cfg.defrost()
    if cfg.SEED < 0:
        cfg.SEED = _random_seed(cfg.OUTPUT_DIR, args.resume)
    notes = _check_in_turn(cfg, args)
    if args.eval_only:
        cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "evaluation")
    cfg.freeze()
    default_setup(cfg, args)
    _set_up_loggers(cfg)
    for note in notes:
        logging.getLogger(__name__).warning(note)
    return cfg


def _check_in_turn(cfg: CfgNode, args: argparse.Namespace) -> list[str]:
    """As `check_inputs`; the first process of a machine reads what the others then know."""
    notes = []
    for turn in (True, False):
        if (comm.get_local_rank() == 0) == turn:
            notes = check_inputs(cfg, args.eval_only, args.resume)
        # The second time because the first process writes config.yaml when all have read it.
        comm.synchronize()
    return notes


def _random_seed(folder: str, resume: bool) -> int:
    """One for all processes, recorded in the run's config; that of the run to be resumed."""
    recorded = read_config(Path(folder)) if resume else None
    seed = (recorded or {}).get("SEED", random.randrange(2**31))
    return comm.all_gather(seed)[0]


def _set_up_loggers(cfg: CfgNode) -> None:
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="tadp_d2")
    if torch.device(cfg.MODEL.DEVICE).type == "cpu":
        logging.getLogger(__name__).warning("Running on the CPU")
    # Its training loop prints the traceback of every error; a user's error is one message, and
    # another process reports its own.
    logging.getLogger("detectron2.engine.train_loop").addFilter(
        lambda record: (
            not record.exc_info
            or (not issubclass(record.exc_info[0], UserError) and is_first_failure())
        )
    )
