"""`tadp-d2 doctor`: what is wrong, before training."""

import argparse
import sys

from tadp_d2.inference.model_options import add_opts

# Problems per data set that are shown.
_MOST = 20


def add(commands: argparse._SubParsersAction) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="find everything that is wrong before training",
        description="Checks the installation, weights and data sets, and decodes every image. "
        "Lists all that is wrong and what to do about it; the exit code is 2 then, and 0 if "
        "nothing is.",
    )
    doctor.add_argument(
        "dataset",
        nargs="*",
        help="registered names; default: those of the config, or all that are here",
    )
    doctor.add_argument(
        "--config-file",
        "--config",
        default="",
        metavar="NAME|FILE",
        help="as tadp-d2 train takes it; default: none, and all data sets that are here",
    )
    doctor.add_argument(
        "--all", action="store_true", help=f"show more than {_MOST} problems of a data set"
    )
    add_opts(doctor)
    doctor.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tadp_d2.start_up import importing

    with importing():
        from tadp_d2.doctor.examine import examine
        from tadp_d2.doctor.findings import Printout
        from tadp_d2.progress import hide_library_bars

    hide_library_bars()
    # A terminal that cannot show the symbols gets question marks.
    sys.stdout.reconfigure(errors="replace")
    printout = Printout(most=sys.maxsize if args.all else _MOST)
    examine(args.config_file, args.opts, args.dataset, printout)
    if printout.problems:
        print(f"{printout.problems} problem{'s' * (printout.problems > 1)}")
        sys.exit(2)
    print("all is well")
