"""What can be found wrong with a config, and with what it names, before anything is built."""

import torch
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.utils import comm

from tadp_d2.conditioning.conditioner import Conditioner, get_conditioner_class, open_model_of
from tadp_d2.config.keys import KEYS
from tadp_d2.data.catalog import check_registered, read_known
from tadp_d2.data.loader import add_texts, check_texts
from tadp_d2.data.mapper import is_cacheable
from tadp_d2.device import find_device
from tadp_d2.diffusion.latent_noise import kept_variance
from tadp_d2.engine.checkpoint import check_checkpoint
from tadp_d2.engine.resume import check_output
from tadp_d2.errors import UserError
from tadp_d2.modeling.conditioned import Conditioned
from tadp_d2.modeling.image_networks import find_network
from tadp_d2.modeling.pretrained_backbone import BUILDERS
from tadp_d2.modeling.scales import InViews
from tadp_d2.modeling.windows import InWindows
from tadp_d2.tasks.task import check_own_keys, get_task

# Key of MODEL.SEM_SEG_HEAD -> the heads that act on it.
_HEADS_OF = {
    "DROPOUT": ("SemanticFPNHead", "UperNetHead"),
    "FOCAL_GAMMA": ("SemanticFPNHead",),
    "AUXILIARY_WEIGHT": ("UperNetHead",),
    "AUXILIARY_CHANNELS": ("UperNetHead",),
    **dict.fromkeys(
        (
            *("LOSS_TYPE", "PROJECT_CHANNELS", "ASPP_CHANNELS", "ASPP_DILATIONS", "ASPP_DROPOUT"),
            "USE_DEPTHWISE_SEPARABLE_CONV",
        ),
        ("DeepLabV3PlusHead",),
    ),
}
_DIFFUSION_BACKBONES = ("build_diffusion_backbone", "build_diffusion_fpn_backbone")


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
    _check_compiling(cfg)
    for key, value, registry in (
        ("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY),
        ("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY),
        ("MODEL.SEM_SEG_HEAD.NAME", cfg.MODEL.SEM_SEG_HEAD.NAME, SEM_SEG_HEADS_REGISTRY),
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
    for key in ("TRAIN", "TEST"):
        if not cfg.DATASETS[key]:
            raise UserError(f"DATASETS.{key} names no data set; is --config-file missing?")
    backbone, architecture = cfg.MODEL.BACKBONE.NAME, cfg.MODEL.META_ARCHITECTURE
    known = META_ARCH_REGISTRY.get(architecture)
    if backbone in (*_DIFFUSION_BACKBONES, *BUILDERS) and not issubclass(known, Conditioned):
        raise UserError(
            f"MODEL.META_ARCHITECTURE is {architecture!r}, which gives the diffusion backbone "
            f"nothing to be conditioned on: write Conditioned{architecture}, also for a backbone "
            "without text"
        )
    _check_text(cfg)
    if cfg.TEST.WINDOW_SIZE and not issubclass(known, InWindows):
        raise UserError(
            f"TEST.WINDOW_SIZE is {cfg.TEST.WINDOW_SIZE}, and {architecture} cannot test in "
            "windows; leave it at 0"
        )
    scales = cfg.TEST.VIEWS.SCALES
    if scales and not issubclass(known, InViews):
        raise UserError(
            f"TEST.VIEWS.SCALES is {scales}, and {architecture} cannot test on several views: a "
            "semantic segmentor can; leave it empty"
        )
    if cfg.TEST.VIEWS.FLIP and not scales:
        raise UserError("TEST.VIEWS.FLIP mirrors the views of TEST.VIEWS.SCALES, which is empty")
    check_own_keys(cfg)
    _check_head_keys(cfg)
    task = get_task(cfg)
    task.check_config()
    if cfg.TEST.AUG.ENABLED and not task.augmentation():
        raise UserError(
            f"TEST.AUG.ENABLED is True: there is no test-time augmentation for {architecture}; a "
            "semantic segmentor has TEST.VIEWS"
        )
    conditioner = get_conditioner_class(cfg)
    conditioner.check_config(cfg)
    if cfg.MODEL.DIFFUSION.LATENT_CACHE.FOLDER:
        _check_latent_cache(cfg, conditioner)


def _check_latent_cache(cfg: CfgNode, conditioner: type[Conditioner]) -> None:
    if conditioner.looks_at_images(cfg):
        raise UserError(
            f"MODEL.DIFFUSION.LATENT_CACHE.FOLDER is set, and the conditioner "
            f"{cfg.MODEL.CONDITIONER.NAME} looks at images, which are not decoded then: leave it "
            "empty"
        )
    if not (is_cacheable(cfg, is_train=True) or is_cacheable(cfg, is_train=False)):
        raise UserError(
            "MODEL.DIFFUSION.LATENT_CACHE.FOLDER is set, and no latents of this config can be "
            "kept: in training images are changed at random by more than mirroring, in testing "
            "they come in windows, in views or mirrored, or at no fixed size; leave it empty"
        )


def _check_compiling(cfg: CfgNode) -> None:
    how = cfg.MODEL.DIFFUSION.COMPILE
    if how == "openvino" and cfg.MODEL.DEVICE != "cpu":
        raise UserError(
            f"MODEL.DIFFUSION.COMPILE is 'openvino', which is for CPUs here, and MODEL.DEVICE is "
            f"{cfg.MODEL.DEVICE}; expected another value, or MODEL.DEVICE cpu"
        )
    if "graphs" not in how:
        return
    instead = '"blocks" or empty' if "blocks" in how else "empty"
    if cfg.MODEL.DIFFUSION.GRADIENT_CHECKPOINTING:
        raise UserError(
            f"MODEL.DIFFUSION.COMPILE is {how!r}: CUDA graphs cannot be recorded with "
            f"MODEL.DIFFUSION.GRADIENT_CHECKPOINTING; set that to False, or leave COMPILE {instead}"
        )
    if cfg.MODEL.DEVICE == "cpu":
        raise UserError(
            f"MODEL.DIFFUSION.COMPILE is {how!r}: CUDA graphs need a GPU, and MODEL.DEVICE is cpu, "
            f"or no GPU is seen; expected {instead}"
        )


def _check_text(cfg: CfgNode) -> None:
    """Whether backbone and conditioner go together: both read a text, or none does."""
    backbone, conditioner = cfg.MODEL.BACKBONE.NAME, cfg.MODEL.CONDITIONER.NAME
    conditions = get_conditioner_class(cfg).conditions
    if backbone in _DIFFUSION_BACKBONES and not conditions:
        raise UserError(
            f"MODEL.CONDITIONER.NAME is {conditioner}, and a diffusion model needs a context: its "
            "empty text is EmptyText"
        )
    if backbone not in BUILDERS:
        return
    if conditions:
        raise UserError(
            f"MODEL.CONDITIONER.NAME is {conditioner}, and the backbone {backbone} reads no text: "
            "expected NoText"
        )
    diffusion = cfg.MODEL.DIFFUSION
    for key, value in (
        ("MODEL.DIFFUSION.UNET", diffusion.UNET),
        ("MODEL.DIFFUSION.COMPILE", diffusion.COMPILE),
        ("MODEL.DIFFUSION.GRADIENT_CHECKPOINTING", diffusion.GRADIENT_CHECKPOINTING),
        ("MODEL.DIFFUSION.TAPS", diffusion.TAPS),
        ("MODEL.DIFFUSION.TINY_ENCODER", diffusion.TINY_ENCODER),
        ("MODEL.DIFFUSION.LORA_RANK", diffusion.LORA_RANK),
        ("MODEL.DIFFUSION.LORA_FILE", diffusion.LORA_FILE),
        ("MODEL.DIFFUSION.NOISE_TIMESTEP", diffusion.NOISE_TIMESTEP),
        ("MODEL.DIFFUSION.LATENT_CACHE.FOLDER", diffusion.LATENT_CACHE.FOLDER),
        ("TEXT.TOKENS", cfg.TEXT.TOKENS),
    ):
        if value:
            raise UserError(
                f"{key} is {value}: it is for diffusion models, and MODEL.BACKBONE.NAME is "
                f"{backbone}"
            )


def _check_head_keys(cfg: CfgNode) -> None:
    options = cfg.MODEL.SEM_SEG_HEAD
    for name, heads in _HEADS_OF.items():
        key = f"MODEL.SEM_SEG_HEAD.{name}"
        if options[name] != KEYS[key].default and options.NAME not in heads:
            raise UserError(
                f"{key} is {options[name]}: it is for {' and '.join(heads)}, and "
                f"MODEL.SEM_SEG_HEAD.NAME is {options.NAME!r}"
            )


def check_inputs(cfg: CfgNode, evaluation: bool, resume: bool) -> list[str]:
    """Finds now what would otherwise fail later, perhaps after days of training.

    Returns:
        What the user should know, and is no error.

    Raises:
        UserError: data, captions, weights or a checkpoint are missing, or as `check_output`.
    """
    check_output(cfg, evaluation, resume)
    if cfg.MODEL.DIFFUSION.COMPILE == "openvino" and not evaluation:
        raise UserError(
            "MODEL.DIFFUSION.COMPILE is 'openvino', which computes no gradients: leave it empty to "
            "train, and set it for --eval-only, predict and benchmark"
        )
    check_fit(cfg, evaluation)
    used = [(dataset, False) for dataset in cfg.DATASETS.TEST]
    used += [(dataset, True) for dataset in (() if evaluation else cfg.DATASETS.TRAIN)]
    entries = []
    for dataset, training in used:
        entries.append(read_known(dataset))
        add_texts(cfg, dataset, entries[-1], training=training)
        if training:
            get_task(cfg).select_for_training(dataset, entries[-1])
    if cfg.MODEL.BACKBONE.NAME in BUILDERS:
        find_network(cfg.MODEL.PRETRAINED.WEIGHTS)
    else:
        model = open_model_of(cfg)
        model.check_tokens(cfg.TEXT.TOKENS)
        if cfg.MODEL.DIFFUSION.NOISE_TIMESTEP:
            kept_variance(model.folder, cfg.MODEL.DIFFUSION.NOISE_TIMESTEP)
    notes = []
    for (dataset, training), own in zip(used, entries, strict=True):
        notes += check_texts(cfg, dataset, own, training=training)
    check_checkpoint(cfg.MODEL.WEIGHTS)
    return notes


def check_fit(cfg: CfgNode, evaluation: bool = False) -> None:
    """Checks that the data sets of a config are of the kind that its task needs.

    Raises:
        UserError: one is not, or is unknown.
    """
    task = get_task(cfg)
    # The model's classes are those of the first, also in an evaluation.
    check_registered(cfg.DATASETS.TRAIN[0])
    for datasets, training in (
        (cfg.DATASETS.TEST, False),
        (() if evaluation else cfg.DATASETS.TRAIN, True),
    ):
        for dataset in datasets:
            check_registered(dataset)
            task.check_dataset(dataset, training)
