"""Semantic segmentation: a class for every pixel; mIoU."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from PIL import Image

from tadp_d2.data.catalog import is_labelled, read_known
from tadp_d2.data.decoded_files import stretch
from tadp_d2.data.images import read_label_map
from tadp_d2.errors import UserError
from tadp_d2.evaluation.sem_seg import NamedSemSegEvaluator
from tadp_d2.evaluation.submission import SubmissionWriter
from tadp_d2.files import replacing
from tadp_d2.tasks.metrics import SEM_SEG, SEM_SEG_STRETCHED
from tadp_d2.tasks.task import TASK_REGISTRY, Task, class_names
from tadp_d2.visualization.segments import draw_named_segments, draw_segments


@TASK_REGISTRY.register()
class Semantic(Task):
    """Images -> "sem_seg", logits K x H x W."""

    name = "semantic"
    architectures: ClassVar[frozenset[str]] = frozenset({"CaptionedSegmentor", "SemanticSegmentor"})
    needs = "semantic"
    metric_sets = (SEM_SEG,)
    own_keys: ClassVar[frozenset[str]] = frozenset({"TEST.AT_INPUT_SIZE"})

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg)
        self.at_input_size = cfg.TEST.AT_INPUT_SIZE
        if self.at_input_size:
            self.metric_sets = (SEM_SEG_STRETCHED,)

    def classes(self) -> list[str]:
        return class_names(self.cfg.DATASETS.TRAIN[0], "stuff")

    def check_config(self) -> None:
        if self.cfg.TEST.COCO_METRICS:
            raise UserError("TEST.COCO_METRICS is for a detector")
        if self.at_input_size and (self.cfg.INPUT.RESIZE != "fixed" or self.cfg.TEST.SUBMISSION):
            raise UserError(
                "TEST.AT_INPUT_SIZE is True: it needs INPUT.RESIZE fixed, so that all images have "
                "the size INPUT.FIXED_SIZE_TEST, and no TEST.SUBMISSION"
            )

    def check_dataset(self, dataset: str, training: bool) -> None:
        super().check_dataset(dataset, training)
        built = self.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        if built != len(self.classes()):
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {built}, but {self.cfg.DATASETS.TRAIN[0]!r} "
                f"has {len(self.classes())} classes"
            )

    def evaluators(self, dataset: str) -> list[DatasetEvaluator]:
        """mIoU where there are labels, and files for a benchmark server on request."""
        evaluators: list[DatasetEvaluator] = []
        if is_labelled(dataset):
            size = self.cfg.INPUT.FIXED_SIZE_TEST if self.at_input_size else None
            evaluators.append(NamedSemSegEvaluator(dataset, self.classes(), size))
        if self.cfg.TEST.SUBMISSION:
            folder = Path(self.cfg.OUTPUT_DIR, "submission", dataset)
            evaluators.append(
                SubmissionWriter(folder, (entry["file_name"] for entry in read_known(dataset)))
            )
        return evaluators

    def legend(self, dataset: str) -> tuple[tuple[str, tuple[int, int, int]], ...]:
        meta = MetadataCatalog.get(dataset)
        return tuple(zip(meta.stuff_classes, meta.stuff_colors, strict=True))

    def draw_truth(
        self, dataset: str, pixels: np.ndarray, entry: Mapping[str, Any]
    ) -> Image.Image | None:
        if "sem_seg_file_name" not in entry:
            return None
        return draw_segments(pixels, read_label_map(entry["sem_seg_file_name"]), _colors(dataset))

    def draw_prediction(
        self, dataset: str, pixels: np.ndarray, output: Mapping[str, Any]
    ) -> Image.Image:
        height, width = pixels.shape[:2]
        classes = stretch(_class_map(output), width, height)
        return draw_segments(pixels, classes, _colors(dataset))

    def draw_large(self, pixels: np.ndarray, output: Mapping[str, Any]) -> Image.Image:
        metadata = MetadataCatalog.get(self.cfg.DATASETS.TRAIN[0])
        return draw_named_segments(pixels, _class_map(output), metadata)

    def write(self, output: Mapping[str, Any], file: Path) -> dict[str, Any]:
        """`<name>.png` holds the class index of every pixel, 8 bits."""
        classes, png = _class_map(output), file.with_suffix(".png")
        with replacing(png) as temporary:
            Image.fromarray(classes).save(temporary, format="PNG")
        return {
            "classes": self.classes(),
            "class_map": png.name,
            "shares": _shares(classes, self.classes()),
        }

    def summary(self, output: Mapping[str, Any]) -> dict[str, str]:
        """Each class's share of the area."""
        shares = _shares(_class_map(output), self.classes())
        return {name: f"{100 * share:.1f}% of the area" for name, share in shares.items()}


def _colors(dataset: str) -> np.ndarray:
    return np.array(MetadataCatalog.get(dataset).stuff_colors, np.uint8)


def _class_map(output: Mapping[str, Any]) -> np.ndarray:
    return output["sem_seg"].argmax(dim=0).cpu().numpy().astype(np.uint8)


def _shares(classes: np.ndarray, names: list[str]) -> dict[str, float]:
    """Class -> its share of the image's area; only those that occur."""
    counts = np.bincount(classes.ravel(), minlength=len(names)) / classes.size
    return {name: float(share) for name, share in zip(names, counts, strict=True) if share}
