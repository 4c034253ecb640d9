"""Semantic segmentation metrics by Detectron2's evaluator, which counts as Cityscapes does."""

import logging
import math
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import SemSegEvaluator

from tadp_d2.data.decoded_files import as_label_map, as_stretched_label_map
from tadp_d2.errors import UserError

_logger = logging.getLogger(__name__)


class NamedSemSegEvaluator(SemSegEvaluator):
    """`SemSegEvaluator` that checks the model's classes and names those that do not occur.

    `evaluate` returns "sem_seg": "mIoU", "pACC" (pixel accuracy), "IoU-<class>" and Detectron2's
    others, all in 0..100. A class that occurs neither in the truth nor in a prediction is left out
    of the mean, and its value is NaN; one that is only predicted has 0 and counts so.
    """

    def __init__(
        self, dataset: str, model_classes: Sequence[str], size: tuple[int, int] | None = None
    ):
        """
        Args:
            size: width and height to which truths are stretched, those of all predictions;
                results are "sem_seg_stretched" then. None for the size of each label map.

        Raises:
            UserError: the model's classes are others than the data set's.
        """
        expected = MetadataCatalog.get(dataset).stuff_classes
        if list(model_classes) != list(expected):
            raise UserError(
                f"data set {dataset!r} is scored on {', '.join(expected)}; the model was trained "
                f"on {', '.join(model_classes)}"
            )
        super().__init__(dataset, distributed=True)
        self._size = size
        self.input_file_to_gt_file = {
            image: as_stretched_label_map(labels, *size) if size else as_label_map(labels)
            for image, labels in self.input_file_to_gt_file.items()
        }

    def evaluate(self) -> OrderedDict | None:
        results = super().evaluate()
        if results is None:
            return None
        metrics = results["sem_seg"]
        absent = [name for name in self._class_names if math.isnan(metrics[f"IoU-{name}"])]
        ious = self._ious()
        metrics["mIoU"] = 100 * float(np.mean(ious[~np.isnan(ious)]))
        for name, iou in zip(self._class_names, ious, strict=True):
            metrics[f"IoU-{name}"] = 100 * float(iou)
        if absent:
            _logger.warning(f"No pixel of {', '.join(absent)} in the truth of {self._dataset_name}")
        return OrderedDict({"sem_seg_stretched": metrics}) if self._size else results

    def _ious(self) -> np.ndarray:
        """Of each class, in 0..1. Detectron2 gives those that are only predicted no value, and its
        later versions leave them out of the mean."""
        counts = self._conf_matrix[:-1, :-1]
        both = counts.diagonal()
        either = counts.sum(axis=0) + counts.sum(axis=1) - both
        return np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)

    # Detectron2 keeps every prediction as run lengths, to write them all into one file at the end;
    # nobody asks for that file here.
    def encode_json_sem_seg(self, sem_seg, input_file_name) -> list:
        return []
