"""What can be found wrong with a config, and with what it names, before anything is built."""

import os
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.utils import comm

from tadp_d2.data.catalog import check_registered, load_dataset, model_classes
from tadp_d2.data.datasets.cross_domain_voc import is_voc
from tadp_d2.data.datasets.street_scenes import has_labels, is_sem_seg
from tadp_d2.device import find_device
from tadp_d2.diffusion.model_folder import find_weights
from tadp_d2.diffusion.stable_diffusion import check_unet_folder
from tadp_d2.diffusion.tokens import read_tokens
from tadp_d2.engine.checkpoint import check_checkpoint
from tadp_d2.errors import UserError
from tadp_d2.modeling.conditioned import get_modifiers


def check_config(cfg: CfgNode) -> None:
    """Checks what the rows of `config.keys` cannot: keys together, registries, the machine.

    Raises:
        UserError: something in it is wrong.
    """
    for key, precision, used in (
        ("SOLVER.AMP.DTYPE", cfg.SOLVER.AMP.DTYPE, cfg.SOLVER.AMP.ENABLED),
        ("TEST.PRECISION", cfg.TEST.PRECISION, True),
    ):
        if used and precision == "fp16" and cfg.MODEL.DEVICE == "cpu":
            raise UserError(f"{key} fp16 needs a GPU: use bf16 on a CPU")
    for key, value, registry in (
        ("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY),
        ("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY),
    ):
        if value not in registry:
            raise UserError(f"{key} is {value!r}: Detectron2 knows {', '.join(dict(registry))}")
    # A GPU without a number is there: `load_config` sees to it.
    if cfg.MODEL.DEVICE != "cuda":
        find_device(cfg.MODEL.DEVICE, "MODEL.DEVICE")
    processes = comm.get_world_size()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if processes > 1 and cfg.MODEL.DEVICE != device:
        raise UserError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}: expected {device!r} for several processes on "
            "this machine; CUDA_VISIBLE_DEVICES chooses GPUs, and hides all if it is empty"
        )
    if cfg.SOLVER.IMS_PER_BATCH < 1 or cfg.SOLVER.IMS_PER_BATCH % processes:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}: expected a multiple of the "
            f"number of processes, {processes}"
        )
    if cfg.INPUT.CROP.ENABLED and not all(side > 0 for side in cfg.INPUT.CROP.SIZE):
        raise UserError(f"INPUT.CROP.SIZE is {cfg.INPUT.CROP.SIZE}: expected height and width")
    if 0 < cfg.TEST.WINDOW_SIZE < cfg.TEST.WINDOW_STRIDE:
        raise UserError(
            f"TEST.WINDOW_STRIDE is {cfg.TEST.WINDOW_STRIDE}: expected 1 to WINDOW_SIZE, "
            f"{cfg.TEST.WINDOW_SIZE}"
        )
    segmentor = cfg.MODEL.META_ARCHITECTURE == "CaptionedSegmentor"
    area = cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA
    if area < 1 and not segmentor:
        raise UserError(
            f"INPUT.CROP.SINGLE_CATEGORY_MAX_AREA is {area}: expected 1.0 for a detector"
        )
    if cfg.TEST.COCO_METRICS if segmentor else cfg.TEST.SUBMISSION:
        key = "COCO_METRICS" if segmentor else "SUBMISSION"
        raise UserError(f"TEST.{key} is for a {'detector' if segmentor else 'segmentor'}")
    for key in ("TRAIN", "TEST"):
        if not cfg.DATASETS[key]:
            raise UserError(f"DATASETS.{key} names no data set; is --config-file missing?")
    get_modifiers(cfg)


def check_inputs(cfg: CfgNode, evaluation: bool, resume: bool) -> None:
    """Finds now what would otherwise fail later, perhaps after days of training.

    Raises:
        UserError: data, captions, weights or a checkpoint are missing, or a run would be
            overwritten.
    """
    if os.path.exists(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")) and not (
        evaluation or resume
    ):
        raise UserError(
            f"{cfg.OUTPUT_DIR} holds a run already: continue it with --resume, or choose another "
            "OUTPUT_DIR"
        )
    check_fit(cfg, evaluation)
    for dataset in cfg.DATASETS.TEST:
        load_dataset(cfg, dataset)
    for dataset in () if evaluation else cfg.DATASETS.TRAIN:
        entries = load_dataset(cfg, dataset, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
        _check_annotations(cfg, dataset, entries)
    _check_same_classes(cfg, evaluation)
    if cfg.MODEL.DIFFUSION.UNET:
        check_unet_folder(Path(cfg.MODEL.DIFFUSION.UNET))
    find_weights(cfg.MODEL.DIFFUSION.WEIGHTS, cfg.MODEL.DIFFUSION.REVISION)
    for file in cfg.TEXT.TOKENS:
        read_tokens(file)
    check_checkpoint(cfg.MODEL.WEIGHTS)


def _check_annotations(cfg: CfgNode, dataset: str, entries: list[dict[str, Any]]) -> None:
    """Checks that objects have what the model's heads train on besides boxes."""
    for key, field in (("MASK_ON", "segmentation"), ("KEYPOINT_ON", "keypoints")):
        if not cfg.MODEL[key]:
            continue
        for entry in entries:
            if any(field not in obj for obj in entry.get("annotations", [{}])):
                raise UserError(
                    f"MODEL.{key} is True, but data set {dataset!r} has an object without "
                    f"{field!r}: {entry['file_name']}"
                )
    if cfg.MODEL.KEYPOINT_ON and not MetadataCatalog.get(dataset).get("keypoint_names"):
        raise UserError(
            f"MODEL.KEYPOINT_ON is True, but the metadata of data set {dataset!r} does not say "
            "keypoint_names"
        )


def check_fit(cfg: CfgNode, evaluation: bool = False) -> None:
    """Checks that the data sets of a config are of the kind that its model needs.

    Raises:
        UserError: one is not, or is unknown.
    """
    training = () if evaluation else cfg.DATASETS.TRAIN
    _check_classes(cfg)
    for dataset in (*cfg.DATASETS.TEST, *training):
        check_registered(dataset)
        _check_kind(cfg, dataset)
        unlabelled = is_sem_seg(dataset) and not has_labels(dataset)
        if unlabelled and (dataset in training or not cfg.TEST.SUBMISSION):
            raise UserError(
                f"data set {dataset!r} has no labels: it can be evaluated with TEST.SUBMISSION "
                "True, which writes files for its benchmark server, and not be trained on"
            )


def _check_kind(cfg: CfgNode, dataset: str) -> None:
    segmentor = cfg.MODEL.META_ARCHITECTURE == "CaptionedSegmentor"
    if segmentor and not is_sem_seg(dataset):
        raise UserError(f"data set {dataset!r} has no label maps, which a segmentor is scored on")
    if cfg.MODEL.META_ARCHITECTURE == "CaptionedRCNN" and is_sem_seg(dataset):
        raise UserError(f"data set {dataset!r} has label maps and no boxes for a detector")


def _check_same_classes(cfg: CfgNode, evaluation: bool) -> None:
    """Checks data whose classes Detectron2 takes by their numbers, whatever they are called.

    VOC's metrics and those of segmentation look at the names.
    """
    if cfg.MODEL.META_ARCHITECTURE != "CaptionedRCNN":
        return
    expected = model_classes(cfg)
    scored = [name for name in cfg.DATASETS.TEST if cfg.TEST.COCO_METRICS or not is_voc(name)]
    for dataset in (*scored, *(() if evaluation else cfg.DATASETS.TRAIN)):
        classes = MetadataCatalog.get(dataset).get("thing_classes")
        if classes is not None and list(classes) != expected:
            raise UserError(
                f"data set {dataset!r} has the classes {', '.join(classes)}, and the model those "
                f"of {cfg.DATASETS.TRAIN[0]!r}: {', '.join(expected)}; they must be equal, in "
                "their order, for training and for COCO's metrics"
            )


def _check_classes(cfg: CfgNode) -> None:
    classes = len(model_classes(cfg))
    key, built = {
        "CaptionedSegmentor": ("SEM_SEG_HEAD", cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES),
        "CaptionedRCNN": ("ROI_HEADS", cfg.MODEL.ROI_HEADS.NUM_CLASSES),
    }.get(cfg.MODEL.META_ARCHITECTURE, ("", classes))
    if built != classes:
        raise UserError(
            f"MODEL.{key}.NUM_CLASSES is {built}, but {cfg.DATASETS.TRAIN[0]!r} has {classes} "
            "classes"
        )
