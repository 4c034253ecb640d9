"""How long a run takes to find and strictly read data sets of the published sizes, twice.

Images and label maps are small files of the published names and numbers, in ADE20K's and
COCO-Stuff164k's layouts. Each start is a process of its own: imports, config, and all of training
and test set with the classes of every pixel. The second start remembers what the first one read.

    python benchmarks/start_up.py [FOLDER]
"""

import io
import json
import os
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


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
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
