"""Numbers that papers published, and how the data sets that they are of are recognized."""

from collections.abc import Mapping
from dataclasses import dataclass, field

# A value for each metric of a benchmark, in 0..100; None where the paper has a dash.
Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Benchmark:
    """A target data set of the paper.

    Attributes:
        dataset: the name under which it is registered.
        title: as the paper writes it.
        domain: a key of `tadp_d2.conditioning.domains.DOMAINS`.
        table: of the paper, where the numbers stand.
        metric_set: which of the metric sets in a result file the paper reports.
        metrics: the reported metrics of that set.
        ours: modifier, as in `MODIFIER_TITLES` -> what the paper's TADP reached with it.
        others: other method -> what the paper quotes for it.
        images: number of images.
        image_ids: SHA-256 of their ids (`image_ids_fingerprint`), taken from the caption files
            published with TADP; None where none was published.
    """

    dataset: str
    title: str
    domain: str
    table: str
    metric_set: str
    metrics: tuple[str, ...]
    images: int
    image_ids: str | None
    ours: Mapping[str, Values]
    others: Mapping[str, Values] = field(default_factory=dict)


# Name of a modifier -> what the tables call it, in the order of the paper.
MODIFIER_TITLES = {
    "null": "null",
    "simple": "simple",
    "ti": "textual inversion",
    "dreambooth": "DreamBooth",
    "nearby": "nearby",
    "unrelated": "unrelated",
}


def _ours(*values: Values) -> dict[str, Values]:
    return dict(zip(MODIFIER_TITLES.values(), values, strict=True))


BENCHMARKS = (
    Benchmark(
        dataset="watercolor_test",
        title="Watercolor2k",
        domain="watercolor",
        table="5",
        metric_set="voc07",
        metrics=("AP", "AP50"),
        images=1000,
        image_ids="28421843a8be3a72eb4f914ec6f58d996dc6f8cd52129cfa66530eb1d48ecdb2",
        ours=_ours(
            (42.1, 72.1), (43.5, 72.2), (43.2, 72.2), (43.2, 72.2), (42.0, 71.5), (42.2, 71.9)
        ),
        others={
            "PLGE": (None, 56.5),
            "ICCM": (None, 57.4),
            "H2FA R-CNN": (None, 59.9),
            "ADDA": (None, 49.8),
            "MCAR": (None, 56.0),
            "UMT": (None, 58.1),
            "DASS-Detector (extra data)": (None, 71.5),
        },
    ),
    Benchmark(
        dataset="comic_test",
        title="Comic2k",
        domain="comic",
        table="5",
        metric_set="voc07",
        metrics=("AP", "AP50"),
        images=1000,
        image_ids=None,
        ours=_ours(
            (31.1, 57.4), (31.9, 56.6), (33.2, 57.4), (32.9, 56.9), (31.8, 56.4), (32.0, 55.9)
        ),
        others={
            "PLGE": (None, 41.7),
            "ICCM": (None, 37.1),
            "H2FA R-CNN": (None, 46.4),
            "ADDA": (None, 23.8),
            "MCAR": (None, 33.5),
            "DASS-Detector (extra data)": (None, 64.2),
        },
    ),
    Benchmark(
        dataset="dark_zurich_val",
        title="Dark Zurich-val",
        domain="night",
        table="4",
        metric_set="sem_seg",
        metrics=("mIoU",),
        images=50,
        image_ids="3d76553c9272ea22b742601761314f2ddc8122dbbdca2a2b8100fffb5682a392",
        ours=_ours((42.8,), (39.1,), (41.4,), (38.9,), (41.9,), (42.3,)),
        others={"PTDiffSeg": (37.0,)},
    ),
    Benchmark(
        dataset="nighttime_driving_test",
        title="Nighttime Driving",
        domain="night",
        table="4",
        metric_set="sem_seg",
        metrics=("mIoU",),
        images=50,
        image_ids="59840c55fd9828926828506ac83bf6e4fd7d95b71e7fe82a4d60d471432593b1",
        # The paper's text once has 60.8 for null; its table has 57.5.
        ours=_ours((57.5,), (56.9,), (60.8,), (60.4,), (56.9,), (55.1,)),
        others={"DAFormer": (54.1,), "Refign-DAFormer": (56.8,)},
    ),
)


def find_benchmark(dataset: str) -> Benchmark | None:
    """The benchmark that a registered data set should be, if any."""
    return next((b for b in BENCHMARKS if b.dataset == dataset), None)


@dataclass(frozen=True)
class PublishedRows:
    """What a paper reports on a data set that is none of TADP's targets.

    Attributes:
        dataset: the name under which it is registered.
        title: as the paper writes it.
        entries: number of images, of expressions where there are several for an image.
        counted: what `entries` counts.
        metric_set: of a result file.
        metrics: of that set.
        rows: method and source -> a value for each metric.
    """

    dataset: str
    title: str
    entries: int
    metric_set: str
    metrics: tuple[str, ...]
    rows: Mapping[str, Values]
    counted: str = "images"


def _vpd_table_3(
    dataset: str, title: str, entries: int, overall: Values, released: Values
) -> PublishedRows:
    """
    Args:
        overall: oIoU of LAVT and VPD, then of both after one epoch.
        released: of the checkpoints of VPD's released code, all metrics.
    """
    methods = ("LAVT", "VPD", "LAVT, 1 epoch", "VPD, 1 epoch")
    rows = {
        f"{method} (VPD, table 3)": (value, None, None, None)
        for method, value in zip(methods, overall, strict=True)
    }
    rows["VPD (its released code)"] = released
    metrics = ("oIoU", "mIoU", "P@0.5", "P@0.9")
    return PublishedRows(dataset, title, entries, "referring", metrics, rows, "expressions")


# VPD's numbers are of the epoch that is best on the very split.
PUBLISHED_ROWS = (
    _vpd_table_3(
        "refcoco_unc_val",
        "RefCOCO val",
        10834,
        (72.73, 73.25, 52.56, 63.04),
        (73.46, 75.67, 85.52, 36.31),
    ),
    _vpd_table_3(
        "refcoco+_unc_val",
        "RefCOCO+ val",
        10758,
        (62.14, 62.69, 29.17, 40.01),
        (63.93, 67.98, 76.69, 32.52),
    ),
    _vpd_table_3(
        "refcocog_umd_val",
        "RefCOCOg val",
        4896,
        (61.24, 61.96, 40.31, 48.11),
        (63.12, 66.42, 75.16, 29.41),
    ),
    PublishedRows(
        "coco_2017_val_panoptic",
        "COCO panoptic val",
        5000,
        "panoptic_seg",
        ("PQ",),
        {
            f"{method} (tagging adapter, table 4)": (value,)
            for method, value in (
                ("ODISE", 55.4),
                ("tagging adapter", 56.1),
                ("Mask2Former, Swin-T", 53.2),
                ("Mask2Former, Swin-B", 55.1),
                ("Mask2Former, Swin-L", 57.8),
            )
        },
    ),
)


def find_published_rows(dataset: str) -> PublishedRows | None:
    """What a paper reports on a registered data set that is none of TADP's targets, if anything."""
    return next((p for p in PUBLISHED_ROWS if p.dataset == dataset), None)
