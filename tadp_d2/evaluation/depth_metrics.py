"""How well depth agrees with its truth: which pixels count, the nine metrics, an evaluator."""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from tadp_d2.data.readers.depth_maps import CROPS, read_depth
from tadp_d2.errors import UserError

_logger = logging.getLogger(__name__)


def valid_pixels(truth: np.ndarray, nearest: float, farthest: float, crop: str) -> np.ndarray:
    """Which pixels count, H x W bool: truth between the limits, both excluded, in the crop.

    Args:
        truth: H x W, meters.
        crop: a key of `CROPS`.
    """
    inside = np.zeros(truth.shape, bool)
    inside[CROPS[crop](*truth.shape)] = True
    return inside & (truth > nearest) & (truth < farthest)


def compare_depth(depth: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The nine metrics over pixels (VPD, section 4.1): lengths in meters, the rest plain numbers.

    d1, d2 and d3 are shares, 0 to 1, of pixels whose ratio max(depth/truth, truth/depth) is below
    1.25, 1.25^2 and 1.25^3. Nothing is aligned or scaled before.

    Args:
        depth, truth: N numbers, finite and above 0.
    """
    depth, truth = depth.astype(np.float64), truth.astype(np.float64)
    ratio = np.maximum(depth / truth, truth / depth)
    error = truth - depth
    log_error = np.log(truth) - np.log(depth)
    return {
        "d1": np.mean(ratio < 1.25),
        "d2": np.mean(ratio < 1.25**2),
        "d3": np.mean(ratio < 1.25**3),
        "AbsRel": np.mean(np.abs(error) / truth),
        "SqRel": np.mean(error**2 / truth),
        "log10": np.mean(np.abs(log_error)) / np.log(10),
        "RMSElog": np.sqrt(np.mean(log_error**2)),
        "SILog": np.sqrt(np.mean(log_error**2) - 0.5 * np.mean(log_error) ** 2),
        "RMSE": np.sqrt(np.mean(error**2)),
    }


class DepthEvaluator(DatasetEvaluator):
    """The mean over a data set's images of `compare_depth`, each image once.

    The data set's metadata sets what counts: "depth_range" (nearest and farthest, meters) and
    "depth_crop" (a key of `CROPS`). `evaluate` returns "depth". An image without a pixel that
    counts is left out of the means and named in the log.
    """

    def __init__(self, dataset: str):
        meta = MetadataCatalog.get(dataset)
        self._dataset = dataset
        self._range, self._crop = meta.depth_range, meta.depth_crop
        self.reset()

    def reset(self) -> None:
        self._scores: dict[str, dict[str, float]] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[Mapping[str, Any]]) -> None:
        """
        Raises:
            UserError: a depth is no finite number above 0, or the truth cannot be read.
        """
        for image, output in zip(inputs, outputs, strict=True):
            truth = read_depth(image["depth_file_name"], image["depth_unit"])
            depth = output["depth"].float().cpu().numpy()
            wrong = np.count_nonzero(~(np.isfinite(depth) & (depth > 0)))
            if wrong:
                raise UserError(
                    f"{image['file_name']}: the model's depth is no positive number in {wrong} "
                    "pixels; the checkpoint is damaged, or TEST.PRECISION is too low for it"
                )
            valid = valid_pixels(truth, *self._range, self._crop)
            scores = compare_depth(depth[valid], truth[valid]) if valid.any() else {}
            self._scores[str(image["image_id"])] = scores

    def evaluate(self) -> OrderedDict | None:
        # By id: what two processes have seen counts once.
        scores = {key: value for part in comm.gather(self._scores) for key, value in part.items()}
        if not comm.is_main_process():
            return None
        empty = [image_id for image_id, found in scores.items() if not found]
        if empty:
            _logger.warning(
                f"{self._dataset}: {len(empty)} of {len(scores)} images have no pixel that counts "
                f"and are left out, such as {empty[0]}"
            )
        counted = [found for found in scores.values() if found]
        if not counted:
            raise UserError(
                f"data set {self._dataset!r}: no image has a pixel that counts: a truth between "
                f"{self._range[0]} and {self._range[1]} m in the crop {self._crop!r}"
            )
        means = {name: float(np.mean([each[name] for each in counted])) for name in counted[0]}
        return OrderedDict(depth=means)
