#!/usr/bin/env python
"""Trains and evaluates a config of this project, in the shape of Detectron2's own script.

python train_net.py --config-file configs/voc2watercolor_simple.yaml
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/.../model_final.pth
torchrun --nproc-per-node 4 train_net.py --config-file ...    # or: train_net.py --num-gpus 4 ...
"""

import argparse
import os
from typing import Any

from tadp_d2.errors import exit_on_user_error

with exit_on_user_error():  # Detectron2 may be missing
    from detectron2.config import CfgNode
    from detectron2.engine import default_argument_parser

    from tadp_d2.engine.checkpoint import RunCheckpointer
    from tadp_d2.engine.launch import launch
    from tadp_d2.engine.setup import setup
    from tadp_d2.engine.trainer import Trainer
    from tadp_d2.records.provenance import Provenance


def main(args: argparse.Namespace) -> Any:
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


def parse_arguments() -> argparse.Namespace:
    parser = default_argument_parser()
    parser.add_argument(
        "--preset",
        action="append",
        default=[],
        help="settings of configs/presets/ on top of the config file; may be repeated, the last "
        "one is the strongest",
    )
    return parser.parse_args()


if __name__ == "__main__":
    args = parse_arguments()
    with exit_on_user_error():
        launch(main, args)
