"""Times how long a run on all of COCO 2017 takes to read its annotations, and its memory.

    python benchmarks/coco_start.py
    python benchmarks/coco_start.py --config configs/coco_panoptic/unconditional.yaml

The files are made up: as many images and objects as COCO has, with polygons of as many points, and
empty image files, because the start looks at their names alone.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

OBJECTS, POINTS, SEGMENTS = 7, 22, 11  # of an image in COCO, in the mean; points of a polygon


def write(root: Path, images: int) -> None:
    """COCO's layout with one split, `train2017`.

    Args:
        root: existing folder.
        images: their number.
    """
    from detectron2.data import MetadataCatalog

    ids = {
        "instances": list(MetadataCatalog.get("coco_2017_train").thing_dataset_id_to_contiguous_id)
    }
    both = MetadataCatalog.get("coco_2017_train_panoptic")
    things, stuff = both.thing_dataset_id_to_contiguous_id, both.stuff_dataset_id_to_contiguous_id
    ids["panoptic"] = [*things, *stuff]
    folder = root / "coco" / "train2017"
    annotations = root / "coco" / "annotations"
    for path in (folder, annotations, root / "coco" / "panoptic_train2017"):
        path.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(1, images + 1):
        name = f"{number:012d}.jpg"
        (folder / name).touch()
        rows.append({"id": number, "file_name": name, "width": 640, "height": 480})
    polygon = rng.uniform(10, 400, (images, 2 * POINTS)).round(2).tolist()
    objects = [
        {
            "id": OBJECTS * image + place + 1,
            "image_id": image + 1,
            "category_id": ids["instances"][(image + place) % 80],
            "bbox": [10.0, 10.0, 300.0, 200.0],
            "area": 9000.0,
            "iscrowd": 0,
            "segmentation": [polygon[image]],
        }
        for image in range(images)
        for place in range(OBJECTS)
    ]
    segments = [
        {
            "image_id": image + 1,
            "file_name": f"{image + 1:012d}.png",
            "segments_info": [
                {
                    "id": place + 1,
                    "category_id": ids["panoptic"][(image + place) % 133],
                    "area": 9000,
                    "bbox": [10, 10, 300, 200],
                    "iscrowd": 0,
                }
                for place in range(SEGMENTS)
            ],
        }
        for image in range(images)
    ]
    (root / "coco" / "panoptic_train2017" / f"{1:012d}.png").touch()
    for kind, found in (("instances", objects), ("panoptic", segments)):
        content = {
            "images": rows,
            "annotations": found,
            "categories": [
                {
                    "id": id_,
                    "name": both.thing_classes[{**things, **stuff}[id_]],
                    "isthing": int(id_ in things),
                }
                for id_ in ids[kind]
            ],
        }
        with open(annotations / f"{kind}_train2017.json", "w") as file:
            json.dump(content, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--config", default="configs/coco_detection/mask_rcnn.yaml")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Before Detectron2 is imported.
        os.environ["DETECTRON2_DATASETS"] = folder
        from tadp_d2.config.load import load_config
        from tadp_d2.data.loader import load_dataset

        cfg = load_config(arguments.config)
        write(Path(folder), arguments.images)
        before = resource.getrusage(resource.RUSAGE_SELF)
        start = time.perf_counter(), time.process_time()
        entries = load_dataset(cfg, cfg.DATASETS.TRAIN[0], training=True)
        wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        peak = max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, before.ru_maxrss)
        print(
            f"| {cfg.DATASETS.TRAIN[0]} | {len(entries)} | {wall:.0f} | {cpu:.0f} | "
            f"{peak / 2**20:.1f} |"
        )


if __name__ == "__main__":
    main()
