"""Pascal VOC detection metrics over declared classes, with Detectron2's arithmetic.

Detectron2's `PascalVOCDetectionEvaluator` computes every number here. What it lacks is done around
it: scoring a subset of the model's classes, both VOC metrics, a value per class, annotations
without the optional fields, and classes that do not occur in the ground truth.
"""

import functools
import logging
import tempfile
import xml.etree.ElementTree as ET
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, PascalVOCDetectionEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from tadp_d2.data.readers.pascal_voc import (
    SIDES,
    VOCAnnotation,
    read_annotation,
    read_split,
    voc_folder,
)
from tadp_d2.errors import UserError

_logger = logging.getLogger(__name__)
# Detectron2's evaluator announces itself for every class and metric.
logging.getLogger(PascalVOCDetectionEvaluator.__module__).setLevel(logging.WARNING)

# Metric -> the year by which Detectron2 chooses it: AP over 11 points, or the area under the curve.
METRICS = {"voc07": 2007, "voc_area": 2012}


class ClassSubsetVOCEvaluator(DatasetEvaluator):
    """Scores a data set's `evaluation_classes` (default: all its classes).

    `evaluate` returns, for each of "voc07" (11-point, as the paper's tables) and "voc_area":
    "AP" (mean over IoU 0.50:0.05:0.95), "AP50", "AP75" and "AP50-<class>", all in 0..100 and
    averaged over the classes that occur in the ground truth.
    """

    def __init__(self, dataset: str, model_classes: Sequence[str]):
        """
        Args:
            dataset: a registered VOC-style data set.
            model_classes: the names of the model's class indices.

        Raises:
            UserError: the model does not know one of the classes to be scored.
        """
        meta = MetadataCatalog.get(dataset)
        self._classes = list(meta.get("evaluation_classes", meta.thing_classes))
        unknown = sorted(set(self._classes) - set(model_classes))
        if unknown:
            raise UserError(
                f"data set {dataset!r} is scored on {', '.join(unknown)}, which the model was not "
                "trained on"
            )
        self._model_classes = list(model_classes)
        self._truth = complete_annotations(
            voc_folder(dataset), meta.split, dataset, tuple(meta.thing_classes)
        )
        self.reset()

    def reset(self) -> None:
        self._evaluators = {
            (metric, name): _detectron2_evaluator(self._truth, name, year)
            for metric, year in METRICS.items()
            for name in self._classes
            if name in self._truth.classes
        }

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        found = [output["instances"].to("cpu") for output in outputs]
        for (_, name), evaluator in self._evaluators.items():
            index = self._model_classes.index(name)
            evaluator.process(inputs, [_only(instances, index) for instances in found])

    def evaluate(self) -> OrderedDict | None:
        """The metrics on the main process, None on the others. All processes must call it."""
        absent = [name for name in self._classes if name not in self._truth.classes]
        if absent:
            _logger.warning(f"No object of {', '.join(absent)} in the truth: left out of the means")
        # Detectron2 synchronises the processes in each of these calls.
        by_class = {
            key: evaluator.evaluate() for key, evaluator in sorted(self._evaluators.items())
        }
        if not comm.is_main_process():
            return None
        return OrderedDict((metric, _summarise(metric, by_class)) for metric in METRICS)


def _summarise(metric: str, by_class: dict[tuple[str, str], dict]) -> dict[str, float]:
    boxes = {name: result["bbox"] for (m, name), result in by_class.items() if m == metric}
    means = {
        key: float(np.mean([box[key] for box in boxes.values()])) if boxes else float("nan")
        for key in ("AP", "AP50", "AP75")
    }
    return means | {f"AP50-{name}": float(box["AP50"]) for name, box in boxes.items()}


def _only(instances: Instances, index: int) -> dict[str, Instances]:
    """The detections of one class, as class 0."""
    chosen = instances[instances.pred_classes == index]
    chosen.pred_classes = torch.zeros_like(chosen.pred_classes)
    return {"instances": chosen}


@dataclass(frozen=True)
class Truth:
    """Annotations in the form that Detectron2's evaluator reads.

    Attributes:
        folder: in VOC's layout, in a temporary place that lives as long as this object.
        split: the split of its image list.
        classes: those that the evaluation asks for, because an object is not difficult.
    """

    folder: tempfile.TemporaryDirectory
    split: str
    classes: frozenset[str]


# Kept for the process: Detectron2 caches every annotation file by its path.
@functools.cache
def complete_annotations(
    root: Path, split: str, dataset: str, class_names: tuple[str, ...]
) -> Truth:
    """Copies a split's annotations with all optional fields filled in and whole-pixel boxes.

    Raises:
        UserError: as `read_split` and `read_annotation`.
    """
    folder = tempfile.TemporaryDirectory(prefix="tadp_d2_voc_")
    ids = read_split(root, split, dataset)
    annotations = Path(folder.name, "Annotations")
    splits = Path(folder.name, "ImageSets", "Main")
    annotations.mkdir()
    splits.mkdir(parents=True)
    (splits / f"{split}.txt").write_text("\n".join(ids))
    classes = set()
    for image_id in ids:
        annotation = read_annotation(root / "Annotations" / f"{image_id}.xml", class_names)
        classes |= {obj.name for obj in annotation.objects if not obj.difficult}
        (annotations / f"{image_id}.xml").write_bytes(_to_xml(annotation))
    return Truth(folder, split, frozenset(classes))


def _to_xml(annotation: VOCAnnotation) -> bytes:
    root = ET.Element("annotation")
    for obj in annotation.objects:
        element = ET.SubElement(root, "object")
        fields = {"name": obj.name, "pose": "Unspecified", "truncated": 0}
        fields["difficult"] = int(obj.difficult)
        for tag, value in fields.items():
            ET.SubElement(element, tag).text = str(value)
        box = ET.SubElement(element, "bndbox")
        for tag, value in zip(SIDES, obj.box, strict=True):
            ET.SubElement(box, tag).text = str(round(value))
    return ET.tostring(root)


def _detectron2_evaluator(truth: Truth, name: str, year: int) -> PascalVOCDetectionEvaluator:
    """Detectron2's evaluator for one class and metric, which it reads from metadata."""
    scratch = "tadp_d2_scratch"
    MetadataCatalog.get(scratch).set(
        dirname=truth.folder.name, split=truth.split, thing_classes=[name], year=year
    )
    try:
        evaluator = PascalVOCDetectionEvaluator(scratch)
    finally:
        MetadataCatalog.remove(scratch)
    evaluator.reset()
    return evaluator
