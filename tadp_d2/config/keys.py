"""Every config key that this project adds, changes, checks or refuses, in one row.

All that is known of a key stands in its row: its default, the values it may have, what they change,
where the default comes from. The config, the checks, the documentation, the comparison of results
and the check of a resumed run read it there. What has to do with several keys at once, or needs
Detectron2, is not here: this module imports nothing heavy, because reports read it.

The defaults follow the text of the TADP paper; `configs/presets/` holds what its tables and its
released code do instead.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from tadp_d2.conditioning.templates import CLASS_TEMPLATES
from tadp_d2.errors import UserError


class Changes(StrEnum):
    """What another value of a key changes."""

    TRAINING = "training"  # what is learned, and so every result
    TESTING = "testing"  # what a trained model scores
    NOTHING = "nothing"  # no number beyond rounding, or its fingerprint is recorded in its place


class Allowed(NamedTuple):
    """The values that a key may have.

    Attributes:
        expected: what they are, for messages and the documentation.
        holds: whether a value is one.
    """

    expected: str
    holds: Callable[[Any], bool]


# In place of a default: Detectron2's own stays.
DETECTRON2 = object()


@dataclass(frozen=True)
class Key:
    """A row.

    Attributes:
        name: such as "SOLVER.BASE_LR".
        default: ours; `DETECTRON2` where Detectron2's stays.
        meaning: what it is, with its unit, in one or two sentences.
        source: where the default comes from; empty where no source gives one.
        allowed: its values; None for all of the default's type.
        changes: what another value changes.
        compared: whether results of different values are of different settings; not where the
            reports compare or average over the values.
        idle: for a key of Detectron2's that no run acts on, what there is in its place. It may not
            be set.
    """

    name: str
    default: Any = DETECTRON2
    meaning: str = ""
    source: str = ""
    allowed: Allowed | None = None
    changes: Changes = Changes.TRAINING
    compared: bool = True
    idle: str = ""


def one_of(*values: str) -> Allowed:
    return Allowed(f"one of {', '.join(values)}", lambda value: value in values)


def at_least(least: float) -> Allowed:
    return Allowed(f"{least} or more", lambda value: _is_number(value) and least <= value)


def between(least: float, most: float) -> Allowed:
    return Allowed(f"{least} to {most}", lambda value: _is_number(value) and least <= value <= most)


NUMBER = Allowed("a finite number", lambda value: _is_number(value))


def or_none(allowed: Allowed) -> Allowed:
    return Allowed(
        f"{allowed.expected}, or None", lambda value: value is None or allowed.holds(value)
    )


NAMES = Allowed("names", lambda value: all(isinstance(name, str) for name in value))
SIZE = Allowed(
    "width and height in pixels",
    lambda value: len(value) == 2 and all(isinstance(side, int) and side > 0 for side in value),
)
SIDES = Allowed(
    "one or more lengths in pixels",
    lambda value: bool(value) and all(isinstance(side, int) and side > 0 for side in value),
)
PATHS = Allowed(
    "one or more of down, mid, up; without maps, LEVELS is empty",
    lambda value: NAMES.holds(value) and bool(value) and set(value) <= {"down", "mid", "up"},
)
LEVELS = Allowed(
    "consecutive levels of s2 to s7, s4 and s5 among them",
    lambda value: (
        NAMES.holds(value)
        and {"s4", "s5"} <= set(value)
        and len(set(value)) == len(value)
        and "".join(sorted(value)) in "s2s3s4s5s6s7"
    ),
)
SHARE = Allowed("above 0, at most 1", lambda value: _is_number(value) and 0 < value <= 1)
MEAN = Allowed(
    "3 numbers of 0 to 255",
    lambda value: len(value) == 3 and all(_is_number(v) and 0 <= v <= 255 for v in value),
)
DEVIATION = Allowed(
    "3 numbers above 0, at most 255", lambda value: MEAN.holds(value) and all(value)
)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


# The keys that this project adds. A section of the documentation is a section of the config.
ADDED = (
    Key(
        "MODEL.DIFFUSION.WEIGHTS",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "Folder in diffusers' format, checkpoint of one file, or hub id. The original repository "
        "of SD 1.5 is gone from the hub; this is its mirror.",
        changes=Changes.NOTHING,
    ),
    Key(
        "MODEL.DIFFUSION.REVISION",
        "",
        "Branch, tag or commit of the hub's model; empty for its main branch.",
        changes=Changes.NOTHING,
    ),
    Key(
        "MODEL.DIFFUSION.UNET",
        "",
        "Folder of a fine-tuned UNet (DreamBooth) that replaces the one of WEIGHTS; empty for "
        "none.",
        changes=Changes.NOTHING,
    ),
    Key(
        "MODEL.DIFFUSION.TINY_ENCODER",
        "",
        "Folder of a small autoencoder (diffusers' AutoencoderTiny) whose encoder makes the "
        "latents in place of the VAE of WEIGHTS, with less work and other numbers; empty for none. "
        "For Stable Diffusion 1.x, 2.x and XL.",
        changes=Changes.NOTHING,
    ),
    Key(
        "MODEL.DIFFUSION.TIMESTEP",
        0,
        "Time step t that the UNet is conditioned on. The released code passes 1.",
        "TADP and VPD: t = 0",
        between(0, 999),
    ),
    Key(
        "MODEL.DIFFUSION.NOISE_TIMESTEP",
        0,
        "Time step whose noise is added to latents, by the schedule of WEIGHTS; 0 adds none. In "
        "testing the noise of an image depends on its id and SEED alone.",
        "TADP and VPD: none; tagging adapter: minor noise",
        between(0, 999),
    ),
    Key(
        "MODEL.DIFFUSION.LATENT_SCALING",
        True,
        "Multiply latents by the VAE's scaling factor, 0.18215 for SD 1.5.",
        "TADP, section 3; VPD: off",
    ),
    Key(
        "MODEL.DIFFUSION.GRADIENT_CHECKPOINTING",
        False,
        "Recompute the UNet's blocks in the backward pass: less memory, more time, equal results.",
        changes=Changes.NOTHING,
    ),
    Key(
        "MODEL.DIFFUSION.COMPILE",
        "",
        'How passes of VAE and UNet are brought to the device. "graphs" records each kind of pass '
        "once as a CUDA graph, so that a GPU does not wait for Python; for few sizes of images and "
        'without GRADIENT_CHECKPOINTING. "blocks" compiles the repeated blocks by torch.compile, '
        'which takes minutes and a C++ compiler. "blocks+graphs" does both. "openvino" computes '
        "the passes on a CPU by the package of that name, in testing only. Empty for none.",
        allowed=Allowed(
            "empty, or one of graphs, blocks, blocks+graphs, openvino",
            lambda value: value in ("", "graphs", "blocks", "blocks+graphs", "openvino"),
        ),
        changes=Changes.NOTHING,
    ),
    Key(
        "MODEL.DIFFUSION.LORA_FILE",
        "",
        "File of low-rank updates (LoRA), in the format of diffusers or of kohya's scripts, which "
        "are added to the weights of UNet and text encoder; empty for none.",
        changes=Changes.NOTHING,
    ),
    Key(
        "MODEL.DIFFUSION.LORA_SCALE",
        1.0,
        "Factor of the updates of LORA_FILE.",
        allowed=NUMBER,
        changes=Changes.NOTHING,
    ),
    Key(
        "MODEL.DIFFUSION.LORA_RANK",
        0,
        "Rank of updates that are trained and saved instead of the UNet's weights (LoRA), which "
        "come with the base model; 0 trains all weights. The updates start at zero and want a "
        "higher SOLVER.UNET_LR_FACTOR.",
        allowed=at_least(0),
    ),
    Key(
        "MODEL.DIFFUSION.LATENT_CACHE.FOLDER",
        "",
        "Keep the VAE's latents in this folder, rounded to half precision, so that each image is "
        "encoded once; empty for no cache. For detection and semantic segmentation without crops, "
        "and for testing without windows, at a fixed size. The folder may be shared and removed.",
        changes=Changes.NOTHING,
    ),
    Key(
        "MODEL.DIFFUSION.LATENT_CACHE.LIMIT",
        4.0,
        "GiB that the folder may take. VOC 2007 + 2012 take 1.1 at 512 x 512.",
        allowed=at_least(0),
        changes=Changes.NOTHING,
    ),
    Key(
        "MODEL.DIFFUSION.TAPS",
        (),
        "For each level, the finest first, what its features are the output of, counted from 0: a "
        "layer of its block of the UNet's up path; or a block of a diffusion transformer (Stable "
        "Diffusion 3), also one for all levels. Empty for the last layer of the finest level and "
        "the last but one of each other; or for the block in the middle.",
        "VPD, released code",
        Allowed(
            "whole numbers from 0, or empty",
            lambda value: all(isinstance(tap, int) and tap >= 0 for tap in value),
        ),
    ),
    Key(
        "MODEL.DIFFUSION.ATTENTION_MAPS.LEVELS",
        ("s4", "s5"),
        "Levels whose features are followed by cross-attention maps; empty for none.",
        allowed=NAMES,
    ),
    Key(
        "MODEL.DIFFUSION.ATTENTION_MAPS.PATHS",
        ("down", "up"),
        'Paths of the UNet over whose layers the maps are averaged: "down", "mid" (the middle '
        'block, at the coarsest level), "up".',
        allowed=PATHS,
    ),
    Key(
        "MODEL.DIFFUSION.ATTENTION_MAPS.GRADIENT",
        True,
        "Whether gradients flow through the maps. In the released code they do not.",
    ),
    Key(
        "MODEL.DIFFUSION.ATTENTION_MAPS.SELF_ATTENTION",
        (),
        "Width and height in pixels of all images (INPUT.FIXED_SIZE_TRAIN, windows) that come to "
        "the UNet, for which self-attention maps, a channel for each position of the level, follow "
        "the cross-attention maps; empty for none.",
        "TADP, released code",
        Allowed(f"{SIZE.expected}, or empty", lambda value: len(value) == 0 or SIZE.holds(value)),
    ),
    Key(
        "MODEL.PRETRAINED.WEIGHTS",
        "",
        "Image encoder of the backbones build_pretrained_backbone and "
        "build_pretrained_fpn_backbone: folder in transformers' format or hub id of a DINOv2, "
        "DINOv3, Swin, ConvNeXt, ViT, SAM or BLIP.",
        changes=Changes.NOTHING,
    ),
    Key(
        "MODEL.PRETRAINED.LEVELS",
        ("s3", "s4", "s5", "s6"),
        "Levels of those backbones; the default has those of Stable Diffusion 1.5.",
        allowed=LEVELS,
    ),
    Key(
        "MODEL.CONDITIONER.NAME",
        "CaptionPrompt",
        'What the diffusion model is conditioned on: "CaptionPrompt", "CaptionNouns", '
        '"ClassNames", "ClassWords", "ClassEmbeddings", "Oracle", "Expression", "TextAdapter", '
        '"ImplicitCaptioner", "TaggingAdapter", "NoText" for a backbone without text, '
        "or one that is registered in CONDITIONER_REGISTRY.",
    ),
    Key(
        "MODEL.CONDITIONER.ADAPTED",
        "ClassEmbeddings",
        'Conditioner whose contexts "TextAdapter" adapts.',
        "VPD, section 3.2",
    ),
    Key(
        "MODEL.CONDITIONER.TEMPLATES",
        "single",
        'Sentences over which "ClassEmbeddings" averages: "single", `a photo of a {}.`; "clip80", '
        'CLIP\'s, which come with the package open_clip_torch; "own", 15 of this project.',
        "VPD, section 3.2; its scripts: clip80",
        one_of(*CLASS_TEMPLATES),
    ),
    Key(
        "MODEL.CONDITIONER.CLASS_EMBEDDINGS",
        "",
        'File of the embeddings of "ClassEmbeddings", as VPD publishes it (class_embeddings.pth), '
        "a tensor classes x width; empty to compute them.",
        compared=False,
    ),
    Key(
        "MODEL.CONDITIONER.CLASS_NAMES",
        (),
        'Names that "ClassEmbeddings", "ClassNames" and "ClassWords" read; none for the model\'s '
        "classes.",
        allowed=NAMES,
    ),
    Key(
        "MODEL.CONDITIONER.ORACLE.PRECISION",
        1.0,
        'Share of the names of "Oracle" that are right, in expectation over images.',
        "TADP, table S2",
        SHARE,
    ),
    Key(
        "MODEL.CONDITIONER.ORACLE.RECALL",
        1.0,
        "Share of the classes of an image that are named, in expectation over images.",
        "TADP, table S2",
        SHARE,
    ),
    Key(
        "MODEL.CONDITIONER.IMAGE_ENCODER",
        "openai/clip-vit-large-patch14",
        'CLIP model, a folder or hub id, with which "ImplicitCaptioner" and "TaggingAdapter" look '
        "at an image.",
        "tagging adapter, section 3.2; ODISE: clip-vit-large-patch14-336",
        changes=Changes.NOTHING,
    ),
    Key(
        "MODEL.CONDITIONER.TAGGING.TAGS",
        "classes",
        'Tags of "TaggingAdapter": "classes", all class names; "captions", those of the caption '
        'file, with | between them, as RAM writes them; "oracle", the classes of the annotation; '
        '"own", the classes that it finds itself.',
        "tagging adapter, table 5",
        one_of("classes", "captions", "oracle", "own"),
    ),
    Key(
        "MODEL.CONDITIONER.TAGGING.THRESHOLD",
        0.5,
        'Probability from which on a class is a tag of "own".',
        allowed=between(0, 1),
    ),
    Key(
        "MODEL.CONDITIONER.TAGGING.QUERIES",
        32,
        "Learned queries, the tokens of the context.",
        "tagging adapter, section 3.2",
        at_least(1),
    ),
    Key(
        "MODEL.CONDITIONER.TAGGING.BLOCKS",
        2,
        "Blocks in which the queries read tags and image.",
        "tagging adapter, table 7",
        at_least(1),
    ),
    Key(
        "MODEL.CONDITIONER.TAGGING.WIDTH",
        768,
        "Width of the queries.",
        allowed=at_least(1),
    ),
    Key(
        "MODEL.CONDITIONER.TAGGING.HEADS",
        8,
        "Heads of each attention; WIDTH is a multiple.",
        allowed=at_least(1),
    ),
    Key(
        "MODEL.CONDITIONER.TAGGING.LOSS_WEIGHT",
        1.0,
        "Weight of the multi-label loss; 0 for none.",
        "tagging adapter, table 6",
        at_least(0),
    ),
    Key(
        "MODEL.CONDITIONER.TAGGING.NORMALIZE",
        True,
        "Whether its logits are cosines, and not products of embeddings as they are.",
    ),
    Key(
        "MODEL.CONDITIONER.TAGGING.TEMPERATURE",
        0.07,
        "By which its logits are divided; 1 for none.",
        "CLIP's first temperature",
        Allowed("above 0", lambda value: _is_number(value) and value > 0),
    ),
    Key(
        "MODEL.CONDITIONER.TAGGING.GAMMA_NEGATIVE",
        4.0,
        "Exponent of the asymmetric loss for absent classes.",
        "default of its library; RAM: 7",
        at_least(0),
    ),
    Key(
        "MODEL.CONDITIONER.TAGGING.GAMMA_POSITIVE",
        1.0,
        "Exponent for present classes.",
        "default of its library; RAM: 0",
        at_least(0),
    ),
    Key(
        "MODEL.CONDITIONER.TAGGING.CLIP",
        0.05,
        "Margin by which the probability of absent classes is lowered.",
        "default of its library, and RAM",
        between(0, 1),
    ),
    Key(
        "MODEL.CONDITIONER.LENGTH",
        0,
        'Tokens of the context of an "Expression"; words beyond them are cut, and a run says once '
        "how many expressions that concerns. 0 for all that the text encoder reads. VPD: 40 for "
        "RefCOCO and RefCOCO+, 77 for RefCOCOg.",
        allowed=at_least(0),
    ),
    Key(
        "MODEL.CONDITIONER.ATTEND_PADDING",
        True,
        'Whether the tokens behind the end of an "Expression" are attended to, as in the released '
        "code of VPD.",
    ),
    Key(
        "MODEL.CONDITIONER.WORD_VECTORS",
        False,
        'Whether an "Expression" adds to the embedding of each token a vector of that token that '
        "is trained: for words that the text encoder hardly distinguishes.",
        "VPD, which has none",
    ),
    Key(
        "MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS",
        (0.9, 1.1),
        'Weights of background and object in the loss of "ReferHead".',
        "LAVT and VPD, released code",
        Allowed(
            "two numbers above 0",
            lambda value: len(value) == 2 and all(_is_number(v) and v > 0 for v in value),
        ),
    ),
    Key(
        "MODEL.SEM_SEG_HEAD.COORDINATES",
        False,
        'Whether "ReferHead" also reads x and y of each place (Hu et al. 2016), which "left" and '
        '"right" need.',
        "LAVT and VPD, which give none",
    ),
    Key(
        "MODEL.SEM_SEG_HEAD.DROPOUT",
        0.0,
        'Probability that "SemanticFPNHead" or "UperNetHead" drops a channel before its classifier '
        "in training. VPD: 0.1; TADP on Pascal: 0.2.",
        allowed=Allowed("0 or more, below 1", lambda value: _is_number(value) and 0 <= value < 1),
    ),
    Key(
        "MODEL.SEM_SEG_HEAD.FOCAL_GAMMA",
        0.0,
        'Exponent of the focal loss of "SemanticFPNHead"; 0 for cross-entropy. TADP\'s released '
        "code for Pascal: 2.",
        "TADP and VPD: cross-entropy",
        at_least(0),
    ),
    Key(
        "MODEL.SEM_SEG_HEAD.AUXILIARY_WEIGHT",
        0.4,
        'Weight of the loss of the auxiliary head of "UperNetHead"; 0 for no such head.',
        "mmsegmentation",
        at_least(0),
    ),
    Key(
        "MODEL.SEM_SEG_HEAD.AUXILIARY_CHANNELS",
        256,
        "Channels of that head.",
        "mmsegmentation",
        at_least(1),
    ),
    Key(
        "MODEL.SEM_SEG_HEAD.LOSS_TYPE",
        "cross_entropy",
        'Loss of Detectron2\'s "DeepLabV3PlusHead".',
        allowed=one_of("cross_entropy", "hard_pixel_mining"),
    ),
    Key(
        "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS",
        [48],
        "Of that head: channels to which each level of IN_FEATURES but the coarsest is reduced.",
        "Detectron2's DeepLab",
    ),
    Key(
        "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS",
        256,
        "Of that head: channels of the coarsest level's pyramid.",
        "Detectron2's DeepLab",
        at_least(1),
    ),
    Key(
        "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS",
        [6, 12, 18],
        "Of that head: dilations of the pyramid.",
        "Detectron2's DeepLab",
    ),
    Key(
        "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT",
        0.1,
        "Of that head: dropout behind the pyramid.",
        "Detectron2's DeepLab",
        between(0, 1),
    ),
    Key(
        "MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV",
        False,
        "Of that head: cheaper convolutions.",
        "Detectron2's DeepLab",
    ),
    Key(
        "MODEL.TASK",
        "",
        'The task: "detection", "semantic", "depth", "referring", "panoptic", or one that is '
        "registered in TASK_REGISTRY; empty for that of META_ARCHITECTURE.",
    ),
    Key(
        "MODEL.DEPTH_HEAD.IN_FEATURES",
        ("s3", "s4", "s5", "s6"),
        "Depth: the levels that the head reads, one of them of stride 32.",
        "VPD",
        NAMES,
    ),
    Key(
        "MODEL.DEPTH_HEAD.CHANNELS",
        192,
        "Depth: channels of the head's last convolutions, an even number; the merged map has eight "
        "times as many.",
        "VPD, released code",
        Allowed("an even number above 0", lambda value: value > 0 and value % 2 == 0),
    ),
    Key(
        "MODEL.DEPTH_HEAD.DECONV_CHANNELS",
        (32, 32, 32),
        "Depth: channels of the head's transposed convolutions, at most five. Bilinear steps do "
        "the rest.",
        "VPD, released code",
        Allowed(
            "at most five numbers above 0",
            lambda value: len(value) <= 5 and all(_is_number(v) and v > 0 for v in value),
        ),
    ),
    Key("MODEL.DEPTH_HEAD.NORM", "BN", "Depth: norm of the head's decoder.", "VPD, released code"),
    Key(
        "MODEL.DEPTH_HEAD.MAX_DEPTH",
        10.0,
        "Depth: the largest that the model can return, meters.",
        "VPD, for NYUv2",
        Allowed("above 0, at most 1000", lambda value: 0 < value <= 1000),
    ),
    Key(
        "MODEL.MASK_FORMER.IN_FEATURES",
        ("s3", "s4", "s5", "s6"),
        "Mask2Former: the four levels that its pixel decoder reads. The finest gives the masks "
        "their stride.",
        allowed=NAMES,
    ),
    Key("MODEL.MASK_FORMER.NUM_CLASSES", 133, "Mask2Former: classes, things and stuff together."),
    Key(
        "MODEL.MASK_FORMER.WEIGHTS",
        "",
        "Mask2Former: folder or hub id of one that transformers has saved, with which the decoders "
        "begin; what depends on its backbone or on other classes begins at random. Empty for all "
        "at random.",
    ),
    Key(
        "MODEL.MASK_FORMER.QUERIES",
        100,
        "Mask2Former: queries, the most segments that an image can have.",
        "Mask2Former; tagging adapter, section 4",
        at_least(1),
    ),
    Key(
        "MODEL.MASK_FORMER.WIDTH",
        256,
        "Mask2Former: channels of both decoders, a multiple of 32.",
        "Mask2Former",
        Allowed("a multiple of 32", lambda value: value > 0 and value % 32 == 0),
    ),
    Key(
        "MODEL.MASK_FORMER.ENCODER_LAYERS",
        6,
        "Mask2Former: layers of deformable attention in the pixel decoder.",
        "Mask2Former",
        at_least(1),
    ),
    Key(
        "MODEL.MASK_FORMER.DECODER_LAYERS",
        9,
        "Mask2Former: layers of masked attention in the transformer decoder.",
        "Mask2Former",
        at_least(1),
    ),
    Key(
        "MODEL.MASK_FORMER.POINTS",
        12_544,
        "Mask2Former: points at which masks are compared in training.",
        "Mask2Former, section 3.3: 112 x 112",
        at_least(1),
    ),
    *(
        Key(f"MODEL.MASK_FORMER.{name}", weight, f"Mask2Former: {what}", "Mask2Former", at_least(0))
        for name, weight, what in (
            ("CLASS_WEIGHT", 2.0, "weight of the classes, in the loss and in the matching."),
            ("MASK_WEIGHT", 5.0, "weight of the masks' cross-entropy, in both."),
            ("DICE_WEIGHT", 5.0, "weight of the masks' dice loss, in both."),
            ("NO_OBJECT_WEIGHT", 0.1, "weight of queries without a segment, in the first."),
        )
    ),
    Key(
        "MODEL.MASK_FORMER.OBJECT_SCORE",
        0.8,
        "Mask2Former: least score of a query's class for a panoptic segment.",
        "Mask2Former, released code",
        between(0, 1),
        Changes.TESTING,
    ),
    Key(
        "MODEL.MASK_FORMER.OVERLAP",
        0.8,
        "Mask2Former: share of a query's mask that must not be another's for a panoptic segment.",
        "Mask2Former, released code",
        between(0, 1),
        Changes.TESTING,
    ),
    Key(
        "TEXT.DOMAIN",
        "",
        'Target domain: "watercolor", "comic" or "night". It gives the name of a modifier its '
        "meaning.",
        compared=False,
    ),
    Key(
        "TEXT.MODIFIER",
        "null",
        'Caption modifier in training and testing: "null", "simple", "ti", "dreambooth", "nearby", '
        '"unrelated", or a template such as "a charcoal sketch of {caption}".',
        compared=False,
    ),
    Key(
        "TEXT.MODIFIER_TRAIN",
        "",
        "Modifier in training where it differs from MODIFIER; empty for the same. The released "
        'detection commands train without one ("null") and test with one.',
    ),
    Key(
        "TEXT.TOKENS",
        (),
        "Files of learned tokens: learned_embeds.safetensors of diffusers, or of other trainers, "
        "whose token is the file's name without its ending.",
        allowed=NAMES,
        changes=Changes.NOTHING,
    ),
    Key(
        "TEXT.CAPTION_DIR",
        "",
        "Folder of the caption files <dataset>.jsonl or .json; empty for "
        "$DETECTRON2_DATASETS/captions.",
        changes=Changes.NOTHING,
    ),
    Key(
        "TEXT.CAPTION_TEXT",
        "clean",
        '"clean": cleaned captions where there are some; "raw": captions as they were made.',
        allowed=one_of("clean", "raw"),
    ),
    Key(
        "TEXT.NORMALIZATION",
        "none",
        'What is done to a caption before the tokenizer reads it: "none"; "openai", as by the '
        "tokenizer that CLIP was trained with: curly quotes, ligatures, full-width letters and "
        "HTML entities become plain ones (needs ftfy).",
        "CLIP, released code",
        one_of("none", "openai"),
    ),
    Key(
        "TEXT.CACHE_SIZE",
        20_000,
        "Contexts of how many prompts are kept in memory, 0.23 MiB each for SD 1.x: those of all "
        "VOC captions take 3.8 GiB per process.",
        allowed=at_least(0),
        changes=Changes.NOTHING,
    ),
    Key(
        "INPUT.RESIZE",
        "fixed",
        '"fixed": every image gets FIXED_SIZE_TRAIN or FIXED_SIZE_TEST, its aspect ratio not kept; '
        '"shortest_edge": Detectron2\'s MIN_SIZE and MAX_SIZE; "jitter": in training large-scale '
        "jittering, a part of FIXED_SIZE_TRAIN of the image at a scale of JITTER; in testing as "
        '"shortest_edge".',
        allowed=one_of("fixed", "shortest_edge", "jitter"),
    ),
    Key(
        "INPUT.JITTER",
        (0.1, 2.0),
        'Range of the scale of RESIZE "jitter"; at 1 the image just fits into FIXED_SIZE_TRAIN.',
        "Mask2Former and ODISE for COCO",
        Allowed(
            "two numbers above 0, the smaller one first",
            lambda value: (
                len(value) == 2 and all(_is_number(v) for v in value) and 0 < value[0] <= value[1]
            ),
        ),
    ),
    Key(
        "INPUT.FIXED_SIZE_TRAIN",
        (512, 512),
        "Width and height in training, pixels.",
        "TADP, section C, for detection",
        SIZE,
    ),
    Key(
        "INPUT.FIXED_SIZE_TEST",
        (512, 512),
        "Width and height in testing, pixels.",
        "TADP, section C, for detection",
        SIZE,
        Changes.TESTING,
    ),
    Key(
        "INPUT.MAX_PIXELS",
        89_478_485,
        "Images of more pixels are refused before they are decoded.",
        "Pillow's own limit, 0.25 GiB",
        at_least(1),
        Changes.NOTHING,
    ),
    Key(
        "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA",
        1.0,
        "Share of a crop that one class may cover; 1.0 for all of it. INPUT.CROP comes after the "
        "resize here.",
        allowed=SHARE,
    ),
    Key(
        "INPUT.POLYGON_OVERLAPS",
        True,
        "Whether an object that is referred to includes pixels of several of its polygons. In the "
        "released code of VPD they are background.",
    ),
    Key(
        "INPUT.COLOR_AUG_SSD",
        False,
        "Random brightness, contrast, saturation and hue in training.",
    ),
    Key(
        "INPUT.COLOR_AUG_DEPTH",
        False,
        "Random brightness and contrast, gamma, and color in training, each for half of the "
        "images. VPD's training for depth has it.",
    ),
    Key(
        "INPUT.CUT_DEPTH",
        0.0,
        "Depth: share of the training images in which an upright strip shows the depth instead. "
        "VPD: 0.25.",
        allowed=between(0, 1),
    ),
    Key(
        "DATALOADER.BY_IMAGE",
        False,
        "In training draw the entries of an image one after another, in an order by SEED, so that "
        "a batch holds several expressions of an image.",
    ),
    Key(
        "SOLVER.UNET_LR_FACTOR",
        0.1,
        "Learning rate of the UNet, or of a pre-trained image encoder in its place, as a multiple "
        "of BASE_LR.",
        "TADP, section C; its tables: 0.01",
        at_least(0),
    ),
    Key(
        "SOLVER.CONDITIONER_LR_FACTOR",
        1.0,
        "Learning rate of a conditioner that is trained, as a multiple of BASE_LR.",
        allowed=at_least(0),
    ),
    Key(
        "SOLVER.POLY_POWER",
        0.9,
        'Exponent of the polynomial decay (1 - iteration / MAX_ITER)^power, with "PolyLR", and of '
        'both ways of "RiseAndFall".',
        "TADP, section C",
        at_least(0),
    ),
    Key(
        "SOLVER.LOWEST_LR_FACTOR",
        0.06,
        'Multiple of BASE_LR at which "RiseAndFall" begins and ends.',
        "VPD, released code for depth: 3e-5 of 5e-4",
        between(0, 1),
    ),
    Key(
        "SOLVER.GRADIENT_ACCUMULATION",
        1,
        "Batches of IMS_PER_BATCH images whose gradients are averaged into one iteration.",
        allowed=at_least(1),
    ),
    Key(
        "SOLVER.ADAM_8BIT",
        False,
        "Keep AdamW's two moments in 8 bits a weight, those of small tensors aside: a quarter of "
        "their memory. Needs the package bitsandbytes.",
    ),
    Key(
        "SOLVER.SHARD_OPTIMIZER",
        False,
        "Divide the optimizer's state among the processes of a run, with equal results. Its "
        "checkpoints are continued by any number of processes, with the key or without.",
        changes=Changes.NOTHING,
    ),
    Key(
        "SOLVER.CHECKPOINTS_KEPT",
        2,
        "Checkpoints that are kept besides the final one; one of SD 1.5 with its optimizer is "
        "10 GB.",
        allowed=at_least(1),
        changes=Changes.NOTHING,
    ),
    Key(
        "SOLVER.AMP.DTYPE",
        "bf16",
        'Mixed precision of SOLVER.AMP.ENABLED: "bf16" on GPU and CPU, "fp16" on GPU only.',
        allowed=one_of("bf16", "fp16"),
    ),
    Key(
        "TEST.COCO_METRICS",
        False,
        "Besides the two VOC metrics, COCO's AP (mean over classes with ground truth).",
        changes=Changes.NOTHING,
    ),
    Key(
        "TEST.PRECISION",
        "fp32",
        '"fp32", or a mixed precision of the diffusion model: "bf16", and on a GPU "fp16".',
        allowed=one_of("fp32", "bf16", "fp16"),
        changes=Changes.TESTING,
    ),
    Key(
        "TEST.WINDOW_SIZE",
        0,
        "Segmentation in windows of this size, pixels, whose logits are averaged where they "
        "overlap; 0 for the whole image at once.",
        allowed=at_least(0),
        changes=Changes.TESTING,
    ),
    Key(
        "TEST.WINDOW_STRIDE",
        341,
        "Distance of two windows, pixels.",
        "TADP, section C",
        at_least(1),
        Changes.TESTING,
    ),
    Key(
        "TEST.WINDOW_BATCH",
        6,
        "Windows that are computed together.",
        allowed=at_least(1),
        changes=Changes.NOTHING,
    ),
    Key(
        "TEST.VIEWS.SCALES",
        (),
        "Segmentation at each of these scales of the size of testing, whose probabilities are "
        "averaged; empty for the image as it is. VPD's: 1.0, 1.125, 1.25, 1.375, 1.5.",
        "VPD, as released",
        Allowed("numbers above 0", lambda value: all(_is_number(s) and s > 0 for s in value)),
        Changes.TESTING,
    ),
    Key(
        "TEST.VIEWS.FLIP",
        False,
        "Each of VIEWS.SCALES also mirrored.",
        "VPD, as released: True with several scales",
        changes=Changes.TESTING,
    ),
    Key(
        "TEST.MIRROR",
        False,
        "Depth: the mean with the depth of the mirrored image. VPD has it.",
        changes=Changes.TESTING,
    ),
    Key(
        "TEST.AT_INPUT_SIZE",
        False,
        "Score semantic and referring segmentation at the size of the model's input, and not at "
        "that of the image: as in the released code of TADP for Pascal (sem_seg_stretched in the "
        "results) and of VPD for expressions.",
        changes=Changes.TESTING,
    ),
    Key(
        "TEST.KEEP_BEST",
        False,
        "Also keep the model that is best on the first of DATASETS.TEST, as model_best.pth, and "
        "its results, as results_best.json. The released code reports those.",
        changes=Changes.NOTHING,
    ),
    Key(
        "TEST.SUBMISSION",
        False,
        "Write segmentations for Dark Zurich's benchmark server into OUTPUT_DIR/submission.",
        changes=Changes.NOTHING,
    ),
    Key(
        "TEST.GALLERY_IMAGES",
        8,
        "Images per data set that are drawn with their predictions into OUTPUT_DIR/gallery; 0 for "
        "none.",
        allowed=at_least(0),
        changes=Changes.NOTHING,
    ),
)

# Detectron2's own keys: other defaults, and values that are checked.
CHANGED = (
    Key(
        "INPUT.FORMAT",
        "RGB",
        "Order of the channels.",
        allowed=one_of("RGB", "BGR"),
    ),
    Key(
        "MODEL.PIXEL_MEAN",
        [127.5, 127.5, 127.5],
        "With PIXEL_STD, to [-1, 1], as Stable Diffusion was trained.",
        allowed=MEAN,
    ),
    Key("MODEL.PIXEL_STD", [127.5, 127.5, 127.5], "As PIXEL_MEAN.", allowed=DEVIATION),
    Key(
        "SOLVER.LR_SCHEDULER_NAME",
        "PolyLR",
        '"PolyLR", "RiseAndFall", which depth takes, or one of Detectron2\'s schedules.',
        "TADP, section C",
    ),
    Key(
        "SOLVER.WEIGHT_DECAY_NORM",
        0.0,
        "Weight decay of norm layers.",
        "TADP, section C",
        at_least(0),
    ),
    Key(
        "SOLVER.WEIGHT_DECAY_BIAS",
        None,
        "Weight decay of biases; None for that of all weights. In Detectron2 0.5 it would be "
        "0.0001.",
        allowed=or_none(at_least(0)),
    ),
    Key(
        "SOLVER.WARMUP_ITERS",
        0,
        "Iterations over which the learning rate rises from WARMUP_FACTOR of it.",
        allowed=at_least(0),
    ),
    Key(
        "SEED",
        1,
        "Same seed, same machine, same result; negative for a random one, which is recorded.",
        allowed=Allowed(f"at most {2**31}", lambda value: value <= 2**31),
        compared=False,
    ),
    Key("MODEL.DEVICE", changes=Changes.NOTHING),
    Key("MODEL.WEIGHTS", compared=False),
    Key("DATASETS.TRAIN", allowed=NAMES),
    # A result is of one data set; the others do not change it.
    Key("DATASETS.TEST", allowed=NAMES, changes=Changes.NOTHING),
    Key("DATALOADER.NUM_WORKERS", allowed=at_least(0), changes=Changes.NOTHING),
    Key("INPUT.RANDOM_FLIP", allowed=one_of("horizontal", "vertical", "none")),
    Key("INPUT.MIN_SIZE_TRAIN_SAMPLING", allowed=one_of("choice", "range")),
    Key("INPUT.MASK_FORMAT", allowed=one_of("polygon", "bitmask")),
    Key(
        "INPUT.CROP.TYPE",
        allowed=one_of("relative", "relative_range", "absolute", "absolute_range"),
    ),
    Key("SOLVER.BASE_LR", allowed=at_least(0)),
    Key("SOLVER.WEIGHT_DECAY", allowed=at_least(0)),
    Key("SOLVER.MAX_ITER", allowed=at_least(0)),
    Key("SOLVER.WARMUP_FACTOR", allowed=at_least(0)),
    Key("SOLVER.WARMUP_METHOD", allowed=one_of("linear", "constant")),
    Key("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", allowed=one_of("value", "norm")),
    Key("SOLVER.CHECKPOINT_PERIOD", allowed=at_least(1), changes=Changes.NOTHING),
    # It adds metrics and leaves the others as they are.
    Key("TEST.AUG.ENABLED", changes=Changes.NOTHING),
    Key("TEST.AUG.MIN_SIZES", allowed=SIDES, changes=Changes.TESTING),
    Key("TEST.AUG.MAX_SIZE", allowed=at_least(1), changes=Changes.TESTING),
    Key("TEST.EVAL_PERIOD", allowed=at_least(0), changes=Changes.NOTHING),
    Key("CUDNN_BENCHMARK", changes=Changes.NOTHING),
    Key("OUTPUT_DIR", changes=Changes.NOTHING),
    Key("VERSION", changes=Changes.NOTHING),
    Key("VIS_PERIOD", allowed=at_least(0), changes=Changes.NOTHING),
)

# Detectron2's keys that no run here acts on, whatever the other keys are.
_PROPOSALS = "proposals come from the model's own MODEL.PROPOSAL_GENERATOR"
_NO_RESNET = "the backbone is a diffusion model and no ResNet"
_ADAMW = "the optimizer is AdamW"
_PRECISE_BN = "statistics of batch norm stay those of training, which a resumed run goes on with"
IDLE = (
    Key(
        "DATALOADER.ASPECT_RATIO_GROUPING",
        False,
        idle="images are not grouped, because a resumed run would not find half-filled groups",
    ),
    *(
        Key(f"DATALOADER.{name}", idle="each image is drawn once per epoch, in an order by SEED")
        for name in ("SAMPLER_TRAIN", "REPEAT_THRESHOLD", "REPEAT_SQRT")
    ),
    Key("MODEL.LOAD_PROPOSALS", idle=_PROPOSALS),
    *(
        Key(f"DATASETS.{name}_{split}", idle=_PROPOSALS)
        for name in ("PROPOSAL_FILES", "PRECOMPUTED_PROPOSAL_TOPK")
        for split in ("TRAIN", "TEST")
    ),
    Key("MODEL.BACKBONE.FREEZE_AT", idle="the UNet is trained; VAE and text encoder are frozen"),
    Key("MODEL.FPN.IN_FEATURES", idle="the FPN is built on all levels of the backbone"),
    Key("MODEL.PANOPTIC_FPN.COMBINE.ENABLED", idle="Detectron2 itself reads it no more"),
    # The others of MODEL.RESNETS are for the last stage of a ResNet in Res5ROIHeads, too.
    *(
        Key(f"MODEL.RESNETS.{name}", idle=_NO_RESNET)
        for name in (
            *("DEPTH", "OUT_FEATURES", "RES5_DILATION", "STEM_OUT_CHANNELS"),
            *("DEFORM_MODULATED", "DEFORM_NUM_GROUPS"),
        )
    ),
    Key(
        "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE",
        idle="DATALOADER.FILTER_EMPTY_ANNOTATIONS alone leaves images out",
    ),
    Key("SOLVER.MOMENTUM", idle=_ADAMW),
    Key("SOLVER.NESTEROV", idle=_ADAMW),
    Key(
        "SOLVER.REFERENCE_WORLD_SIZE",
        idle="IMS_PER_BATCH, BASE_LR and MAX_ITER hold for any number of processes",
    ),
    Key("TEST.EXPECTED_RESULTS", idle="tadp-d2 report compares results"),
    Key("TEST.KEYPOINT_OKS_SIGMAS", idle="keypoints are not scored"),
    Key("TEST.PRECISE_BN.ENABLED", idle=_PRECISE_BN),
    Key("TEST.PRECISE_BN.NUM_ITER", idle=_PRECISE_BN),
    Key("GLOBAL.HACK", idle="no code reads it"),
)

# Detectron2's other keys. Its own parts read them, where another key chooses or enables the part.
# A section stands for its keys.
ACTING = (
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS",
    "FLOAT32_PRECISION",
    *("INPUT.CROP", "INPUT.MAX_SIZE_TEST", "INPUT.MAX_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST"),
    "INPUT.MIN_SIZE_TRAIN",
    *("MODEL.ANCHOR_GENERATOR", "MODEL.BACKBONE.NAME", "MODEL.FPN", "MODEL.KEYPOINT_ON"),
    *("MODEL.MASK_ON", "MODEL.META_ARCHITECTURE", "MODEL.PANOPTIC_FPN"),
    *("MODEL.PROPOSAL_GENERATOR", "MODEL.RESNETS", "MODEL.RETINANET"),
    *("MODEL.ROI_BOX_CASCADE_HEAD", "MODEL.ROI_BOX_HEAD", "MODEL.ROI_HEADS"),
    *("MODEL.ROI_KEYPOINT_HEAD", "MODEL.ROI_MASK_HEAD", "MODEL.RPN", "MODEL.SEM_SEG_HEAD"),
    *("SOLVER.AMP.ENABLED", "SOLVER.BASE_LR_END", "SOLVER.BIAS_LR_FACTOR", "SOLVER.CLIP_GRADIENTS"),
    *("SOLVER.GAMMA", "SOLVER.IMS_PER_BATCH", "SOLVER.NUM_DECAYS", "SOLVER.RESCALE_INTERVAL"),
    *("SOLVER.STEPS", "TEST.AUG", "TEST.DETECTIONS_PER_IMAGE"),
)

KEYS: Mapping[str, Key] = {key.name: key for key in (*ADDED, *CHANGED, *IDLE)}


def find_key(name: str) -> Key:
    """The row of a key; for one of Detectron2's that has none, what its name reveals.

    Detectron2 names the keys of testing TEST.* and *_TEST.
    """
    testing = name.startswith("TEST.") or name.endswith("_TEST")
    return KEYS.get(name) or Key(name, changes=Changes.TESTING if testing else Changes.TRAINING)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name -> value of every key in nested mappings."""
    flat = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def is_known(name: str) -> bool:
    """Whether it is known what a key does. Later versions of Detectron2 may have others."""
    return name in KEYS or any(name == other or name.startswith(f"{other}.") for other in ACTING)


def check_values(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """
    Args:
        values: of a config, by name.
        defaults: the same, as nothing is set.

    Raises:
        UserError: a value is none of those that its row allows, or is set and no run acts on it.
    """
    for name, value in values.items():
        key = find_key(name)
        if key.allowed and not key.allowed.holds(value):
            raise UserError(f"{name} is {value!r}: expected {key.allowed.expected}")
        if value == defaults[name] or (is_known(name) and not key.idle):
            continue
        raise UserError(
            f"{name} is {value!r}, which does nothing here: "
            f"{key.idle or 'no part is known that reads it'}; leave it at {defaults[name]!r}"
        )


def is_setting(name: str) -> bool:
    """Whether results of different values of a key are of different settings."""
    key = find_key(name)
    return key.compared and key.changes is not Changes.NOTHING
