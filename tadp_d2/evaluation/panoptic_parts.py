"""What the panoptic truth of a data set also holds: objects with masks, and a class for each pixel.

For data sets in which things and stuff share one range of class indices.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from detectron2.utils import comm
from pycocotools import mask as run_lengths

from tadp_d2.data.catalog import read_known
from tadp_d2.data.readers.panoptic_sets import class_map, read_segments
from tadp_d2.evaluation.coco import NamedCOCOEvaluator, strictly_read
from tadp_d2.evaluation.sem_seg import NamedSemSegEvaluator
from tadp_d2.files import replacing


class ThingEvaluator(NamedCOCOEvaluator):
    """COCO's metrics of the things among "instances", boxes and masks.

    The truth is the data set's own file of instances if its metadata name one ("json_file"), as
    COCO's do; else the things of its panoptic truth.
    """

    def __init__(self, dataset: str, output_dir: str):
        meta = MetadataCatalog.get(dataset)
        categories = {i: c for c, i in meta.thing_dataset_id_to_contiguous_id.items()}
        # Detectron2's evaluator wants the classes of things alone, from 0.
        self._places = {index: place for place, index in enumerate(sorted(categories))}
        file = meta.get("json_file")
        if not file:
            file = str(Path(output_dir, f"{dataset}_things.json"))
            if comm.is_main_process():
                _write_things(dataset, categories, Path(file))
            comm.synchronize()
        things = f"{dataset}/things"
        # Of another folder.
        if things in MetadataCatalog.list():
            MetadataCatalog.remove(things)
        MetadataCatalog.get(things).set(
            json_file=file,
            thing_classes=[meta.thing_classes[index] for index in sorted(categories)],
            thing_dataset_id_to_contiguous_id={
                categories[index]: place for index, place in self._places.items()
            },
        )
        super().__init__(things, output_dir, masks=True)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        super().process(inputs, [{"instances": self._things(o["instances"])} for o in outputs])

    def _things(self, instances: Instances) -> Instances:
        places = [self._places.get(index, -1) for index in instances.pred_classes.tolist()]
        numbers = instances.pred_classes.new_tensor(places)
        own = Instances(instances.image_size, **instances.get_fields())
        own.pred_classes = numbers
        return own[numbers >= 0]


def _write_things(dataset: str, categories: dict[int, int], file: Path) -> None:
    """Writes COCO's JSON of instances.

    Args:
        categories: class index of a thing -> its id in the data set.
    """
    images, annotations = [], []
    for entry in read_known(dataset):
        ids, described = segments = read_segments(entry)
        height, width = segments.ids.shape
        images.append({"id": entry["image_id"], "height": height, "width": width})
        for row in described:
            if row["category_id"] not in categories:
                continue
            mask = run_lengths.encode(np.asfortranarray(ids == row["id"], dtype=np.uint8))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": entry["image_id"],
                    "category_id": categories[row["category_id"]],
                    "area": int(run_lengths.area(mask)),
                    "bbox": run_lengths.toBbox(mask).tolist(),
                    "iscrowd": int(row.get("iscrowd", 0)),
                    "segmentation": {
                        "size": mask["size"],
                        "counts": mask["counts"].decode("ascii"),
                    },
                }
            )
    names = MetadataCatalog.get(dataset).thing_classes
    rows = [{"id": category, "name": names[index]} for index, category in categories.items()]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(content))


class ClassMapEvaluator(NamedSemSegEvaluator):
    """`NamedSemSegEvaluator` on the classes of the panoptic truth, crowds included."""

    def __init__(self, dataset: str, model_classes: Sequence[str]):
        entries = read_known(dataset)
        self._entries = {entry["file_name"]: entry for entry in entries}
        with strictly_read(dataset, [{**entry, "sem_seg_file_name": ""} for entry in entries]):
            super().__init__(dataset, model_classes)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for entry, output in zip(inputs, outputs, strict=True):
            found = output["sem_seg"].argmax(dim=0).cpu().numpy().astype(np.int64)
            truth = read_segments(self._entries[entry["file_name"]])
            wanted = class_map(truth, ignored=self._num_classes)
            pairs = (self._num_classes + 1) * found + wanted
            counts = np.bincount(pairs.ravel(), minlength=self._conf_matrix.size)
            self._conf_matrix += counts.reshape(self._conf_matrix.shape)
