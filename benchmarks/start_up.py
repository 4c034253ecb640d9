"""How long a run takes to find and strictly read data sets, and how long commands take to start.

Images and label maps are small files of the published names and numbers, in ADE20K's and
COCO-Stuff164k's layouts. Each start is a process of its own: imports, config, and all of training
and test set with the classes of every pixel. The second start remembers what the first one read.

    python benchmarks/start_up.py [FOLDER]

With `--commands DATA`, a folder of `tadp-d2 synth`: how long commands take with the tiny model, and
how much of it the libraries' imports take alone. One thread; the least of several starts.

    python benchmarks/start_up.py --commands demo/data
"""

import argparse
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

# Config -> folders of images and of label maps, and their number.
TREES = {
    "ade20k/oracle": (
        ("ADEChallengeData2016", "images/training", "annotations_detectron2/training", 20_210),
        ("ADEChallengeData2016", "images/validation", "annotations_detectron2/validation", 2_000),
    ),
    "coco_stuff/oracle": (
        ("coco", "train2017", "stuffthingmaps_detectron2/train2017", 118_287),
        ("coco", "val2017", "stuffthingmaps_detectron2/val2017", 5_000),
    ),
}
START = """
import json, resource, sys, time
begin = time.perf_counter()
from tadp_d2.config.load import load_config
from tadp_d2.data.loader import load_dataset
cfg = load_config(sys.argv[1])
found = [len(load_dataset(cfg, n, training=t)) for n, t in (
    (cfg.DATASETS.TEST[0], False), (cfg.DATASETS.TRAIN[0], True))]
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([found, time.perf_counter() - begin, used.ru_utime + used.ru_stime,
                  used.ru_maxrss / 2**20]))
"""


# What a command that loads a detector needs of the libraries.
LIBRARIES = """
import detectron2.data, detectron2.engine, detectron2.modeling, detectron2.utils.visualizer
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
"""
COMMAND = "import sys; from tadp_d2.cli import main; main(sys.argv[1:])"


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_trees(root: Path) -> None:
    rng = np.random.default_rng(0)
    image = encoded(Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)), "JPEG")
    # Ten classes in each.
    maps = [
        encoded(
            Image.fromarray(rng.integers(0, 150, 10, np.uint8)[rng.integers(0, 10, (48, 64))]),
            "PNG",
        )
        for _ in range(50)
    ]
    for splits in TREES.values():
        for folder, images, labels, number in splits:
            for name in (images, labels):
                (root / folder / name).mkdir(parents=True)
            for index in range(number):
                (root / folder / images / f"{index:012d}.jpg").write_bytes(image)
                (root / folder / labels / f"{index:012d}.png").write_bytes(maps[index % 50])


def start(config: str, root: Path) -> list:
    environment = os.environ | {
        "DETECTRON2_DATASETS": str(root),
        "TADP_D2_CACHE": str(root / "cache"),
        "PYTHONPATH": os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH")))),
    }
    command = [sys.executable, "-c", START, f"configs/{config}.yaml"]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_commands(data: Path, folder: Path, repeats: int) -> None:
    """Prints the least processor time of commands that read the data sets in `data`."""
    run, model = folder / "run", data / "stable-diffusion-tiny"
    config = "configs/quick_schedules/voc2watercolor_simple.yaml"
    keys = ("MODEL.DIFFUSION.WEIGHTS", model, "DATASETS.TEST", "('voc_2007_test',)")
    untrained = ("SOLVER.MAX_ITER", 0, "OUTPUT_DIR", run, "TEST.GALLERY_IMAGES", 0)
    train = (COMMAND, "train", "--config-file", config, *keys, *untrained)
    image = min((data / "VOC2007" / "JPEGImages").iterdir())
    weights = run / "model_final.pth"
    starts = {
        "the libraries alone": (LIBRARIES,),
        "`tadp-d2 --help`": (COMMAND, "--help"),
        "`tadp-d2 predict`, one image": (
            *(COMMAND, "predict", image, "--caption", "a dog"),
            *("--weights", weights, "--output", folder / "predictions"),
        ),
        "`tadp-d2 doctor voc_2007_test`": (COMMAND, "doctor", "voc_2007_test"),
        "`tadp-d2 train`, no iteration": train,
    }
    environment = os.environ | {
        "DETECTRON2_DATASETS": str(data),
        "OMP_NUM_THREADS": "1",
        "TADP_D2_CACHE": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH")))),
    }

    def seconds(words: tuple) -> float:
        for made in ("run", "predictions") if words is train else ("predictions",):
            shutil.rmtree(folder / made, ignore_errors=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-c", *map(str, words)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        # The doctor's is 2 where an optional package is missing.
        if done.returncode not in (0, 2):
            sys.exit(done.stdout + done.stderr)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    seconds(train)  # for the weights that are predicted with
    found: dict[str, list[float]] = {name: [] for name in starts}
    for _ in range(repeats):
        for name, words in starts.items():
            found[name].append(seconds(words))
    print("| start | CPU seconds |", "| --- | --- |", sep="\n")
    for name, all_found in found.items():
        print(f"| {name} | {min(all_found):.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="where the data sets are written, or were")
    parser.add_argument("--commands", metavar="DATA", type=Path, help="measure commands instead")
    parser.add_argument("--repeats", type=int, default=3, help="of each command")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if args.commands:
            return measure_commands(args.commands.absolute(), Path(temporary), args.repeats)
        root = Path(args.folder or temporary)
        if not (root / "coco").exists():
            write_trees(root)
            time.sleep(3)  # what was just written may still change, and is not remembered
        print("| config | images | start | seconds | CPU seconds | peak memory, GiB |")
        print("| --- | --- | --- | --- | --- | --- |")
        for config in TREES:
            for name in ("first", "second"):
                found, seconds, cpu, memory = start(config, root)
                print(
                    f"| {config} | {' + '.join(map(str, found))} | {name} | {seconds:.1f} | "
                    f"{cpu:.1f} | {memory:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
