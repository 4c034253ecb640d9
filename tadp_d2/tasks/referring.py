"""Referring segmentation: the object that an expression refers to; overall IoU."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from detectron2.data.transforms import TransformList
from detectron2.evaluation import DatasetEvaluator
from PIL import Image

from tadp_d2.data.readers.refer import draw_mask
from tadp_d2.errors import UserError
from tadp_d2.evaluation.refer_metrics import ReferringEvaluator, object_mask
from tadp_d2.files import replacing
from tadp_d2.tasks.metrics import REFERRING
from tadp_d2.tasks.task import TASK_REGISTRY, Task
from tadp_d2.visualization.expressions import draw_expression

# Keys that must have this value, and what another would do.
_FIXED = {
    ("INPUT", "RANDOM_FLIP"): ("none", "a mirrored image makes expressions such as left wrong"),
    ("TEST", "WINDOW_SIZE"): (0, "an expression refers to the whole image"),
    ("TEST", "COCO_METRICS"): (False, "it is for a detector"),
    ("TEST", "SUBMISSION"): (False, "it is for semantic segmentation"),
}


@TASK_REGISTRY.register()
class Referring(Task):
    """Image and expression -> "sem_seg", logits 2 x H x W of background and object."""

    name = "referring"
    architectures: ClassVar[frozenset[str]] = frozenset({"ReferringSegmentor"})
    needs = "referring"
    metric_sets = (REFERRING,)
    own_keys: ClassVar[frozenset[str]] = frozenset(
        {
            *("INPUT.POLYGON_OVERLAPS", "TEST.AT_INPUT_SIZE"),
            *("MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS", "MODEL.SEM_SEG_HEAD.COORDINATES"),
        }
    )

    def check_config(self) -> None:
        for (section, key), (expected, why) in _FIXED.items():
            if self.cfg[section][key] != expected:
                raise UserError(
                    f"{section}.{key} is {self.cfg[section][key]!r}: expected {expected!r} for "
                    f"referring segmentation, because {why}"
                )
        if self.cfg.TEST.VIEWS.SCALES:
            raise UserError("TEST.VIEWS.SCALES is for semantic segmentation")
        if self.cfg.INPUT.CROP.ENABLED:
            raise UserError(
                "INPUT.CROP.ENABLED is True: expected False for referring segmentation, because a "
                "crop makes expressions such as left wrong"
            )

    def select_for_training(
        self, dataset: str, entries: Sequence[dict[str, Any]]
    ) -> Sequence[dict[str, Any]]:
        """An entry for each object: in an epoch it is seen once, with one of its expressions."""
        references: dict[int, dict[str, Any]] = {}
        for entry in entries:
            reference = references.setdefault(entry["ref_id"], {**entry, "expressions": []})
            reference["expressions"].append((entry["expression_id"], entry["expression"]))
        return list(references.values())

    def add_truth(
        self, entry: Mapping[str, Any], transforms: TransformList, image_size: tuple[int, int]
    ) -> dict[str, Any]:
        """One of the expressions, drawn at random, and the mask as "sem_seg"."""
        number, expression = entry["expressions"][np.random.randint(len(entry["expressions"]))]
        mask = draw_mask(entry, self.cfg.INPUT.POLYGON_OVERLAPS).astype(np.uint8)
        moved = np.array(transforms.apply_segmentation(mask))
        return {
            "expression_id": number,
            "expression": expression,
            "sem_seg": torch.from_numpy(moved).long(),
        }

    def evaluators(self, dataset: str) -> list[DatasetEvaluator]:
        return [ReferringEvaluator(self.cfg.INPUT.POLYGON_OVERLAPS)]

    def draw_truth(
        self, dataset: str, pixels: np.ndarray, entry: Mapping[str, Any]
    ) -> Image.Image | None:
        mask = draw_mask(entry, self.cfg.INPUT.POLYGON_OVERLAPS)
        return draw_expression(pixels, mask, entry["expression"])

    def draw_prediction(
        self, dataset: str, pixels: np.ndarray, output: Mapping[str, Any]
    ) -> Image.Image:
        return draw_expression(pixels, _mask(output), output.get("expression", ""))

    def write(self, output: Mapping[str, Any], file: Path) -> dict[str, Any]:
        """`<name>.png` holds 255 where the object is and 0 elsewhere, 8 bits.

        The box is x0, y0, x1, y1 in pixels, the last two exclusive; None where nothing was found.
        """
        mask, png = _mask(output), file.with_suffix(".png")
        with replacing(png) as temporary:
            Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, format="PNG")
        return {"mask": png.name, "share": float(mask.mean()), "box": _box(mask)}

    def summary(self, output: Mapping[str, Any]) -> dict[str, str]:
        return {"object": f"{100 * _mask(output).mean():.1f}% of the area"}


def _mask(output: Mapping[str, Any]) -> np.ndarray:
    return object_mask(output["sem_seg"]).cpu().numpy()


def _box(mask: np.ndarray) -> list[int] | None:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return [int(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]
