"""What can be found wrong with a config, and with what it names, before anything is built."""

import os

from detectron2.config import CfgNode
from detectron2.utils import comm

from tadp_d2.data.build import load_dataset, model_classes
from tadp_d2.data.street_scenes import has_labels, is_sem_seg
from tadp_d2.engine.checkpoint import check_checkpoint
from tadp_d2.engine.train_step import PRECISIONS
from tadp_d2.errors import UserError
from tadp_d2.modeling.meta_arch import get_modifiers
from tadp_d2.weights import find_weights


def check_config(cfg: CfgNode) -> None:
    """
    Raises:
        UserError: a value is outside of what its key allows.
    """
    for key, value, allowed in (
        ("INPUT.RESIZE", cfg.INPUT.RESIZE, ("fixed", "shortest_edge")),
        ("TEXT.CAPTION_TEXT", cfg.TEXT.CAPTION_TEXT, ("clean", "raw")),
        ("SOLVER.AMP.DTYPE", cfg.SOLVER.AMP.DTYPE, tuple(PRECISIONS)),
    ):
        if value not in allowed:
            raise UserError(f"{key} is {value!r}: expected one of {', '.join(allowed)}")
    if cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.AMP.DTYPE == "fp16" and cfg.MODEL.DEVICE == "cpu":
        raise UserError("SOLVER.AMP.DTYPE fp16 needs a GPU: use bf16 on a CPU")
    for section, key in (
        ("SOLVER", "GRADIENT_ACCUMULATION"),
        ("SOLVER", "CHECKPOINT_PERIOD"),
        ("SOLVER", "CHECKPOINTS_KEPT"),
        ("TEST", "WINDOW_BATCH"),
    ):
        if cfg[section][key] < 1:
            raise UserError(f"{section}.{key} is {cfg[section][key]}: expected 1 or more")
    processes = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH < 1 or cfg.SOLVER.IMS_PER_BATCH % processes:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}: expected a multiple of the "
            f"number of processes, {processes}"
        )
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        raise UserError(
            "DATALOADER.ASPECT_RATIO_GROUPING must be False: a resumed run would not find the "
            "half-filled groups"
        )
    if cfg.INPUT.CROP.ENABLED and not all(side > 0 for side in cfg.INPUT.CROP.SIZE):
        raise UserError(f"INPUT.CROP.SIZE is {cfg.INPUT.CROP.SIZE}: expected height and width")
    for key in ("FIXED_SIZE_TRAIN", "FIXED_SIZE_TEST"):
        size = cfg.INPUT[key]
        if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
            raise UserError(f"INPUT.{key} is {size}: expected width and height in pixels")
    if cfg.TEST.WINDOW_SIZE and not 0 < cfg.TEST.WINDOW_STRIDE <= cfg.TEST.WINDOW_SIZE:
        raise UserError(
            f"TEST.WINDOW_STRIDE is {cfg.TEST.WINDOW_STRIDE}: expected 1 to WINDOW_SIZE, "
            f"{cfg.TEST.WINDOW_SIZE}"
        )
    segmentor = cfg.MODEL.META_ARCHITECTURE == "CaptionedSegmentor"
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
    training = () if evaluation else cfg.DATASETS.TRAIN
    _check_classes(cfg)
    for dataset in (*cfg.DATASETS.TEST, *training):
        load_dataset(cfg, dataset)
        _check_kind(cfg, dataset)
        unlabelled = is_sem_seg(dataset) and not has_labels(dataset)
        if unlabelled and (dataset in training or not cfg.TEST.SUBMISSION):
            raise UserError(
                f"data set {dataset!r} has no labels: it can be evaluated with TEST.SUBMISSION "
                "True, which writes files for its benchmark server, and not be trained on"
            )
    find_weights(cfg.MODEL.DIFFUSION.WEIGHTS, cfg.MODEL.DIFFUSION.REVISION)
    check_checkpoint(cfg.MODEL.WEIGHTS)


def _check_kind(cfg: CfgNode, dataset: str) -> None:
    segmentor = cfg.MODEL.META_ARCHITECTURE == "CaptionedSegmentor"
    if segmentor and not is_sem_seg(dataset):
        raise UserError(f"data set {dataset!r} has no label maps, which a segmentor is scored on")
    if cfg.MODEL.META_ARCHITECTURE == "CaptionedRCNN" and is_sem_seg(dataset):
        raise UserError(f"data set {dataset!r} has label maps and no boxes for a detector")


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
