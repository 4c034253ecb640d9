"""Whether a conditioner finds the classes of an image: average precision of its tags."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from tadp_d2.conditioning.conditioner import get_conditioner_class
from tadp_d2.data.catalog import entry_id, is_labelled, read_known
from tadp_d2.data.loader import find_present
from tadp_d2.data.present_classes import BACKGROUND, PresentClasses
from tadp_d2.tasks.metrics import TAGS


def tag_evaluators(cfg: CfgNode, dataset: str) -> list[DatasetEvaluator]:
    """That of a conditioner that is trained to tell present classes, where the truth is known."""
    names = get_conditioner_class(cfg).predicted_tags(cfg)
    if not names or not is_labelled(dataset):
        return []
    entries = read_known(dataset)
    found = find_present(cfg, dataset, entries)
    return [TagEvaluator(names, dict(zip(map(entry_id, entries), found, strict=True)))]


class TagEvaluator(DatasetEvaluator):
    """Average precision of each class over the images of a data set, and its mean.

    `evaluate` returns "tags": "mAP" and "AP-<class>", in 0..100. The truth is the whole annotation,
    as in the loss. A class that no image shows, or that the data set does not name, has no value
    and is left out of the mean; so is "background".
    """

    def __init__(self, names: Sequence[str], truths: Mapping[str, PresentClasses]):
        """
        Args:
            names: of the K classes, in the order of "tag_scores".
            truths: id of an entry -> its classes; label maps are read where images are scored.
        """
        self.names, self.truths = list(names), truths
        self.reset()

    def reset(self) -> None:
        # Id of an entry -> scores, and whether each class is there; NaN where that is not known.
        self._rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for own, output in zip(inputs, outputs, strict=True):
            truth = self.truths[entry_id(own)]
            present, known = set(truth.names()), set(truth.vocabulary) - {BACKGROUND}
            told = [float(name in present) if name in known else np.nan for name in self.names]
            scores = output["tag_scores"].float().cpu().numpy()
            self._rows[entry_id(own)] = scores, np.array(told)

    def evaluate(self) -> OrderedDict | None:
        parts = comm.gather(self._rows)
        if not comm.is_main_process():
            return None
        # By id: each image once, in whatever process and order it came.
        rows = {image_id: row for part in parts for image_id, row in part.items()}
        ordered = [rows[image_id] for image_id in sorted(rows)]
        scores, present = (np.stack(columns) for columns in zip(*ordered, strict=True))
        values = [
            100 * average_precision(*columns) for columns in zip(scores.T, present.T, strict=True)
        ]
        counted = [value for value in values if not np.isnan(value)]
        own = zip(self.names, values, strict=True)
        metrics = {f"AP-{name}": value for name, value in own if name != BACKGROUND}
        mean = float(np.mean(counted)) if counted else float("nan")
        return OrderedDict({TAGS.name: {TAGS.headline.name: mean, **metrics}})


def average_precision(scores: np.ndarray, present: np.ndarray) -> float:
    """The mean, over the images that show a class, of the precision at their scores.

    The precision at a score is the share of images that show the class among those with that score
    or a higher one, so that the order of equal scores does not matter.

    Args:
        scores: n, of the images.
        present: n, 1 where the class is there, 0 where not.

    Returns:
        In 0..1; NaN where no image shows the class.
    """
    if not np.nansum(present):
        return float("nan")
    order = np.sort(scores)
    of_present = np.sort(scores[present == 1])
    own = scores[present == 1]
    # How many images have the score of each such image or a higher one, of all and of such.
    among = len(order) - np.searchsorted(order, own)
    right = len(of_present) - np.searchsorted(of_present, own)
    return float(np.mean(right / among))
