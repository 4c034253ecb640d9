"""`tadp-d2 <command>`: a thin layer over the package's functions."""

import argparse
import sys
from collections.abc import Sequence

from tadp_d2.commands import (
    attention,
    benchmark,
    caption,
    captions,
    clean,
    doctor,
    dreambooth,
    invert,
    predict,
    report,
    study,
    synth,
)
from tadp_d2.errors import exit_on_user_error

COMMANDS = (
    doctor,
    synth,
    caption,
    clean,
    captions,
    invert,
    dreambooth,
    predict,
    attention,
    benchmark,
    study,
    report,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command; wrong input ends in one message and exit code 2."""
    parser = argparse.ArgumentParser(prog="tadp-d2", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add(commands)
    args = parser.parse_args(arguments)
    try:
        with exit_on_user_error():
            args.run(args)
    except KeyboardInterrupt:
        print("interrupted: finished work is kept, the same command goes on", file=sys.stderr)
        sys.exit(130)
