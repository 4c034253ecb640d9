"""`tadp-d2 study`: questions that the synthetic data sets answer."""

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tadp_d2.study.jobs import Job
    from tadp_d2.study.questions import Question


def add(commands: argparse._SubParsersAction) -> None:
    study = commands.add_parser(
        "study",
        help="answer a question on the synthetic data sets, with several seeds",
        description="Writes result files and a table. It may be stopped at any moment: the same "
        "command goes on. Same seeds, same numbers on one machine, however many processes.",
    )
    study.add_argument(
        "part",
        choices=(
            *("adaptation", "attention", "depth", "features", "personalization", "prompts"),
            "words",
        ),
        help="what helps a model on a target, beside the paper's claims; what looks at the words "
        "of a caption; what text is worth for depth; which layer and time step of the UNet know "
        "what an image shows; what learned tokens and UNets know of their "
        "style; what the prompt is worth in one domain; whether the diffusion model knows its "
        "words",
    )
    study.add_argument(
        "--output",
        type=Path,
        default=Path("output/study"),
        metavar="FOLDER",
        help="default: output/study",
    )
    study.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="as tadp-d2 synth writes it; written first where there is no such folder (default: "
        "data in the output)",
    )
    study.add_argument("--seeds", type=int, default=5, metavar="N", help="default: 5")
    study.add_argument(
        "--processes", type=int, default=os.cpu_count(), metavar="N", help="default: one per core"
    )
    study.add_argument(
        "--detector",
        type=Path,
        metavar="RUN",
        help="for words: output folder of a detector's training on the synthetic data sets, "
        "such as that of make demo",
    )
    study.add_argument(
        "--question",
        nargs="+",
        metavar="NAME",
        help="for adaptation: pretraining, text, attention-maps, latent-scaling, low-rank, "
        "modifiers, modifiers-in-testing, source-style, cleaning, caption-quality, tagging, "
        "referring; for prompts: table-1, table-2, table-S2, figure-3, VPD-table-5, "
        "tagging-table-5, demo; default: all",
    )
    study.add_argument(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="for adaptation, depth and prompts: make tables of the result files in it, run "
        "nothing",
    )
    study.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tadp_d2.errors import UserError

    for name in ("seeds", "processes"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: expected at least 1")
    if args.part == "words":
        _check_detector(args)
    if args.part not in ("adaptation", "prompts") and args.question:
        raise UserError("--question is for adaptation and prompts")
    if args.part not in ("adaptation", "depth", "prompts") and args.results:
        raise UserError("--results is for adaptation, depth and prompts")
    if args.part in ("adaptation", "prompts"):
        _questions(args)
    folder = args.output / args.part
    if args.results:
        own = folder / "results"
        if own.exists() and own.resolve() != args.results.resolve():
            raise UserError(
                f"{folder} holds a study of its own, whose table would be replaced: name another "
                "folder in --output"
            )
        _show(_of_results(args, folder), folder)
        return
    make = {
        "adaptation": _adaptation,
        "prompts": _prompts,
        "attention": _attention,
        "depth": _depth,
        "features": _features,
        "personalization": _personalization,
        "words": _words,
    }
    world = _world(args)
    with _alone(folder):
        _show(make[args.part](args, world, folder), folder)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second run of a study out of the folder: both would write the same files.

    Raises:
        UserError: there is one, or the folder cannot be written.
    """
    from tadp_d2.file_lock import locked
    from tadp_d2.files import writing

    file = folder / ".lock"
    with contextlib.ExitStack() as stack:
        with writing(file):
            folder.mkdir(parents=True, exist_ok=True)
            file.touch()
            stack.enter_context(locked(file, "name another folder in --output"))
        yield


def _of_results(args: argparse.Namespace, folder: Path) -> str:
    from tadp_d2.study.verdicts import read

    results = read(args.results, args.part)
    if args.part != "depth":
        return _answers(args, results, folder)
    from tadp_d2.study import depth_texts

    return depth_texts.table(results)


def _check_detector(args: argparse.Namespace) -> None:
    from tadp_d2.errors import UserError
    from tadp_d2.study.named_styles import check_detector

    if not args.detector:
        raise UserError(
            "words needs --detector: the output folder of a detector's training on the synthetic "
            "data sets, such as that of make demo"
        )
    check_detector(args.detector)


def _world(args: argparse.Namespace) -> Path:
    """The synthetic data sets, written if there are none, where Detectron2 looks for data sets."""
    from tadp_d2.errors import UserError
    from tadp_d2.progress import hide_library_bars, progress_line
    from tadp_d2.synthetic.data_folder import CLIP_FOLDER, MODEL_FOLDER, write_data_folder

    hide_library_bars()
    world = args.data or args.output / "data"
    if not world.exists():
        write_data_folder(world, seed=0, progress=progress_line("images"))
    for name in ("captions", MODEL_FOLDER, CLIP_FOLDER):
        if not (world / name).is_dir():
            raise UserError(
                f"{world}: holds no synthetic data sets, there is no folder {name}; tadp-d2 synth "
                "writes them into a new folder"
            )
    # The processes that run the jobs read it when they import Detectron2.
    os.environ["DETECTRON2_DATASETS"] = str(world)
    return world


def _show(table: str, folder: Path) -> None:
    _write(table, folder / "table.md")
    print(f"{table}\n\nWritten to {folder}")


def _write(text: str, file: Path) -> None:
    from tadp_d2.files import replacing

    with replacing(file) as temporary:
        temporary.write_text(text + "\n", "utf-8")


def _words(args: argparse.Namespace, world: Path, folder: Path) -> str:
    from tadp_d2.study import named_styles

    jobs = named_styles.jobs(world, folder, range(args.seeds), args.detector)
    return named_styles.table(_run(args, jobs, "runs"))


def _attention(args: argparse.Namespace, world: Path, folder: Path) -> str:
    from tadp_d2.study import attention_shares

    return attention_shares.table(_run(args, attention_shares.jobs(world, folder), "styles"))


def _depth(args: argparse.Namespace, world: Path, folder: Path) -> str:
    from tadp_d2.study import depth_texts

    return depth_texts.table(_run(args, depth_texts.jobs(world, folder, range(args.seeds)), "runs"))


def _features(args: argparse.Namespace, world: Path, folder: Path) -> str:
    from tadp_d2.study import feature_probes

    return feature_probes.table(_run(args, feature_probes.jobs(world, folder), "passes"))


def _personalization(args: argparse.Namespace, world: Path, folder: Path) -> str:
    from tadp_d2.study import personalized

    jobs = personalized.jobs(world, folder, range(args.seeds))
    return personalized.table(_run(args, jobs, "runs"))


def _adaptation(args: argparse.Namespace, world: Path, folder: Path) -> str:
    from tadp_d2.study import adaptation

    learning, trainings = adaptation.jobs(world, folder, _questions(args), range(args.seeds))
    _run(args, learning, "tokens and UNets")
    return _answers(args, _run(args, trainings, "trainings"), folder)


def _prompts(args: argparse.Namespace, world: Path, folder: Path) -> str:
    from tadp_d2.files import replacing
    from tadp_d2.study import prompts

    results = _run(args, prompts.jobs(world, folder, _questions(args), range(args.seeds)), "runs")
    if prompts.DEMO in (args.question or ()):
        with replacing(folder / "predictions.jpg") as temporary:
            drawn = prompts.sheet(folder, prompts.PROMPT_QUESTIONS[prompts.DEMO])
            drawn.save(temporary, format="JPEG", quality=90)
    return _answers(args, results, folder)


def _answers(args: argparse.Namespace, results: list[Any], folder: Path) -> str:
    """The tables of the questions; draws them, too."""
    from tadp_d2.study.differences_figure import figure
    from tadp_d2.study.verdict_tables import tables
    from tadp_d2.study.verdicts import answer

    answers = answer(_questions(args), results)
    _write(figure(answers), folder / "differences.svg")
    return tables(answers)


def _run(args: argparse.Namespace, jobs: "list[Job]", what: str) -> list[Any]:
    from tadp_d2.progress import progress_line
    from tadp_d2.study.jobs import run_jobs

    return run_jobs(jobs, args.processes, progress_line(what))


def _questions(args: argparse.Namespace) -> "list[Question]":
    from tadp_d2.errors import UserError
    from tadp_d2.study.prompts import DEMO, PROMPT_QUESTIONS
    from tadp_d2.study.questions import QUESTIONS

    known = PROMPT_QUESTIONS if args.part == "prompts" else QUESTIONS
    # A demo asks a part of what others ask.
    names = args.question or [name for name in known if name != DEMO]
    for name in names:
        if name not in known:
            others = ", ".join(known)
            raise UserError(f"--question {name}: there is none of that name; expected {others}")
    return [known[name] for name in names]
