"""Panoptic segmentation: things with masks, and stuff.

Predictions are scored by panoptic quality, as instances and as class maps.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from PIL import Image

from tadp_d2.errors import UserError
from tadp_d2.evaluation.coco import NamedCOCOEvaluator
from tadp_d2.evaluation.panoptic_quality import PanopticQualityEvaluator
from tadp_d2.evaluation.sem_seg import NamedSemSegEvaluator
from tadp_d2.files import replacing
from tadp_d2.tasks.metrics import COCO, COCO_MASKS, PANOPTIC, SEM_SEG
from tadp_d2.tasks.task import TASK_REGISTRY, Task, class_names
from tadp_d2.visualization.segments import draw_panoptic


@TASK_REGISTRY.register()
class Panoptic(Task):
    """Images -> "panoptic_seg", a map of segment ids with what each is, "instances", "sem_seg"."""

    name = "panoptic"
    architectures: ClassVar[frozenset[str]] = frozenset({"PanopticFPN"})
    needs = "panoptic"
    metric_sets = (PANOPTIC, COCO_MASKS, COCO, SEM_SEG)

    def classes(self) -> list[str]:
        """Things, then stuff; the stuff class 0 stands for all things (Detectron2)."""
        dataset = self.cfg.DATASETS.TRAIN[0]
        return [*class_names(dataset, "thing"), *class_names(dataset, "stuff")[1:]]

    def check_dataset(self, dataset: str, training: bool) -> None:
        super().check_dataset(dataset, training)
        for head, kind in (("ROI_HEADS", "thing"), ("SEM_SEG_HEAD", "stuff")):
            built, names = self.cfg.MODEL[head].NUM_CLASSES, class_names(dataset, kind)
            if built != len(names):
                raise UserError(
                    f"MODEL.{head}.NUM_CLASSES is {built}, but {dataset!r} has {len(names)} "
                    f"{kind} classes"
                )

    def select_for_training(
        self, dataset: str, entries: Sequence[dict[str, Any]]
    ) -> Sequence[dict[str, Any]]:
        found = [e for e in entries if "sem_seg_file_name" in e and "annotations" in e]
        if len(found) < len(entries):
            raise UserError(
                f"data set {dataset!r}: {len(entries) - len(found)} images have no label map or no "
                "masks of things; use the data set whose name ends in _separated"
            )
        return found

    def evaluators(self, dataset: str) -> list[DatasetEvaluator]:
        source = self.cfg.DATASETS.TRAIN[0]
        things, stuff = class_names(source, "thing"), class_names(source, "stuff")
        has_panoptic = MetadataCatalog.get(dataset).get("panoptic_json")
        return [
            *([PanopticQualityEvaluator(dataset, things, stuff)] if has_panoptic else []),
            NamedCOCOEvaluator(dataset, self.cfg.OUTPUT_DIR, masks=True),
            NamedSemSegEvaluator(dataset, stuff),
        ]

    def draw_prediction(
        self, dataset: str, pixels: np.ndarray, output: Mapping[str, Any]
    ) -> Image.Image:
        segments, described = output["panoptic_seg"]
        metadata = MetadataCatalog.get(self.cfg.DATASETS.TRAIN[0])
        return draw_panoptic(pixels, segments.cpu(), described, metadata)

    def write(self, output: Mapping[str, Any], file: Path) -> dict[str, Any]:
        """`<name>.png` holds the segment's id of every pixel: R + 256 G + 65536 B (COCO)."""
        segments, described = output["panoptic_seg"]
        things = class_names(self.cfg.DATASETS.TRAIN[0], "thing")
        stuff = class_names(self.cfg.DATASETS.TRAIN[0], "stuff")
        ids = segments.cpu().numpy().astype(np.uint32)
        png = file.with_suffix(".png")
        with replacing(png) as temporary:
            colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1)
            Image.fromarray(colors.astype(np.uint8)).save(temporary, format="PNG")
        found = [
            {
                "id": segment["id"],
                "class": (things if segment["isthing"] else stuff)[segment["category_id"]],
                "thing": bool(segment["isthing"]),
                "area": int((ids == segment["id"]).sum()),
                **({"score": float(segment["score"])} if "score" in segment else {}),
            }
            for segment in described
        ]
        return {"segments": png.name, "segments_info": found}
