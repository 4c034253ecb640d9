"""Data sets: layout, labels, boxes, segments, captions, and whether every image can be decoded."""

from collections.abc import Iterator
from pathlib import Path

from detectron2.config import CfgNode

from tadp_d2.data.catalog import location, read_entries
from tadp_d2.data.datasets.refcoco import EXPRESSIONS
from tadp_d2.data.images import check_each, decode, other_size
from tadp_d2.data.loader import add_texts, check_texts
from tadp_d2.data.readers.panoptic_sets import read_segments
from tadp_d2.data.texts import NoCaptions
from tadp_d2.doctor.findings import Finding, Kind, problems
from tadp_d2.errors import UserError, reporting
from tadp_d2.remembered import forgotten
from tadp_d2.tasks.task import get_task

# Images of the published sets; of those for referring segmentation, expressions.
PUBLISHED = {
    "voc_2007_trainval": 5011,
    "voc_2007_test": 4952,
    "voc_2012_trainval": 11540,
    "watercolor_train": 1000,
    "watercolor_test": 1000,
    "comic_train": 1000,
    "comic_test": 1000,
    "cityscapes_train": 2975,
    "cityscapes_val": 500,
    "cityscapes_foggy_val": 500,
    "dark_zurich_train": 2416,
    "dark_zurich_val": 50,
    "dark_zurich_test": 151,
    "nighttime_driving_test": 50,
    "pascal_trainaug": 10582,
    "pascal_val": 1449,
    "ade20k_train": 20210,
    "ade20k_val": 2000,
    "coco_stuff_train": 118287,
    "coco_stuff_val": 5000,
    **{
        f"{name}_{split}{kind}": count
        for name, counts, kinds in (
            ("coco_2017", (118287, 5000), ("", "_panoptic", "_panoptic_separated")),
            ("cityscapes_fine_panoptic", (2975, 500), ("",)),
        )
        for split, count in zip(("train", "val"), counts, strict=True)
        for kind in kinds
    },
    "nyu_depth_v2_train": 24231,
    "nyu_depth_v2_test": 654,
    "nyu_depth_v2_labeled_train": 795,
    **EXPRESSIONS,
}


def present() -> list[str]:
    """The published data sets whose split is here."""
    return [dataset for dataset in PUBLISHED if location(dataset).exists()]


def check_dataset(cfg: CfgNode, dataset: str, needed: bool = True) -> Iterator[Finding]:
    """All that is wrong with a data set, or that nothing is.

    Args:
        needed: whether a config asks for it; if not, captions may be absent.
    """
    errors: list[UserError] = []
    notes: list[str] = []
    report = errors.append
    entries = []
    training = dataset in cfg.DATASETS.TRAIN
    # Whatever earlier runs found.
    with reporting(report), forgotten():
        entries = [dict(entry) for entry in read_entries(dataset, report)]
    with reporting(report):
        try:
            add_texts(cfg, dataset, entries, report, training)
        except NoCaptions as error:
            if needed:
                raise
            notes.append(str(error))
        notes += check_texts(cfg, dataset, entries, report, training)
    if entries and training:
        with reporting(report):
            get_task(cfg).select_for_training(dataset, entries)
    # An image may have several expressions, and an entry for each.
    sizes = {Path(e["file_name"]): (e.get("width"), e.get("height")) for e in entries}

    def check_image(path: Path) -> None:
        size = decode(path).size
        if None not in sizes[path] and sizes[path] != size:
            raise other_size(path, size, sizes[path])

    check_each(check_image, list(sizes), f"images of {dataset} decoded", report)
    segmented = {Path(e["pan_seg_file_name"]): e for e in entries if "pan_seg_file_name" in e}
    if segmented:
        check_each(
            lambda file: read_segments(segmented[file]),
            list(segmented),
            f"segments of {dataset} read",
            report,
        )
    published = PUBLISHED.get(dataset, len(entries))
    if entries and len(entries) != published:
        notes.append(f"{len(entries)} images; the published set has {published}")
    empty = [entry["image_id"] for entry in entries if entry.get("caption") == ""]
    if empty:
        notes.append(f"{len(empty)} captions are empty, such as that of {empty[0]!r}")
    if not errors:
        yield Finding(Kind.GOOD, f"{len(entries)} images: readable, with what belongs to them")
    for text in notes:
        yield Finding(Kind.NOTE, text)
    yield from problems(errors)
