"""Referring segmentation metrics, per expression: overall IoU, mean IoU, precision (LAVT, VPD)."""

from collections import Counter, OrderedDict
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
    that), and what the best answers score that do not read the expression: "oIoU_one_object",
    one object for all expressions of an image, and "oIoU_without_text", any mask.

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
        if counts:
            masks = [coco_mask.decode(codes) for codes in truths.values()]
            results["oIoU_one_object"] = best_of([count_answers(own) for own in masks])
            results["oIoU_without_text"] = best_mask(masks)
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
        The metrics of `ReferringEvaluator` but the last two; NaN without expressions.
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


def count_answers(masks: np.ndarray) -> np.ndarray:
    """What each truth of an image scores as the answer to all of its expressions.

    Args:
        masks: H x W x n, the truths of n expressions, 0 or 1.

    Returns:
        n x 2, sums of intersections and of unions.
    """
    flat = masks.reshape(-1, masks.shape[-1]).astype(np.float64)
    shared = (flat.T @ flat).round().astype(np.int64)
    areas = shared.diagonal()
    return np.stack([shared.sum(axis=1), (areas[:, None] + areas - shared).sum(axis=1)], axis=1)


def best_of(answers: Sequence[np.ndarray]) -> float:
    """The highest overall IoU, 0..100, of all ways to choose an answer for each image.

    Args:
        answers: of each image, as `count_answers` returns them.
    """
    best, better = -1.0, 0.0
    # Dinkelbach: at the highest ratio r, the choices that maximize I - r U have that ratio.
    while better > best:
        best = better
        chosen = [own[(own[:, 0] - best * own[:, 1]).argmax()] for own in answers]
        both, either = np.sum(chosen, axis=0)
        better = float(both / max(either, 1))
    return 100 * best


def best_mask(images: Iterable[np.ndarray]) -> float:
    """The highest overall IoU, 0..100, of masks that answer all expressions of their image alike.

    A pixel that k of n truths cover adds k to the intersections and n - k to the unions, if it is
    answered: the best answers are all pixels above some share k / n.

    Args:
        images: of each image the truths, H x W x n, 0 or 1.
    """
    pixels: Counter[tuple[int, int]] = Counter()
    for masks in images:
        covered = np.bincount(masks.sum(axis=2, dtype=np.int64).ravel())
        pixels.update({(k, masks.shape[2]): int(number) for k, number in enumerate(covered) if k})
    both, best = 0, 0.0
    either = sum(k * number for (k, _), number in pixels.items())
    for (k, n), number in sorted(pixels.items(), key=lambda item: -item[0][0] / item[0][1]):
        both += k * number
        either += (n - k) * number
        best = max(best, both / either)
    return 100 * best


def _resize(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    resized = Image.fromarray(mask).resize(shape[::-1], Image.Resampling.NEAREST)
    return np.asarray(resized)
