"""`tadp-d2 <command>`: a thin layer over the package's functions."""

import argparse
import os
import sys
from collections.abc import Sequence

from tadp_d2.commands import (
    app,
    attention,
    benchmark,
    caption,
    captions,
    clean,
    configs,
    doctor,
    dreambooth,
    invert,
    off_target,
    predict,
    prepare,
    report,
    samples,
    study,
    synth,
    train,
    variations,
)
from tadp_d2.errors import exit_on_user_error

COMMANDS = (
    doctor,
    configs,
    synth,
    prepare,
    caption,
    clean,
    captions,
    invert,
    dreambooth,
    samples,
    variations,
    train,
    predict,
    attention,
    app,
    benchmark,
    off_target,
    study,
    report,
)
# A user chooses by one of these how threads wait for each other.
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# Those that continue where they were stopped, and do not print that themselves.
_CONTINUED = (caption.run, predict.run, study.run)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command; wrong input ends in one message and exit code 2."""
    _set_up_threads()
    parser = argparse.ArgumentParser(prog="tadp-d2", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add(commands)
    args = parser.parse_args(arguments)
    try:
        with exit_on_user_error():
            args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        kept = ": finished work is kept, the same command goes on" * (args.run in _CONTINUED)
        print(f"interrupted{kept}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # Whoever reads, such as head, has seen enough. Python flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _set_up_threads() -> None:
    """Lets threads sleep at a barrier, which OpenMP reads when a command imports torch.

    By default they spin there. Where another program has a core, the thread for which the others
    wait then does not get it back: a step of the segmentation demo takes several times as long.
    """
    if not any(name in os.environ for name in _WAITING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
