"""`tadp-d2 benchmark`: several trained models on one target, in one pass."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tadp_d2.inference.model_options import add_opts

if TYPE_CHECKING:
    from detectron2.config import CfgNode


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "benchmark",
        help="evaluate several trained models on the same data in one pass",
        description="Evaluates several models with the numbers of tadp-d2 train --eval-only, but "
        "reads every image and runs the VAE once. All models are in memory at once; those with "
        "the same weights, which differ in their prompts, are one.",
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="model",
        help="a run's output folder (its config.yaml and model_final.pth), or CONFIG=WEIGHTS",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("output/benchmark"),
        metavar="FOLDER",
        help="for a folder of results of each model (default: output/benchmark)",
    )
    add_opts(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from detectron2.utils.logger import setup_logger

    from tadp_d2.data.images import set_pixel_limit
    from tadp_d2.engine.checks import check_inputs
    from tadp_d2.errors import UserError
    from tadp_d2.inference.shared_evaluation import evaluate_together, load_contestants
    from tadp_d2.progress import hide_library_bars

    hide_library_bars()
    cfgs: dict[str, CfgNode] = {}
    notes: list[str] = []
    for model in args.models:
        name, file, weights = _parts(model)
        if name in cfgs:
            raise UserError(f"two models are called {name}: results need names of their own")
        cfg = _read(file, weights, args.output / name, args.opts)
        set_pixel_limit(cfg.INPUT.MAX_PIXELS)
        notes += check_inputs(cfg, evaluation=True, resume=False)
        cfgs[name] = cfg
    args.output.mkdir(parents=True, exist_ok=True)
    for logger in ("tadp_d2", "detectron2"):
        setup_logger(str(args.output), name=logger)
    # Models that read alike are told of once.
    for note in dict.fromkeys(notes):
        logging.getLogger(__name__).warning(note)
    evaluate_together(load_contestants(cfgs))
    print(f"The results are {args.output}/*/results.json; tadp-d2 report {args.output} shows them")


def _parts(model: str) -> tuple[str, str, str]:
    """Name, config file and weights of a run's folder or CONFIG=WEIGHTS."""
    from tadp_d2.errors import UserError

    folder = Path(model)
    # First, because the name of a folder may hold the sign.
    if (folder / "config.yaml").is_file():
        return folder.resolve().name, str(folder / "config.yaml"), str(folder / "model_final.pth")
    file, sign, weights = model.partition("=")
    if not sign:
        raise UserError(
            f"{model}: expected a run's output folder, with config.yaml and model_final.pth, or "
            "CONFIG=WEIGHTS"
        )
    return Path(file).stem, file, weights


def _read(file: str, weights: str, output: Path, opts: list[str]) -> "CfgNode":
    from tadp_d2.config.load import load_config

    own = ["MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(output)]
    return load_config(file, overrides=[*opts, *own])
