"""Everything that must be seen on a GPU, in one run of about eight minutes that needs no network.

Tests on CUDA, the UNet's features and whole training steps beside the released wrapper's, what
`MODEL.DIFFUSION.COMPILE` gives, evaluation, personalization and captioning, at Stable Diffusion
1.5's size with random weights. One JSON file holds all that was found; it is whole after every
measurement, and a section that fails says so there while the others go on.

    python benchmarks/gpu_check.py --requirements
    python benchmarks/gpu_check.py --output gpu.json
    python benchmarks/gpu_check.py --output gpu.json --sections matrix graphs blocks
    python benchmarks/gpu_check.py --size tiny --device cpu --output cpu.json
    python benchmarks/gpu_check.py --tables gpu.json --write
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path

# What is imported -> what pip calls it. torch, torchvision and Triton come with the machine.
REQUIREMENTS = {
    "torch": "torch",
    "torchvision": "torchvision",
    "transformers": "transformers",
    "safetensors": "safetensors",
    "accelerate": "accelerate",
    "cv2": "opencv-python-headless",
    "matplotlib": "matplotlib",
    "tensorboard": "tensorboard",
    "tabulate": "tabulate",
    "pytest": "pytest",
    "diffusers": "diffusers==0.42.1",
    "importlib_metadata": "importlib_metadata==10.2.0",
    "lazy_importer": "lazy-importer==0.1.0",
    "yacs": "yacs==0.1.8",
    "omegaconf": "omegaconf==2.4.0",
    "termcolor": "termcolor==3.3.0",
    "portalocker": "portalocker",
    "pycocotools": "pycocotools==2.0.11",
    # On the index as source only: `pip wheel --no-deps` makes wheels of these.
    "fvcore": "fvcore==0.1.5.post20221221",
    "iopath": "iopath==0.1.10",
    "cityscapesscripts": "cityscapesscripts==2.3.0",
    "detectron2": "detectron2, as tadp_d2.install_detectron2 installs it",
}
# Section -> the most seconds it may take, in the order of their worth; together they are more than
# a run has, so that a quick section leaves its time to the others.
SECTIONS = {
    "matrix": 15,
    "tests": 110,
    "graphs": 140,
    "evaluation": 70,
    "blocks": 300,
    "detection": 90,
    "segmentation": 80,
    "features": 100,
    "personalization": 40,
    "captioning": 35,
    "memory": 110,
    "suite": 240,
}


def missing() -> list[str]:
    """What pip calls the packages that cannot be imported."""
    return [package for name, package in REQUIREMENTS.items() if find_spec(name) is None]


def write_data(folder: Path, size: str) -> Path:
    """The synthetic data sets and tiny models, as many images as are needed."""
    from tadp_d2.progress import hide_library_bars
    from tadp_d2.synthetic.data_folder import write_data_folder
    from tadp_d2.synthetic.room_data_sets import RoomSizes
    from tadp_d2.synthetic.street_data_sets import StreetSizes
    from tadp_d2.synthetic.voc_data_sets import VocSizes

    hide_library_bars()
    many, few, streets = (16, 64, 16) if size == "full" else (4, 4, 2)
    write_data_folder(
        folder,
        seed=0,
        sizes=VocSizes(many, 2, 2, 2, few, 2, 2),
        street_sizes=StreetSizes(many, 2, 2, streets, 2, 2),
        room_sizes=RoomSizes(2, 2, 2),
    )
    return folder


def run(args: argparse.Namespace, folder: Path) -> int:
    """Runs the sections; returns how many failed."""
    # Detectron2 reads it when it registers data sets.
    sets = args.data or folder / "data"
    os.environ["DETECTRON2_DATASETS"] = str(sets)
    os.environ["HF_HUB_OFFLINE"] = "1"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        # In another process while tests run and weights are drawn here.
        written = None if args.data else pool.submit(write_data, sets, args.size)
        return _run_sections(args, folder, sets, written)


def _run_sections(
    args: argparse.Namespace, folder: Path, sets: Path, written: Future | None
) -> int:
    import gpu_sections as sections
    from gpu_record import Clock, Record
    from measure import commit, machine

    from tadp_d2.progress import hide_library_bars

    hide_library_bars()
    clock = Clock(args.seconds)
    record = Record(
        args.output,
        {
            "command": shlex.join(["python", "benchmarks/gpu_check.py", *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%d"),
            "commit": args.commit or commit(),
            "machine": machine(args.device),
            "size": args.size,
            "device": args.device,
            "cpus": os.cpu_count(),
        },
    )
    tiny = sets / "stable-diffusion-tiny"
    weights = folder / "sd15-random" if args.size == "full" else tiny
    state = sections.Run(args.size, args.device, folder, sets, weights, record)
    tests = None
    if "tests" in args.sections:
        tests = sections.Tests(state, ("tests/cuda",), workers=args.workers)
    with record.section("preparation"):
        if args.size == "full":
            from full_size import write

            write(weights, args.device)
        if written:
            written.result(timeout=max(clock.left, 1))

    def finish_tests(own: Clock) -> None:
        found = tests.wait(own.left)
        record.add({"section": "tests", "what": "tests/cuda", **found})

    def suite(own: Clock) -> None:
        found = sections.Tests(state, sections.SUITE, workers=args.workers).wait(own.left)
        record.add({"section": "suite", "what": " ".join(sections.SUITE), **found})

    def evaluations(own: Clock) -> None:
        for left, task in zip((2, 1), sections.CONFIGS, strict=True):
            sections.evaluation(state, own.part(own.left / left), task)

    calls: dict[str, Callable[[Clock], None]] = {
        "tests": finish_tests,
        "matrix": lambda own: sections.matrix(state, own),
        "features": lambda own: sections.features(state, own),
        "detection": lambda own: sections.steps(state, own, "detection"),
        "segmentation": lambda own: sections.steps(state, own, "segmentation"),
        "evaluation": evaluations,
        "personalization": lambda own: sections.personalization(state, own),
        "captioning": lambda own: sections.captioning(state, own),
        "graphs": lambda own: sections.graphs(state, own),
        "blocks": lambda own: sections.blocks(state, own),
        "memory": lambda own: sections.memory(state, own),
        "suite": suite,
    }
    # As asked for; but nothing is timed while the tests run.
    for name in sorted(dict.fromkeys(args.sections), key=lambda name: name != "tests"):
        if clock.left <= 0:
            record.data["sections"][name] = {"skipped": "no time left"}
            continue
        with record.section(name):
            calls[name](clock.part(SECTIONS[name]))
    record.data["finished"] = True
    record.write()
    failed = [n for n, found in record.data["sections"].items() if "error" in found]
    wrong = [cell for cell in record.data["cells"] if "error" in cell]
    print(f"sections that failed: {', '.join(failed) or 'none'}; measurements: {len(wrong)}")
    return len(failed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="the JSON file")
    parser.add_argument("--size", choices=("tiny", "full"), default="full")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--seconds", type=float, default=480, help="for all sections together")
    parser.add_argument("--data", type=Path, help="as tadp-d2 synth writes it; default: its own")
    parser.add_argument("--workers", type=int, default=8, help="processes of the tests")
    parser.add_argument("--commit", help="default: that of the checkout, if it has a history")
    parser.add_argument("--requirements", action="store_true", help="list packages, and what lacks")
    parser.add_argument(
        "--tables",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="print the tables of JSON files; of what was measured twice, the last counts",
    )
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    args = parser.parse_args()
    if args.requirements:
        absent = missing()
        for package in REQUIREMENTS.values():
            print(f"{package}{'  (missing here)' if package in absent else ''}")
        return
    if args.tables:
        from gpu_tables import report

        report([json.loads(file.read_text("utf-8")) for file in args.tables], args.write)
        return
    absent = missing()
    if absent:
        raise SystemExit(f"packages that must be installed first: {', '.join(absent)}")
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU is seen here: --device cpu --size tiny tries the script without")
    # What the machine leaves of it does not matter: a full disk is no reason to lose results.
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        failed = run(args, Path(folder))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
