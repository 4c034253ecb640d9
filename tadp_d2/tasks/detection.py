"""Detection: boxes, and masks where the model has them; VOC's metrics or COCO's."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, GeneralizedRCNNWithTTA
from PIL import Image
from torch import nn

from tadp_d2.data.catalog import is_voc
from tadp_d2.errors import UserError
from tadp_d2.evaluation.coco import NamedCOCOEvaluator
from tadp_d2.evaluation.voc import ClassSubsetVOCEvaluator
from tadp_d2.tasks.metrics import COCO, COCO_MASKS, VOC07, VOC_AREA
from tadp_d2.tasks.task import TASK_REGISTRY, Task, class_names
from tadp_d2.visualization.objects import MIN_SCORE, draw_detections, draw_objects

# Meta-architecture -> the node of its config that holds NUM_CLASSES.
_HEADS = {
    "CaptionedRCNN": "ROI_HEADS",
    "GeneralizedRCNN": "ROI_HEADS",
    "RetinaNet": "RETINANET",
}


@TASK_REGISTRY.register()
class Detection(Task):
    """Images -> "instances"."""

    name = "detection"
    architectures: ClassVar[frozenset[str]] = frozenset(_HEADS)
    needs = "instances"
    metric_sets = (VOC07, VOC_AREA, COCO, COCO_MASKS)
    columns = 4
    titles = ("prediction",)

    def classes(self) -> list[str]:
        return class_names(self.cfg.DATASETS.TRAIN[0], "thing")

    def check_config(self) -> None:
        if self.cfg.TEST.SUBMISSION:
            raise UserError("TEST.SUBMISSION is for a segmentor")
        area = self.cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA
        if area != 1:
            raise UserError(
                f"INPUT.CROP.SINGLE_CATEGORY_MAX_AREA is {area}: expected 1.0 for a detector"
            )

    def check_dataset(self, dataset: str, training: bool) -> None:
        super().check_dataset(dataset, training)
        self._check_number_of_classes()
        # Detectron2 takes classes by their numbers in training and in COCO's metrics, whatever
        # they are called; VOC's metrics look at the names.
        if training or self.cfg.TEST.COCO_METRICS or not is_voc(dataset):
            expected, found = self.classes(), class_names(dataset, "thing")
            if found != expected:
                raise UserError(
                    f"data set {dataset!r} has the classes {', '.join(found)}, and the model those "
                    f"of {self.cfg.DATASETS.TRAIN[0]!r}: {', '.join(expected)}; they must be "
                    "equal, in their order, for training and for COCO's metrics"
                )

    def _check_number_of_classes(self) -> None:
        head = _HEADS.get(self.cfg.MODEL.META_ARCHITECTURE.removeprefix("Conditioned"))
        if head and self.cfg.MODEL[head].NUM_CLASSES != len(self.classes()):
            raise UserError(
                f"MODEL.{head}.NUM_CLASSES is {self.cfg.MODEL[head].NUM_CLASSES}, but "
                f"{self.cfg.DATASETS.TRAIN[0]!r} has {len(self.classes())} classes"
            )

    def select_for_training(
        self, dataset: str, entries: Sequence[dict[str, Any]]
    ) -> Sequence[dict[str, Any]]:
        self._check_annotations(dataset, entries)
        if not self.cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
            return entries
        found = [entry for entry in entries if entry.get("annotations", True)]
        if not found:
            raise UserError(f"data set {dataset!r}: no image of it has an object to train on")
        return found

    def _check_annotations(self, dataset: str, entries: Sequence[dict[str, Any]]) -> None:
        """Checks that objects have what the model's heads train on besides boxes."""
        for key, field in (("MASK_ON", "segmentation"), ("KEYPOINT_ON", "keypoints")):
            if not self.cfg.MODEL[key]:
                continue
            for entry in entries:
                if any(field not in obj for obj in entry.get("annotations", [{}])):
                    raise UserError(
                        f"MODEL.{key} is True, but data set {dataset!r} has an object without "
                        f"{field!r}: {entry['file_name']}"
                    )
        if self.cfg.MODEL.MASK_ON and self.cfg.INPUT.MASK_FORMAT == "polygon":
            for entry in entries:
                for obj in entry["annotations"]:
                    # Objects of crowds are not trained on.
                    if isinstance(obj["segmentation"], dict) and not obj.get("iscrowd", 0):
                        raise UserError(
                            f"data set {dataset!r} has a run-length encoded mask, in "
                            f"{entry['file_name']}: set INPUT.MASK_FORMAT bitmask"
                        )
        if self.cfg.MODEL.KEYPOINT_ON and not MetadataCatalog.get(dataset).get("keypoint_names"):
            raise UserError(
                f"MODEL.KEYPOINT_ON is True, but the metadata of data set {dataset!r} does not "
                "name keypoint_names"
            )

    def evaluators(self, dataset: str) -> list[DatasetEvaluator]:
        """VOC's metrics for a VOC-style data set, COCO's on request and for any other."""
        evaluators: list[DatasetEvaluator] = []
        if is_voc(dataset):
            evaluators.append(ClassSubsetVOCEvaluator(dataset, self.classes()))
        if self.cfg.TEST.COCO_METRICS or not is_voc(dataset):
            masks = self.cfg.MODEL.MASK_ON and not is_voc(dataset)
            evaluators.append(NamedCOCOEvaluator(dataset, self.cfg.OUTPUT_DIR, masks))
        return evaluators

    def augmentation(self) -> Callable[[CfgNode, nn.Module], nn.Module] | None:
        """Detectron2's, for `GeneralizedRCNN` and what derives from it, without keypoints."""
        architecture = META_ARCH_REGISTRY.get(self.cfg.MODEL.META_ARCHITECTURE)
        supported = issubclass(architecture, GeneralizedRCNN) and not self.cfg.MODEL.KEYPOINT_ON
        return GeneralizedRCNNWithTTA if supported else None

    def draw_truth(
        self, dataset: str, pixels: np.ndarray, entry: Mapping[str, Any]
    ) -> Image.Image | None:
        names = class_names(dataset, "thing")
        return draw_objects(pixels, entry.get("annotations", ()), names)

    def draw_prediction(
        self, dataset: str, pixels: np.ndarray, output: Mapping[str, Any]
    ) -> Image.Image:
        return draw_detections(pixels, output["instances"].to("cpu"), self.classes())

    def write(self, output: Mapping[str, Any], file: Path) -> dict[str, Any]:
        """Best first; boxes are x0, y0, x1, y1 in pixels of the image."""
        instances, names = output["instances"].to("cpu"), self.classes()
        rows = zip(
            instances.pred_classes.tolist(),
            instances.scores.tolist(),
            instances.pred_boxes.tensor.tolist(),
            strict=True,
        )
        found = [{"class": names[index], "score": score, "box": box} for index, score, box in rows]
        return {"detections": found}

    def summary(self, output: Mapping[str, Any]) -> dict[str, str]:
        """The scores of the boxes that are drawn, by class."""
        found: dict[str, list[str]] = {}
        for index, score in zip(
            output["instances"].pred_classes.tolist(),
            output["instances"].scores.tolist(),
            strict=True,
        ):
            if score >= MIN_SCORE:
                found.setdefault(self.classes()[index], []).append(f"{100 * score:.0f}%")
        return {name: ", ".join(scores) for name, scores in found.items()}
