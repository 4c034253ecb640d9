"""`tadp-d2 synth`: the synthetic data sets and tiny models."""

import argparse
from pathlib import Path

from tadp_d2.synthetic.sizes import PARTS


def add(commands: argparse._SubParsersAction) -> None:
    synth = commands.add_parser(
        "synth",
        help="write small synthetic data sets with captions, and tiny models",
    )
    synth.add_argument("folder", type=Path, help="new or empty folder, or one that lacks parts")
    synth.add_argument(
        "--only",
        action="append",
        choices=PARTS,
        help="the data sets of this task and the models, now; the others can be added later. May "
        "be repeated",
    )
    synth.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: 0)")
    synth.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tadp_d2.progress import hide_library_bars, progress_line
    from tadp_d2.synthetic.data_folder import MODEL_FOLDER, write_data_folder

    hide_library_bars()
    write_data_folder(
        args.folder, args.seed, progress=progress_line("images"), parts=args.only or PARTS
    )
    print(
        f"{args.folder} is ready. To use it:\n"
        f"  export DETECTRON2_DATASETS={args.folder}\n"
        f"  tadp-d2 train --config quick_schedules/voc2watercolor_simple "
        f"MODEL.DIFFUSION.WEIGHTS {args.folder / MODEL_FOLDER}\n"
        f"or cityscapes2darkzurich_simple, for segmentation, nyu_depth, or refcoco, for what "
        f"expressions refer to."
    )
