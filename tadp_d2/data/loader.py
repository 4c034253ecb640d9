"""A config's data sets with the texts that its conditioner needs, and the loaders over them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MapDataset, MetadataCatalog
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import BatchSampler

from tadp_d2.conditioning.conditioner import get_conditioner_class
from tadp_d2.data.batches import BatchLoader
from tadp_d2.data.catalog import (
    check_registered,
    is_labelled,
    known_datasets,
    location,
    offers,
    read_known,
)
from tadp_d2.data.mapper import ConditionedMapper
from tadp_d2.data.own_data_sets import read_own_sets
from tadp_d2.data.present_classes import PresentClasses
from tadp_d2.data.root import datasets_root
from tadp_d2.data.stream import TrainingStream, build_loader
from tadp_d2.data.texts import CaptionFile, find_caption_file, read_captions
from tadp_d2.errors import Report, UserError, reporting, stop
from tadp_d2.tasks.task import class_names, get_task


def load_captions(cfg: CfgNode, dataset: str, report: Report = stop) -> CaptionFile:
    """The caption file of a data set.

    Args:
        report: gets what is wrong with single captions.

    Raises:
        UserError: it is absent or malformed.
    """
    own = read_own_sets().get(dataset)
    if own and own.captions and not cfg.TEXT.CAPTION_DIR:
        folder, name = own.captions.parent, own.captions.stem
    else:
        folder = Path(cfg.TEXT.CAPTION_DIR or datasets_root() / "captions")
        name = dataset
    return read_captions(find_caption_file(folder, name), cfg.TEXT.CAPTION_TEXT, report)


def load_dataset(cfg: CfgNode, dataset: str, training: bool = False) -> list[dict[str, Any]]:
    """Detectron2's dicts of a registered data set, each with what the conditioner needs.

    Args:
        training: leave out what the task cannot train on, such as images without objects.

    Raises:
        UserError: the data set is unknown, absent or malformed, an image has no text, or no image
            is left.
    """
    entries = read_known(dataset)
    add_texts(cfg, dataset, entries, training=training)
    return list(get_task(cfg).select_for_training(dataset, entries)) if training else entries


def needs_captions(cfg: CfgNode) -> bool:
    """Whether the conditioner of a config reads captions."""
    return "caption" in needed_texts(cfg)


def needed_texts(cfg: CfgNode, training: bool = False) -> frozenset[str]:
    """Keys of an entry that the conditioner of a config needs."""
    # Each has an image, and needs no text for it.
    return get_conditioner_class(cfg).needed(cfg, training) - {"image"}


def add_texts(
    cfg: CfgNode,
    dataset: str,
    entries: list[dict[str, Any]],
    report: Report = stop,
    training: bool = False,
) -> None:
    """Gives every entry of a data set the texts that the conditioner needs, in place.

    A text that an entry has already stays. Captions come from the data set's caption file, and the
    classes that are present from its annotations.

    Args:
        report: gets what is wrong with single texts.

    Raises:
        UserError: the caption file is absent or malformed, the entries have no ids, or the classes
            of an image are not known.
    """
    needed = needed_texts(cfg, training)
    for key in sorted(key for key in needed if not all(key in entry for entry in entries)):
        if key == "caption":
            _add_captions(load_captions(cfg, dataset, report), dataset, entries, report)
        elif key == "present":
            for entry, present in zip(entries, find_present(cfg, dataset, entries), strict=True):
                entry["present"] = present
        else:
            raise UserError(
                f"data set {dataset!r}: its entries have no {key!r}, which the conditioner "
                f"{cfg.MODEL.CONDITIONER.NAME} needs of each"
            )


def check_texts(
    cfg: CfgNode,
    dataset: str,
    entries: list[dict[str, Any]],
    report: Report = stop,
    training: bool = False,
) -> list[str]:
    """Checks that the conditioner can read the texts of a data set's entries.

    Args:
        report: gets what is wrong with single texts; names the data set's file.

    Returns:
        What the user should know of the texts, and is no error.

    Raises:
        UserError: what the conditioner reads texts with is absent or damaged.
    """

    where = location(dataset) or dataset

    def located(error: UserError) -> None:
        report(UserError(f"{where}: {error}"))

    notes = get_conditioner_class(cfg).check_entries(cfg, entries, training, located)
    return [f"{where}: {note}" for note in notes]


def find_present(
    cfg: CfgNode, dataset: str, entries: Sequence[Mapping[str, Any]]
) -> list[PresentClasses]:
    """The classes that entries of a data set show by their annotations; no label map is read.

    Raises:
        UserError: there are no labels, or several ranges of classes.
    """
    if not is_labelled(dataset):
        raise UserError(
            f"data set {dataset!r} has no labels, and the conditioner "
            f"{cfg.MODEL.CONDITIONER.NAME} needs the classes of each image"
        )
    if "panoptic" in offers(dataset) and not all("segments_info" in entry for entry in entries):
        raise UserError(
            f"data set {dataset!r} has its things and stuff in two ranges of classes, and the "
            f"conditioner {cfg.MODEL.CONDITIONER.NAME} needs one of the classes of each image: use "
            "the data set whose name does not end in _separated"
        )
    kind = "thing" if "instances" in offers(dataset) else "stuff"
    names = tuple(class_names(dataset, kind))
    ignored = MetadataCatalog.get(dataset).get("ignore_label", 255)
    return [PresentClasses.of_entry(entry, names, ignored) for entry in entries]


def _add_captions(
    captions: CaptionFile, dataset: str, entries: list[dict[str, Any]], report: Report
) -> None:
    if entries and "image_id" not in entries[0]:
        raise UserError(
            f"data set {dataset!r}: its entries have no image_id, by which captions are found; "
            f"registered with them are {', '.join(known_datasets())}"
        )
    for entry in entries:
        with reporting(report):
            entry["caption"] = captions[str(entry["image_id"])]


def build_train_loader(cfg: CfgNode, start: int = 0) -> BatchLoader:
    """The training loader over all of `DATASETS.TRAIN`.

    Args:
        start: number of images, over all processes, that the run has seen already.
    """
    entries = [
        entry
        for dataset in cfg.DATASETS.TRAIN
        for entry in load_dataset(cfg, dataset, training=True)
    ]
    mapper = ConditionedMapper(cfg, is_train=True)
    return build_loader(
        TrainingStream(DatasetFromList(entries), mapper, cfg.SEED, cfg.DATALOADER.BY_IMAGE),
        start,
        cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(),
        cfg.DATALOADER.NUM_WORKERS,
    )


def build_test_loader(cfg: CfgNode, dataset: str, batch: int = 1) -> BatchLoader:
    """As Detectron2's test loader: one data set in its order, an image at a time, or a batch."""
    check_registered(dataset)
    entries = DatasetFromList(load_dataset(cfg, dataset), copy=False)
    return BatchLoader(
        MapDataset(entries, ConditionedMapper(cfg, is_train=False)),
        BatchSampler(InferenceSampler(len(entries)), batch_size=batch, drop_last=False),
        cfg.DATALOADER.NUM_WORKERS,
    )
