"""A run: trains a config and evaluates it, or evaluates a checkpoint."""

import argparse
import os
from typing import Any

from detectron2.config import CfgNode

from tadp_d2.engine.checkpoint import RunCheckpointer
from tadp_d2.engine.setup import setup
from tadp_d2.engine.trainer import Trainer
from tadp_d2.records.provenance import Provenance


def train_or_evaluate(args: argparse.Namespace) -> Any:
    """Trains, or evaluates with `--eval-only`; returns the metrics by data set."""
    cfg = setup(args)
    if args.eval_only:
        return evaluate(cfg, resume=args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def evaluate(cfg: CfgNode, resume: bool) -> Any:
    """Evaluates `MODEL.WEIGHTS` (an untrained model if it is empty), or the run's last checkpoint.

    Args:
        resume: the last checkpoint, of which `setup` found that it is there.
    """
    model = Trainer.build_model(cfg)
    checkpointer = RunCheckpointer(model, os.path.dirname(cfg.OUTPUT_DIR), Provenance(cfg, model))
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    return Trainer.test(cfg, model, final=True)
