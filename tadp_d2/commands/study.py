"""`tadp-d2 study`: questions that the built-in world answers."""

import argparse
import os
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    study = commands.add_parser(
        "study",
        help="answer a question on the built-in world, with several seeds",
        description="Writes result files and a table. It may be stopped at any moment: the same "
        "command goes on. Same seeds, same numbers on one machine, however many processes.",
    )
    study.add_argument("part", choices=("personalization",), help="which question")
    study.add_argument(
        "--output",
        type=Path,
        default=Path("output/study"),
        metavar="FOLDER",
        help="default: output/study",
    )
    study.add_argument(
        "--world", type=Path, metavar="FOLDER", help="default: one that it writes in the output"
    )
    study.add_argument("--seeds", type=int, default=5, metavar="N", help="default: 5")
    study.add_argument(
        "--processes", type=int, default=os.cpu_count(), metavar="N", help="default: one per core"
    )
    study.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tadp_d2.errors import UserError
    from tadp_d2.files import replacing
    from tadp_d2.progress import hide_library_bars, progress_line
    from tadp_d2.study.jobs import run_jobs
    from tadp_d2.study.personalization import jobs, table
    from tadp_d2.synthetic.world import write_world

    for name in ("seeds", "processes"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: expected at least 1")
    hide_library_bars()
    world = args.world or args.output / "world"
    if not world.exists():
        write_world(world, seed=0, progress=progress_line("pictures"))
    folder = args.output / args.part
    results = run_jobs(
        jobs(world, folder, range(args.seeds)), args.processes, progress_line("runs")
    )
    file = folder / "table.md"
    with replacing(file) as temporary:
        temporary.write_text(table(results) + "\n", "utf-8")
    print(f"{table(results)}\n\nThe table is {file}; the results are beside it.")
