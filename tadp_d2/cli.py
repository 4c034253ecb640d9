"""`tadp-d2 <command>`: a thin layer over the package's functions."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tadp_d2.errors import exit_on_user_error


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command; wrong input ends in one message and exit code 2."""
    parser = argparse.ArgumentParser(prog="tadp-d2", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for add in (_add_synth,):
        add(commands)
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
    from diffusers.utils import logging as diffusers_logging
    from tadp_d2.synthetic.world import MODEL_FOLDER, write_world
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
    write_world(args.folder, args.seed, progress=progress_line("pictures"))
    print(
        f"Wrote {args.folder}. To use it:\n"
        f"  export DETECTRON2_DATASETS={args.folder}\n"
        f"  python train_net.py --config-file configs/quick_schedules/voc2watercolor_simple.yaml "
        f"MODEL.DIFFUSION.WEIGHTS {args.folder / MODEL_FOLDER}"
    )


def progress_line(what: str) -> Callable[[int, int], None]:
    """A callback (done, total) that keeps a line with an estimate of the time left on stderr."""
    start = time.monotonic()

    def show(done: int, total: int) -> None:
        left = (time.monotonic() - start) / done * (total - done)
        end = "\n" if done == total else "\r"
        if done == total or done % 20 == 0:
            print(f"{done}/{total} {what}, {left:.0f} s left  ", end=end, file=sys.stderr)

    return show
