#!/usr/bin/env python
"""Trains and evaluates a config of this project, in the shape of Detectron2's own script.

python train_net.py --config-file configs/voc2watercolor_simple.yaml
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/.../model_final.pth
"""

import argparse
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from tadp_d2.data.build import load_dataset
from tadp_d2.engine.checkpoint import RunCheckpointer
from tadp_d2.engine.provenance import Provenance
from tadp_d2.engine.setup import setup
from tadp_d2.engine.trainer import Trainer
from tadp_d2.errors import exit_on_user_error


def main(args: argparse.Namespace) -> Any:
    """Trains, or evaluates with `--eval-only`; returns the metrics by data set."""
    cfg = setup(args)
    for dataset in cfg.DATASETS.TEST:
        # What would fail in the evaluation after days of training fails now.
        load_dataset(cfg, dataset)
    if args.eval_only:
        return evaluate(cfg)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def evaluate(cfg: CfgNode) -> Any:
    """Evaluates `MODEL.WEIGHTS`, or the untrained model where it is empty."""
    model = Trainer.build_model(cfg)
    RunCheckpointer(model, cfg.OUTPUT_DIR, Provenance(cfg, model)).load(cfg.MODEL.WEIGHTS)
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def parse_arguments() -> argparse.Namespace:
    parser = default_argument_parser()
    parser.add_argument(
        "--preset", default="", help="settings of configs/presets/ on top of the config file"
    )
    return parser.parse_args()


if __name__ == "__main__":
    args = parse_arguments()
    with exit_on_user_error():
        launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
