"""Panoptic quality (Kirillov et al., Panoptic Segmentation, CVPR 2019, section 4), counted as COCO.

Of an image only counts per class are kept.
"""

import logging
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from tadp_d2.data.readers.coco_panoptic import VOID, Segment, read_panoptic
from tadp_d2.errors import UserError

_logger = logging.getLogger(__name__)


@dataclass
class Counts:
    """What is counted of one class.

    Attributes:
        iou: sum of the IoU of matched segments.
        matched: pairs of a predicted and a true segment.
        invented: predicted segments that match none.
        missed: true segments that match none.
    """

    iou: float = 0.0
    matched: int = 0
    invented: int = 0
    missed: int = 0

    def add(self, other: "Counts") -> None:
        """Adds the counts of other images."""
        self.iou += other.iou
        self.matched += other.matched
        self.invented += other.invented
        self.missed += other.missed

    @property
    def occurs(self) -> bool:
        """Whether there is a segment of the class in the truth or a prediction."""
        return self.matched + self.invented + self.missed > 0

    @property
    def quality(self) -> "Quality":
        """0 for a class that does not occur."""
        segments = self.matched + self.invented / 2 + self.missed / 2
        if not segments:
            return Quality(0.0, 0.0, 0.0)
        mean_iou = self.iou / self.matched if self.matched else 0.0
        return Quality(self.iou / segments, mean_iou, self.matched / segments)


class Quality(NamedTuple):
    """Panoptic, segmentation and recognition quality, 0..1."""

    pq: float
    sq: float
    rq: float


def mean_quality(counts: Iterable[Counts]) -> Quality:
    """The mean over the classes that occur; NaN if none does."""
    found = [count.quality for count in counts if count.occurs]
    if not found:
        return Quality(math.nan, math.nan, math.nan)
    return Quality(*(sum(values) / len(found) for values in zip(*found, strict=True)))


def count_image(
    truth_ids: np.ndarray,
    truth: Mapping[int, Segment],
    predicted_ids: np.ndarray,
    predicted: Mapping[int, int],
) -> dict[int, Counts]:
    """The counts of one image by category.

    Two segments of a category match if their IoU is above 0.5; pixels of the prediction on void
    are not in the union. Crowds of the truth are never matched or missed. A prediction that matches
    nothing is not counted if more than half of it is on void and the crowd of its category, of
    several crowds the last.

    Args:
        truth_ids: H x W, the segment id of every pixel; 0 is void.
        truth: each of these ids -> its segment.
        predicted_ids: as `truth_ids`.
        predicted: each of these ids -> its category.
    """
    pairs = np.stack([truth_ids.ravel(), predicted_ids.ravel()]).astype(np.int64)
    (left, right), sizes = np.unique(pairs, axis=1, return_counts=True)
    shared = {(int(a), int(b)): int(size) for a, b, size in zip(left, right, sizes, strict=True)}
    areas = dict.fromkeys(predicted, 0)
    for (_, id_), size in shared.items():
        if id_ != VOID:
            areas[id_] += size

    counts: dict[int, Counts] = {}
    found_truth, found_predicted = set(), set()
    for (true_id, id_), size in shared.items():
        if VOID in (true_id, id_):
            continue
        segment = truth[true_id]
        if segment.is_crowd or segment.category != predicted[id_]:
            continue
        union = areas[id_] + segment.area - size - shared.get((VOID, id_), 0)
        if 2 * size > union:
            count = counts.setdefault(segment.category, Counts())
            count.iou += size / union
            count.matched += 1
            found_truth.add(true_id)
            found_predicted.add(id_)

    crowds: dict[int, int] = {}
    for true_id, segment in truth.items():
        if segment.is_crowd:
            crowds[segment.category] = true_id
        elif true_id not in found_truth:
            counts.setdefault(segment.category, Counts()).missed += 1
    for id_, category in predicted.items():
        if id_ in found_predicted:
            continue
        ignored = shared.get((VOID, id_), 0) + shared.get((crowds.get(category), id_), 0)
        if 2 * ignored <= areas[id_]:
            counts.setdefault(category, Counts()).invented += 1
    return counts


class PanopticQualityEvaluator(DatasetEvaluator):
    """Scores "panoptic_seg" by the panoptic JSON and PNG files of a data set.

    `evaluate` returns "panoptic_seg": "PQ", "SQ" and "RQ" over all classes, "PQ_th", ... over
    things, "PQ_st", ... over stuff, "PQ-<class>", ... of each class, in 0..100. A class that occurs
    in neither truth nor prediction is NaN and left out of the means. The names of the means are
    Detectron2's.

    Counts are kept by image: what two processes both scored counts once, and sums do not depend on
    which process scored what.
    """

    def __init__(self, dataset: str, things: Sequence[str], stuff: Sequence[str]):
        """
        Args:
            dataset: registered, with "panoptic_json" and "panoptic_root" in its metadata.
            things, stuff: the model's classes.

        Raises:
            UserError: the model's classes are others than the data set's, or its file is malformed.
        """
        meta = MetadataCatalog.get(dataset)
        for kind, names in (("thing", things), ("stuff", stuff)):
            expected = meta.get(f"{kind}_classes", [])
            if list(names) != list(expected):
                raise UserError(
                    f"data set {dataset!r} is scored on the {kind} classes {', '.join(expected)}; "
                    f"the model was trained on {', '.join(names)}"
                )
        self._dataset, self._file = dataset, meta.panoptic_json
        self._categories, self._truth = read_panoptic(
            Path(meta.panoptic_json), Path(meta.panoptic_root)
        )
        self._thing_ids = _inverse(meta.thing_dataset_id_to_contiguous_id)
        self._stuff_ids = _inverse(meta.stuff_dataset_id_to_contiguous_id)
        self.reset()

    def reset(self) -> None:
        self._counts: dict[str, dict[int, Counts]] = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """
        Raises:
            UserError: the truth of an image is absent or damaged, or does not fit the prediction.
        """
        for entry, output in zip(inputs, outputs, strict=True):
            image_id = str(entry["image_id"])
            if image_id not in self._truth:
                raise UserError(
                    f"{self._file}: no annotation for image {image_id} of data set "
                    f"{self._dataset!r}; take all its files from the same archive"
                )
            truth = self._truth[image_id]
            segments, described = output["panoptic_seg"]
            ids = segments.cpu().numpy()
            truth_ids = truth.read_ids()
            if ids.shape != truth_ids.shape:
                height, width = truth_ids.shape
                raise UserError(
                    f"{truth.file}: {width} x {height} pixels, but the prediction for image "
                    f"{image_id} has {ids.shape[1]} x {ids.shape[0]}; take images and annotations "
                    "from the same archive"
                )
            predicted = self._predicted(ids, described, image_id)
            self._counts[image_id] = count_image(truth_ids, truth.segments, ids, predicted)

    def evaluate(self) -> OrderedDict | None:
        """
        Raises:
            UserError: an image of the truth has no prediction.
        """
        gathered = comm.gather(self._counts)
        if not comm.is_main_process():
            return None
        by_image = {image_id: counts for part in gathered for image_id, counts in part.items()}
        absent = [image_id for image_id in self._truth if image_id not in by_image]
        if absent:
            raise UserError(
                f"data set {self._dataset!r}: {len(absent)} images of {self._file} have no "
                f"prediction, such as image {absent[0]}; PQ counts all images of the file"
            )
        total = {category.id: Counts() for category in self._categories}
        # In the order of the file: floating point sums depend on theirs.
        for image_id in self._truth:
            for category, counts in by_image[image_id].items():
                total[category].add(counts)
        return OrderedDict(panoptic_seg=self._metrics(total))

    def _predicted(
        self, ids: np.ndarray, described: list[dict] | None, image_id: str
    ) -> dict[int, int]:
        """Each segment id of a prediction -> its category."""
        where = f"the prediction for image {image_id}"
        if described is None:
            raise UserError(
                f"{where} does not say what its segments are (segments_info is None); expected a "
                "list with the class of each"
            )
        known = {category.id for category in self._categories}
        predicted: dict[int, int] = {}
        for segment in described:
            contiguous = self._thing_ids if segment["isthing"] else self._stuff_ids
            category = contiguous.get(segment["category_id"])
            if category not in known:
                kind = "thing" if segment["isthing"] else "stuff"
                raise UserError(
                    f"{where} has the {kind} class {segment['category_id']}, which "
                    f"{self._file} does not know"
                )
            if segment["id"] in predicted:
                raise UserError(f"{where} describes the segment id {segment['id']} twice")
            predicted[segment["id"]] = category
        wrong = (set(np.unique(ids).tolist()) - {VOID}) ^ set(predicted)
        if wrong:
            raise UserError(
                f"{where} has the segment id {min(wrong)} either in the map or in its description; "
                "expected both"
            )
        return predicted

    def _metrics(self, total: Mapping[int, Counts]) -> dict[str, float]:
        kinds = {
            "": self._categories,
            "_th": [category for category in self._categories if category.is_thing],
            "_st": [category for category in self._categories if not category.is_thing],
        }
        metrics = {}
        for suffix, categories in kinds.items():
            mean = mean_quality(total[category.id] for category in categories)
            metrics |= _named(mean, suffix)
        for category in self._categories:
            metrics |= _named(mean_quality([total[category.id]]), f"-{category.name}")
        absent = [c.name for c in self._categories if not total[c.id].occurs]
        if absent:
            _logger.warning(f"No segment of {', '.join(absent)} in {self._dataset}")
        return metrics


def _named(quality: Quality, suffix: str) -> dict[str, float]:
    return {f"{name.upper()}{suffix}": 100 * value for name, value in quality._asdict().items()}


def _inverse(ids: Mapping[int, int]) -> dict[int, int]:
    return {index: category for category, index in ids.items()}
