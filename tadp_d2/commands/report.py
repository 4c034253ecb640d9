"""`tadp-d2 report`: result files as tables and as a page."""

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "report",
        help="make tables and a page from the results of runs",
        description="Puts the results of runs beside each other and beside the paper's: "
        "report.html (a page that needs nothing else), MODEL_ZOO.md, tables.tex and results.csv. "
        "Without runs the tables hold the paper's numbers, and dashes.",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        metavar="OUTPUT",
        help="output folder of a run, or a folder of such folders",
    )
    parser.add_argument(
        "--attention",
        action="append",
        default=[],
        type=Path,
        metavar="SHEET",
        help="a sheet of tadp-d2 attention, for the page; may be repeated",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("output", "report"),
        help="folder of the files, which are replaced there (default: output/report)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tadp_d2.reports.report import write_report

    for path in write_report(args.runs, args.output, args.attention):
        print(path)
