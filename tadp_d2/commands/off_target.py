"""`tadp-d2 off-target`: what names of absent classes do to a model with an oracle."""

import argparse
from pathlib import Path

from tadp_d2.inference.model_options import add_model_options, read_config


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "off-target",
        help="measure what names of absent classes do to a segmentor with an oracle",
        description="Evaluates a segmentor that was trained with MODEL.CONDITIONER.NAME Oracle "
        "twice: under the names of what each image shows, and under the names of all classes. "
        "Draws the mean softmax scores of the pixels of each class (TADP, figure S2), and writes "
        "them into a .csv file beside the drawing.",
    )
    parser.add_argument(
        "--dataset", metavar="NAME", help="with label maps (default: the first of DATASETS.TEST)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("off_target.png"),
        help="new file (default: off_target.png)",
    )
    add_model_options(parser, weights_required=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tadp_d2.engine.checkpoint import check_checkpoint
    from tadp_d2.files import check_new_sheet
    from tadp_d2.inference.off_target import check_model, measure_scores, write_scores
    from tadp_d2.inference.predictor import load_model
    from tadp_d2.progress import hide_library_bars, progress_line
    from tadp_d2.tasks.task import get_task

    hide_library_bars()
    check_new_sheet(args.output, ".csv")
    cfg = read_config(args)
    check_model(cfg)
    check_checkpoint(cfg.MODEL.WEIGHTS)
    dataset = args.dataset or cfg.DATASETS.TEST[0]
    task = get_task(cfg)
    task.check_dataset(dataset, training=False)
    scores = measure_scores(cfg, load_model(cfg), dataset, progress_line("images"))
    print(f"{args.output} and {write_scores(args.output, scores, task.classes())}")
