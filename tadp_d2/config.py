"""Every config key that Detectron2 lacks, with its unit, default and source.

The defaults follow the text of the TADP paper; `configs/presets/` holds what its tables and its
released code do instead.
"""

# Imported for what they register in Detectron2: a program that has the keys has the parts.
from detectron2.config import CfgNode as CN

import tadp_d2.data.datasets.cross_domain_voc
import tadp_d2.data.datasets.street_scenes
import tadp_d2.modeling.conditioned  # noqa: F401


def add_tadp_config(cfg: CN) -> None:
    """Adds the keys of this project to Detectron2's config, in place."""
    cfg.MODEL.DIFFUSION = CN()
    # Folder in diffusers' format, or hub id. The original repository of SD 1.5 is gone from the
    # hub; this is its mirror.
    cfg.MODEL.DIFFUSION.WEIGHTS = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    # Branch, tag or commit of the hub's model; empty for its main branch.
    cfg.MODEL.DIFFUSION.REVISION = ""
    # Folder of a fine-tuned UNet (DreamBooth) that replaces the one of WEIGHTS; empty for none.
    cfg.MODEL.DIFFUSION.UNET = ""
    # Noise level that the UNet is told. The papers write t = 0; the released code passes 1.
    cfg.MODEL.DIFFUSION.TIMESTEP = 0
    # Multiply latents by the VAE's scaling factor, 0.18215 for SD 1.5 (TADP, section 3; VPD: off).
    cfg.MODEL.DIFFUSION.LATENT_SCALING = True
    # Recompute the UNet's blocks in the backward pass: less memory, more time, equal results.
    cfg.MODEL.DIFFUSION.GRADIENT_CHECKPOINTING = False
    # Keep what the VAE says of a picture in this folder, so that it is asked once; empty: do not.
    # For detection, and for testing without windows, at a fixed size. Rounded to half precision.
    # The folder may be shared and removed; LIMIT is in GiB (VOC 2007 + 2012: 1.1 at 512 x 512).
    cfg.MODEL.DIFFUSION.LATENT_CACHE = CN()
    cfg.MODEL.DIFFUSION.LATENT_CACHE.FOLDER = ""
    cfg.MODEL.DIFFUSION.LATENT_CACHE.LIMIT = 4.0
    # Cross-attention maps behind the features: at which levels (none: off), averaged over the
    # layers of which paths, and whether gradients flow through them (released code: no).
    cfg.MODEL.DIFFUSION.ATTENTION_MAPS = CN()
    cfg.MODEL.DIFFUSION.ATTENTION_MAPS.LEVELS = ("s4", "s5")
    cfg.MODEL.DIFFUSION.ATTENTION_MAPS.PATHS = ("down", "up")
    cfg.MODEL.DIFFUSION.ATTENTION_MAPS.GRADIENT = True

    cfg.TEXT = CN()
    # Target domain: "watercolor", "comic" or "night". It says what the modifier's name means.
    cfg.TEXT.DOMAIN = ""
    # Caption modifier in training and testing: "null", "simple", "ti", "dreambooth", "nearby",
    # "unrelated", or a template such as "a charcoal sketch of {caption}".
    cfg.TEXT.MODIFIER = "null"
    # Modifier in training where it differs from MODIFIER; empty for the same. The released
    # detection commands train without one ("null") and test with one.
    cfg.TEXT.MODIFIER_TRAIN = ""
    # Files of learned tokens (learned_embeds.safetensors).
    cfg.TEXT.TOKENS = ()
    # Folder of the caption files <dataset>.jsonl or .json; empty: $DETECTRON2_DATASETS/captions.
    cfg.TEXT.CAPTION_DIR = ""
    # "clean": cleaned captions where there are some; "raw": captions as they were made.
    cfg.TEXT.CAPTION_TEXT = "clean"
    # Contexts of how many prompts are kept in memory, 0.23 MiB each for SD 1.x: those of all VOC
    # captions take 3.8 GiB per process.
    cfg.TEXT.CACHE_SIZE = 20_000

    # "fixed": every picture gets FIXED_SIZE_*, width and height in pixels, its aspect ratio not
    # kept (TADP: 512 x 512 for detection); "shortest_edge": Detectron2's MIN_SIZE_*, MAX_SIZE_*.
    cfg.INPUT.RESIZE = "fixed"
    cfg.INPUT.FIXED_SIZE_TRAIN = (512, 512)
    cfg.INPUT.FIXED_SIZE_TEST = (512, 512)
    # Pictures of more pixels are refused before they are decoded (Pillow's own limit: 0.25 GiB).
    cfg.INPUT.MAX_PIXELS = 89_478_485
    # INPUT.CROP comes after the resize here. Share of a crop that one class may cover; 1.0: all.
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # Random brightness, contrast, saturation and hue in training.
    cfg.INPUT.COLOR_AUG_SSD = False

    # Learning rate of the UNet as a multiple of BASE_LR (TADP, section C: 1/10; its tables: 0.01).
    cfg.SOLVER.UNET_LR_FACTOR = 0.1
    # Exponent of the polynomial decay (1 - iteration / MAX_ITER)^power, with "PolyLR".
    cfg.SOLVER.POLY_POWER = 0.9
    # Batches of IMS_PER_BATCH images whose gradients are averaged into one iteration.
    cfg.SOLVER.GRADIENT_ACCUMULATION = 1
    # Checkpoints that are kept besides the final one; one of SD 1.5 with its optimizer is 10 GB.
    cfg.SOLVER.CHECKPOINTS_KEPT = 2
    # Mixed precision of SOLVER.AMP.ENABLED: "bf16" on GPU and CPU, "fp16" on GPU only.
    cfg.SOLVER.AMP.DTYPE = "bf16"

    # Besides the two VOC metrics, COCO's AP (mean over classes with ground truth).
    cfg.TEST.COCO_METRICS = False
    # "fp32", or a mixed precision of the diffusion model: "bf16", and on a GPU "fp16".
    cfg.TEST.PRECISION = "fp32"
    # Segmentation in windows of this size, pixels, whose logits are averaged where they overlap;
    # 0: the whole image at once. Stride, and how many windows are computed together.
    cfg.TEST.WINDOW_SIZE = 0
    cfg.TEST.WINDOW_STRIDE = 341
    cfg.TEST.WINDOW_BATCH = 6
    # Write segmentations for Dark Zurich's benchmark server into OUTPUT_DIR/submission.
    cfg.TEST.SUBMISSION = False
    # Images per data set that are drawn with their predictions into OUTPUT_DIR/gallery; 0: none.
    cfg.TEST.GALLERY_IMAGES = 8

    # Detectron2's own keys whose defaults do not suit this project.
    cfg.INPUT.FORMAT = "RGB"
    # To [-1, 1], as Stable Diffusion was trained.
    cfg.MODEL.PIXEL_MEAN = [127.5, 127.5, 127.5]
    cfg.MODEL.PIXEL_STD = [127.5, 127.5, 127.5]
    cfg.SOLVER.LR_SCHEDULER_NAME = "PolyLR"
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    # As all other weights; in Detectron2 0.5 it would be 0.0001.
    cfg.SOLVER.WEIGHT_DECAY_BIAS = None
    cfg.SOLVER.WARMUP_ITERS = 0
    # Groups are of no use at a fixed size, and a resumed run would not find its half-filled ones.
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    # Same seed, same machine, same result.
    cfg.SEED = 1
