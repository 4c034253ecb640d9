"""What a task measures: names, units and directions of its numbers. Nothing heavy is imported."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Metric:
    """One number.

    Attributes:
        name: in results.
        unit: such as "m"; empty for a number without one.
        higher_is_better: whether a larger value is a better one.
        top: the largest value that there is; None where there is no such value.
        decimals: that are shown.
    """

    name: str
    unit: str = ""
    higher_is_better: bool = True
    top: float | None = 100.0
    decimals: int = 1

    @property
    def title(self) -> str:
        """What a table calls it: name, unit, and whether less is better."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.name}{unit}{'' if self.higher_is_better else ' (lower is better)'}"


@dataclass(frozen=True)
class MetricSet:
    """The numbers of one evaluator.

    Attributes:
        name: key of the set in results.
        means: over the whole data set; the last is the one that charts show.
        of_class: the number of a single class, as `<of_class>-<class>`; empty for nothing.
        qualified: whether a table names the set beside a metric, because another set has a metric
            of that name.
    """

    name: str
    means: tuple[Metric, ...]
    of_class: str = ""
    qualified: bool = True

    @property
    def headline(self) -> Metric:
        """The number that stands for the set where there is room for one."""
        return self.means[-1]

    @property
    def mean_of_classes(self) -> Metric:
        """The mean of the numbers of single classes; the headline where there are none."""
        names = (self.of_class, f"m{self.of_class}")
        return next((mean for mean in self.means if mean.name in names), self.headline)

    def titled(self, metric: Metric) -> str:
        """What a table calls a metric of the set."""
        return f"{metric.title} ({self.name})" if self.qualified else metric.title

    @property
    def augmented(self) -> "MetricSet":
        """The same numbers under test-time augmentation, by the name that Detectron2 gives them."""
        return replace(self, name=f"{self.name}_TTA", qualified=True)

    def record(self) -> dict[str, Any]:
        """As it stands in a result file."""
        return {key: value for key, value in asdict(self).items() if key != "name"}


def read_metric_set(name: str, record: Mapping[str, Any]) -> MetricSet:
    """The inverse of `MetricSet.record`.

    Raises:
        KeyError, TypeError: it is no such record.
    """
    means = tuple(Metric(**mean) for mean in record["means"])
    return MetricSet(name, means, record["of_class"], record["qualified"])


_AP = (Metric("AP"), Metric("AP50"))
VOC07 = MetricSet("voc07", _AP, "AP50")
VOC_AREA = MetricSet("voc_area", _AP, "AP50")
COCO = MetricSet("coco", _AP, "AP")
COCO_MASKS = MetricSet("coco_masks", _AP, "AP")
SEM_SEG = MetricSet("sem_seg", (Metric("mIoU"),), "IoU", qualified=False)
# At the size of the model's input, which need not have the image's aspect ratio.
SEM_SEG_STRETCHED = replace(SEM_SEG, name="sem_seg_stretched", qualified=True)
PANOPTIC = MetricSet(
    "panoptic_seg",
    tuple(Metric(name) for name in ("PQ_th", "PQ_st", "SQ", "RQ", "PQ")),
    "PQ",
    qualified=False,
)
# In the order of TADP's table 3, but RMSE, by which it is sorted, at the end.
DEPTH = MetricSet(
    "depth",
    (
        *(Metric(name, top=1.0, decimals=3) for name in ("d1", "d2", "d3")),
        Metric("AbsRel", higher_is_better=False, top=None, decimals=3),
        Metric("SqRel", "m", higher_is_better=False, top=None, decimals=3),
        Metric("log10", higher_is_better=False, top=None, decimals=3),
        Metric("RMSElog", higher_is_better=False, top=None, decimals=3),
        Metric("SILog", higher_is_better=False, top=None, decimals=3),
        Metric("RMSE", "m", higher_is_better=False, top=None, decimals=3),
    ),
    qualified=False,
)
REFERRING = MetricSet(
    "referring",
    tuple(
        Metric(name)
        for name in (
            *("oIoU_one_object", "oIoU_without_text"),
            *("P@0.5", "P@0.6", "P@0.7", "P@0.8", "P@0.9", "mIoU", "oIoU"),
        )
    ),
    qualified=False,
)
# Of a conditioner: the classes that it finds in an image.
TAGS = MetricSet("tags", (Metric("mAP"),), "AP")

# Sets by their worth for a comparison, the paper's first; result files of earlier versions name
# these and describe none.
KNOWN = (VOC07, SEM_SEG, SEM_SEG_STRETCHED, DEPTH, REFERRING, VOC_AREA, COCO, COCO_MASKS)


def by_name(sets: Iterable[MetricSet]) -> dict[str, MetricSet]:
    """Sets by their names."""
    return {metric_set.name: metric_set for metric_set in sets}
