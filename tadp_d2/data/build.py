"""Data sets with captions, and the loaders over them."""

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

from tadp_d2.data.captions import CaptionFile, find_caption_file, read_captions
from tadp_d2.data.cross_domain_voc import check_voc, is_voc
from tadp_d2.data.dataset_mapper import CaptionedDatasetMapper
from tadp_d2.data.root import datasets_root
from tadp_d2.data.stream import TrainingStream, build_loader, own_process_group
from tadp_d2.data.street_scenes import FOLDERS, check_sem_seg, is_sem_seg
from tadp_d2.errors import UserError


def model_classes(cfg: CfgNode) -> list[str]:
    """The names of the model's class indices: those of the data it is trained on."""
    dataset = cfg.DATASETS.TRAIN[0]
    check_registered(dataset)
    meta = MetadataCatalog.get(dataset)
    return list(meta.get("thing_classes") or meta.stuff_classes)


def load_captions(cfg: CfgNode, dataset: str) -> CaptionFile:
    """The caption file of a data set.

    Raises:
        UserError: it is absent or malformed.
    """
    folder = Path(cfg.TEXT.CAPTION_DIR) if cfg.TEXT.CAPTION_DIR else datasets_root() / "captions"
    return read_captions(find_caption_file(folder, dataset), cfg.TEXT.CAPTION_TEXT)


def load_dataset(cfg: CfgNode, dataset: str, filter_empty: bool = False) -> list[dict[str, Any]]:
    """Detectron2's dicts of a registered data set, each with its "caption".

    Args:
        filter_empty: leave out pictures without objects, which a detector cannot train on.

    Raises:
        UserError: the data set is unknown, absent or malformed, an image has no caption, or no
            image is left.
    """
    check_registered(dataset)
    if is_voc(dataset):
        check_voc(dataset)
    if is_sem_seg(dataset):
        check_sem_seg(dataset)
    captions = load_captions(cfg, dataset)
    dicts = get_detection_dataset_dicts(dataset, filter_empty=False)
    if dicts and "image_id" not in dicts[0]:
        raise UserError(
            f"data set {dataset!r}: its entries have no image_id, by which captions are found; "
            f"registered with them are {', '.join(_known())}"
        )
    for entry in dicts:
        entry["caption"] = captions[str(entry["image_id"])]
    if filter_empty:
        # Where a class is given for every pixel, there are no objects to ask for.
        dicts = [entry for entry in dicts if entry.get("annotations", True)]
    if not dicts:
        raise UserError(f"data set {dataset!r}: no image of it has an object to train on")
    return dicts


def check_registered(dataset: str) -> None:
    """
    Raises:
        UserError: Detectron2 knows no data set of that name.
    """
    if dataset not in DatasetCatalog.list():
        raise UserError(f"unknown data set {dataset!r}: {', '.join(_known())} are registered")


def _known() -> list[str]:
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
