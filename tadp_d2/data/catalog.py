"""Data sets with captions, and the loaders over them."""

import functools
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    MetadataCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.utils import comm
from torch.utils.data import DataLoader

from tadp_d2.data.datasets.cross_domain_voc import is_voc, read_voc
from tadp_d2.data.datasets.street_scenes import FOLDERS, is_sem_seg, read_sem_seg
from tadp_d2.data.mapper import CaptionedDatasetMapper
from tadp_d2.data.root import datasets_root
from tadp_d2.data.stream import TrainingStream, build_loader, own_process_group
from tadp_d2.data.texts import CaptionFile, find_caption_file, read_captions
from tadp_d2.errors import Report, UserError, reporting, stop


def model_classes(cfg: CfgNode) -> list[str]:
    """The names of the model's class indices: those of the data it is trained on."""
    dataset = cfg.DATASETS.TRAIN[0]
    check_registered(dataset)
    meta = MetadataCatalog.get(dataset)
    return list(meta.get("thing_classes") or meta.stuff_classes)


def load_captions(cfg: CfgNode, dataset: str, report: Report = stop) -> CaptionFile:
    """The caption file of a data set.

    Args:
        report: gets what is wrong with single captions.

    Raises:
        UserError: it is absent or malformed.
    """
    folder = Path(cfg.TEXT.CAPTION_DIR) if cfg.TEXT.CAPTION_DIR else datasets_root() / "captions"
    return read_captions(find_caption_file(folder, dataset), cfg.TEXT.CAPTION_TEXT, report)


def read_entries(dataset: str, report: Report = stop) -> list[dict[str, Any]]:
    """Detectron2's dicts of a registered data set, read strictly where its layout is known.

    Args:
        report: gets what is wrong with single pictures, which are then left out.

    Raises:
        UserError: the data set is unknown, absent or malformed.
    """
    check_registered(dataset)
    if is_voc(dataset):
        return read_voc(dataset, report)
    if is_sem_seg(dataset):
        return read_sem_seg(dataset, report)
    return get_detection_dataset_dicts(dataset, filter_empty=False)


# Once per process: a data set is loaded anew for every evaluation.
_read_known = functools.cache(read_entries)


def load_dataset(cfg: CfgNode, dataset: str, filter_empty: bool = False) -> list[dict[str, Any]]:
    """Detectron2's dicts of a registered data set, each with its "caption".

    Args:
        filter_empty: leave out pictures without objects, which a detector cannot train on.

    Raises:
        UserError: the data set is unknown, absent or malformed, an image has no caption, or no
            image is left.
    """
    check_registered(dataset)
    known = is_voc(dataset) or is_sem_seg(dataset)
    dicts = [dict(entry) for entry in (_read_known if known else read_entries)(dataset)]
    add_captions(cfg, dataset, dicts)
    return with_objects(dataset, dicts) if filter_empty else dicts


def add_captions(
    cfg: CfgNode, dataset: str, entries: list[dict[str, Any]], report: Report = stop
) -> None:
    """Gives every entry of a data set its "caption", in place.

    Args:
        report: gets what is wrong with single captions.

    Raises:
        UserError: the caption file is absent or malformed, or the entries have no ids.
    """
    captions = load_captions(cfg, dataset, report)
    if entries and "image_id" not in entries[0]:
        raise UserError(
            f"data set {dataset!r}: its entries have no image_id, by which captions are found; "
            f"registered with them are {', '.join(known_datasets())}"
        )
    for entry in entries:
        with reporting(report):
            entry["caption"] = captions[str(entry["image_id"])]


def with_objects(dataset: str, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries that have objects; where a class is given for every pixel, all.

    Raises:
        UserError: none has.
    """
    found = [entry for entry in entries if entry.get("annotations", True)]
    if not found:
        raise UserError(f"data set {dataset!r}: no image of it has an object to train on")
    return found


def check_registered(dataset: str) -> None:
    """
    Raises:
        UserError: Detectron2 knows no data set of that name.
    """
    if dataset not in DatasetCatalog.list():
        raise UserError(
            f"unknown data set {dataset!r}: {', '.join(known_datasets())} are registered"
        )


def known_datasets() -> list[str]:
    """The registered data sets whose layout is checked."""
    detection = ("voc_", "watercolor_", "comic_")
    return [name for name in sorted(DatasetCatalog.list()) if name.startswith(detection)] + [
        *FOLDERS
    ]


def build_train_loader(cfg: CfgNode, start: int = 0) -> DataLoader:
    """The training loader over all of `DATASETS.TRAIN`.

    Args:
        start: number of pictures, over all processes, that the run has seen already.
    """
    dicts = [
        entry
        for dataset in cfg.DATASETS.TRAIN
        for entry in load_dataset(cfg, dataset, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    ]
    mapper = CaptionedDatasetMapper(cfg, is_train=True)
    return build_loader(
        TrainingStream(DatasetFromList(dicts), mapper, cfg.SEED),
        start,
        cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(),
        cfg.DATALOADER.NUM_WORKERS,
    )


def build_test_loader(cfg: CfgNode, dataset: str) -> DataLoader:
    """Detectron2's test loader over one data set, in its order."""
    loader = build_detection_test_loader(
        load_dataset(cfg, dataset),
        mapper=CaptionedDatasetMapper(cfg, is_train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    loader.worker_init_fn = own_process_group
    return loader
