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
    study.add_argument(
        "part",
        choices=("personalization", "words"),
        help="what learned tokens and UNets know of their style; whether the diffusion model knows "
        "its words",
    )
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
    study.add_argument(
        "--detector",
        type=Path,
        metavar="RUN",
        help="for words: output folder of a detector's training on the world, such as that of "
        "make demo",
    )
    study.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tadp_d2.errors import UserError
    from tadp_d2.files import replacing
    from tadp_d2.progress import hide_library_bars, progress_line
    from tadp_d2.study import personalization, words
    from tadp_d2.study.jobs import run_jobs
    from tadp_d2.synthetic.world import write_world

    for name in ("seeds", "processes"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: expected at least 1")
    if args.part == "words" and not (args.detector and (args.detector / "config.yaml").is_file()):
        raise UserError(
            "words needs --detector: the output folder of a detector's training on the world, such "
            "as that of make demo"
        )
    hide_library_bars()
    world = args.world or args.output / "world"
    if not world.exists():
        write_world(world, seed=0, progress=progress_line("pictures"))
    folder = args.output / args.part
    seeds = range(args.seeds)
    if args.part == "words":
        part, jobs = words, words.jobs(world, folder, seeds, args.detector)
    else:
        part, jobs = personalization, personalization.jobs(world, folder, seeds)
    results = run_jobs(jobs, args.processes, progress_line("runs"))
    file = folder / "table.md"
    with replacing(file) as temporary:
        temporary.write_text(part.table(results) + "\n", "utf-8")
    print(f"{part.table(results)}\n\nThe table is {file}; the results are beside it.")
