"""Referring segmentation metrics, per expression: overall IoU, mean IoU, precision (LAVT, VPD)."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from PIL import Image
from torch import Tensor

from tadp_d2.data.readers.refer import draw_mask

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


class ReferringEvaluator(DatasetEvaluator):
    """Scores the masks of all expressions of a data set.

    `evaluate` returns "referring", all in 0..100: "oIoU" (all intersections over all unions),
    "mIoU" (mean over expressions), "P@0.5" to "P@0.9" (share of expressions whose IoU is at least
    that), and "oIoU_without_text": of the best answer that does not read the expression, one and
    the same object for all expressions of an image.

    An expression is scored at the size of the prediction: "sem_seg_input", the model's input, if
    the output has it, as the released code does; else "sem_seg", the image.
    """

    def __init__(self, overlaps: bool = True):
        """
        Args:
            overlaps: whether a truth includes where its polygons overlap.
        """
        self._overlaps = overlaps
        self.reset()

    def reset(self) -> None:
        # Expression id -> intersection and union; image id -> truths as run lengths.
        self._counts: dict[Any, tuple[int, int]] = {}
        self._truths: dict[Any, list[dict]] = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for entry, output in zip(inputs, outputs, strict=True):
            found = object_mask(output.get("sem_seg_input", output["sem_seg"])).cpu().numpy()
            truth = draw_mask(entry, self._overlaps)
            if truth.shape != found.shape:
                truth = _resize(truth, found.shape)
            self._counts[entry["expression_id"]] = count_pixels(found, truth)
            code = coco_mask.encode(np.asfortranarray(truth, dtype=np.uint8))
            self._truths.setdefault(entry["image_id"], []).append(code)

    def evaluate(self) -> OrderedDict | None:
        """The metrics on the main process, None on the others. All processes must call it."""
        parts = comm.gather((self._counts, self._truths))
        if not comm.is_main_process():
            return None
        counts = {key: value for part, _ in parts for key, value in part.items()}
        truths: dict[Any, list[dict]] = {}
        for _, part in parts:
            for image_id, codes in part.items():
                truths.setdefault(image_id, []).extend(codes)
        results = summarize(counts.values())
        results["oIoU_without_text"] = _overall(
            [pair for codes in truths.values() for pair in _best_object(codes)]
        )
        return OrderedDict(referring=results)


def object_mask(logits: Tensor) -> Tensor:
    """Where the object is, H x W bool, of logits 2 x H x W. A tie is background, as released."""
    background, foreground = logits
    return foreground > background


def count_pixels(found: np.ndarray, truth: np.ndarray) -> tuple[int, int]:
    """Pixels of the intersection and of the union of two masks, H x W bool."""
    return int((found & truth).sum()), int((found | truth).sum())


def summarize(counts: Iterable[tuple[int, int]]) -> dict[str, float]:
    """
    Args:
        counts: of each expression, intersection and union. IoU is 0 where both masks are empty.

    Returns:
        The metrics of `ReferringEvaluator` but the last; NaN without expressions.
    """
    pairs = np.array(list(counts), np.int64).reshape(-1, 2)
    if not len(pairs):
        return dict.fromkeys(("oIoU", "mIoU", *(f"P@{t}" for t in THRESHOLDS)), float("nan"))
    both, either = pairs.T
    ious = np.divide(both, either, out=np.zeros(len(pairs)), where=either > 0)
    precision = {f"P@{t}": 100 * float((ious >= t).mean()) for t in THRESHOLDS}
    return {"oIoU": _overall(pairs), "mIoU": 100 * float(ious.mean()), **precision}


def _overall(pairs: Sequence[Sequence[int]] | np.ndarray) -> float:
    both, either = np.array(pairs, np.int64).reshape(-1, 2).sum(axis=0)
    return 100 * float(both / either) if either else float("nan")


def _best_object(codes: list[dict]) -> list[tuple[int, int]]:
    """Intersections and unions where the truth of one expression answers all of an image."""
    ious = coco_mask.iou(codes, codes, [0] * len(codes))
    answer = int(ious.sum(axis=1).argmax())
    sums = coco_mask.area(codes).astype(np.int64) + int(coco_mask.area(codes[answer]))
    # IoU = I / (sum - I).
    both = np.rint(ious[answer] * sums / (1 + ious[answer])).astype(np.int64)
    return list(zip(both.tolist(), (sums - both).tolist(), strict=True))


def _resize(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    resized = Image.fromarray(mask).resize(shape[::-1], Image.Resampling.NEAREST)
    return np.asarray(resized)
