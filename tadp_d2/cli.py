"""`tadp-d2 <command>`: a thin layer over the package's functions."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tadp_d2.errors import exit_on_user_error


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command; wrong input ends in one message and exit code 2."""
    parser = argparse.ArgumentParser(prog="tadp-d2", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_synth(commands)
    args = parser.parse_args(arguments)
    with exit_on_user_error():
        args.run(args)


def _add_synth(commands: argparse._SubParsersAction) -> None:
    synth = commands.add_parser(
        "synth",
        help="write the built-in world: small data sets with captions, a tiny diffusion model",
    )
    synth.add_argument("folder", type=Path, help="new or empty folder")
    synth.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: 0)")
    synth.set_defaults(run=_synth)


def _synth(args: argparse.Namespace) -> None:
    # Imported here: the other commands and --help should not wait for torch.
    from tadp_d2.progress import hide_library_bars, progress_line
    from tadp_d2.synthetic.world import MODEL_FOLDER, write_world

    hide_library_bars()
    write_world(args.folder, args.seed, progress=progress_line("pictures"))
    print(
        f"Wrote {args.folder}. To use it:\n"
        f"  export DETECTRON2_DATASETS={args.folder}\n"
        f"  python train_net.py --config-file configs/quick_schedules/voc2watercolor_simple.yaml "
        f"MODEL.DIFFUSION.WEIGHTS {args.folder / MODEL_FOLDER}"
    )
