"""THE way from a data set's name to its entries, its classes and what it offers.

Whoever registers a data set in Detectron2's catalogs makes it known here, too: its layout follows
from its `evaluator_type`, and layouts that are read strictly have a reader. A data set's own
`offers` in its metadata lists what else it holds.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts

from tadp_d2.data.own_data_sets import register_own_sets
from tadp_d2.data.readers.coco_instances import read_coco
from tadp_d2.data.readers.depth_maps import read_depth_maps
from tadp_d2.data.readers.label_maps import read_label_maps
from tadp_d2.data.readers.panoptic_sets import read_panoptic_set
from tadp_d2.data.readers.pascal_voc import read_voc, voc_folder
from tadp_d2.data.readers.refer import read_refer
from tadp_d2.errors import Report, UserError, stop

# Layout -> what its entries hold of every image.
_OFFERS = {
    "pascal_voc": {"instances"},
    "coco": {"instances"},
    "lvis": {"instances"},
    "sem_seg": {"semantic"},
    "depth": {"depth"},
    "coco_panoptic_seg": {"panoptic"},
    "cityscapes_panoptic_seg": {"panoptic"},
    "refcoco": {"referring"},
}
# Layout -> its strict reader.
_READERS: dict[str, Callable[[str, Report], list[dict[str, Any]]]] = {
    "pascal_voc": read_voc,
    "coco": read_coco,
    "sem_seg": read_label_maps,
    "depth": read_depth_maps,
    "refcoco": read_refer,
    "coco_panoptic_seg": read_panoptic_set,
    "cityscapes_panoptic_seg": read_panoptic_set,
}


def check_registered(dataset: str) -> None:
    """
    Raises:
        UserError: Detectron2 knows no data set of that name, or a user's own are wrong.
    """
    register_own_sets()
    if dataset not in DatasetCatalog.list():
        raise UserError(
            f"unknown data set {dataset!r}: {', '.join(known_datasets())} are registered"
        )


def known_datasets() -> list[str]:
    """The registered data sets of which it is known where they are: ours and a user's own."""
    register_own_sets()
    return [name for name in sorted(DatasetCatalog.list()) if location(name)]


def _layout(dataset: str) -> str:
    return MetadataCatalog.get(dataset).get("evaluator_type", "")


def is_voc(dataset: str) -> bool:
    """Whether a registered data set is in VOC's layout: Detectron2's own and the targets are."""
    return _layout(dataset) == "pascal_voc"


def offers(dataset: str) -> frozenset[str]:
    """What the entries of a registered data set hold: "instances", "semantic", ...

    For an unknown layout the kinds of classes in its metadata decide.
    """
    meta = MetadataCatalog.get(dataset)
    kinds = {"instances": "thing_classes", "semantic": "stuff_classes"}
    told = {offer for offer, names in kinds.items() if meta.get(names)}
    return frozenset(meta.get("offers", ()) or _OFFERS.get(_layout(dataset), told))


def is_labelled(dataset: str) -> bool:
    """Whether the images of a registered data set come with their truth."""
    return MetadataCatalog.get(dataset).get("has_labels", True)


def entry_id(entry: Mapping[str, Any]) -> str:
    """What names an entry within its data set: the image's id, and the expression's if it has one.

    It may hold slashes.
    """
    numbers = (entry[key] for key in ("image_id", "expression_id") if key in entry)
    return "-".join(map(str, numbers))


def location(dataset: str) -> Path | None:
    """The file or folder that is there if a registered data set is; None if that is not known."""
    meta = MetadataCatalog.get(dataset)
    if is_voc(dataset):
        return voc_folder(dataset) / "ImageSets" / "Main" / f"{meta.split}.txt"
    return meta.get("location")


def read_entries(dataset: str, report: Report = stop) -> list[dict[str, Any]]:
    """Detectron2's dicts of a registered data set, read strictly where its layout is known.

    Args:
        report: gets what is wrong with single images, which are then left out.

    Raises:
        UserError: the data set is unknown, absent or malformed.
    """
    check_registered(dataset)
    reader = _READERS.get(_layout(dataset))
    if reader:
        return reader(dataset, report)
    try:
        return get_detection_dataset_dicts(dataset, filter_empty=False)
    except (OSError, AssertionError) as error:
        raise UserError(f"data set {dataset!r} cannot be read ({error})") from None


@functools.cache
def _read_once(dataset: str) -> list[dict[str, Any]]:
    return read_entries(dataset)


def read_known(dataset: str) -> list[dict[str, Any]]:
    """As `read_entries`; a layout with a strict reader is read once per process.

    Callers may change the dicts, and not what is in them.

    Raises:
        UserError: as `read_entries`.
    """
    check_registered(dataset)
    read = _read_once if _layout(dataset) in _READERS else read_entries
    return [dict(entry) for entry in read(dataset)]
