"""What a trained model rests on but does not contain, so that it is not evaluated on anything else.

A checkpoint holds the trained weights only. The frozen base model, the learned tokens, the captions
and the pixels' scale are recorded beside them, as fingerprints.
"""

import contextlib
import logging
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from tadp_d2.data.loader import load_captions, needs_captions
from tadp_d2.data.texts import CaptionFile, NoCaptions
from tadp_d2.diffusion.lora_file import LoraFile
from tadp_d2.diffusion.tokens import read_tokens
from tadp_d2.errors import UserError
from tadp_d2.frozen import fingerprint
from tadp_d2.modeling.backbone import find_diffusion_backbone
from tadp_d2.modeling.conditioned import find_conditioner
from tadp_d2.modeling.image_networks import ImageNetwork
from tadp_d2.records.artifacts import (
    check_base,
    token_metadata_path,
    unet_metadata_path,
)
from tadp_d2.tasks.task import get_task

_logger = logging.getLogger(__name__)

# What must be equal for a checkpoint's weights to mean anything, and what it is called in messages.
_ESSENTIAL = {
    "vae": "another VAE (MODEL.DIFFUSION.WEIGHTS or TINY_ENCODER)",
    "conditioner": "another conditioner (MODEL.CONDITIONER)",
    "text_encoder": "another text encoder (MODEL.DIFFUSION.WEIGHTS)",
    "pixels": "another pixel normalisation (MODEL.PIXEL_MEAN, PIXEL_STD or INPUT.FORMAT)",
    "features": "other features (MODEL.DIFFUSION.TIMESTEP, NOISE_TIMESTEP, LATENT_SCALING or "
    "ATTENTION_MAPS)",
    "classes": "other classes (DATASETS.TRAIN)",
    "class_embeddings": "other class embeddings (MODEL.CONDITIONER.CLASS_NAMES, CLASS_EMBEDDINGS "
    "or TEMPLATES, or the tokenizer)",
    "image_encoder": "another image encoder (MODEL.CONDITIONER.IMAGE_ENCODER)",
}


# The same for what records of earlier versions lack.
_ESSENTIAL_SINCE = {
    "tokenizer": "another tokenizer (MODEL.DIFFUSION.WEIGHTS)",
    "text_options": "other options of the text encoder",
    "vae_options": "other options of the VAE",
    "unet_options": "other options of the UNet",
    "backbone_options": "another kind of backbone (MODEL.PRETRAINED)",
    "image_encoder_options": "other options of the image encoder",
    "conditioner_options": "other options of the conditioner (MODEL.CONDITIONER)",
}

# What may differ in a test, which is then of something else than what was trained: what it is.
_TOLD = {
    "normalization": "captions whose text was normalized by {} (TEXT.NORMALIZATION)",
    "tags": "the tags {} (MODEL.CONDITIONER.TAGGING.TAGS)",
    "tag_loss": "a loss of tags: {} (MODEL.CONDITIONER.TAGGING.LOSS_WEIGHT)",
}

# Where a record says nothing.
_UNTOLD = {"normalization": "none"}

# Computed values -> what they are made of. One of the two must be equal: the values' last bits
# depend on the number of threads, the machine and the version of PyTorch.
_MADE_OF = {"class_embeddings": "class_sentences"}
_ROUNDING = (
    ", or by an earlier version, which recorded their values only: the last bits need the number "
    "of threads (OMP_NUM_THREADS), the machine and the PyTorch of the training"
)


class Provenance:
    """Fingerprints of what a model rests on; saved in checkpoints, compared when one is loaded."""

    def __init__(self, cfg: CfgNode, model: nn.Module):
        captions = _caption_files(cfg)
        self._training_sets = cfg.DATASETS.TRAIN
        self.record: dict[str, Any] = {
            **_backbone(cfg, model),
            "pixels": [
                list(map(float, cfg.MODEL.PIXEL_MEAN)),
                list(map(float, cfg.MODEL.PIXEL_STD)),
                cfg.INPUT.FORMAT,
            ],
            "classes": get_task(cfg).classes(),
            # Of a conditioner without learned tokens.
            "tokens": {},
            "conditioner": cfg.MODEL.CONDITIONER.NAME,
            **find_conditioner(model).provenance(),
            "captions": {name: file.fingerprint() for name, file in captions.items()},
            "caption_files": {name: str(file.path) for name, file in captions.items()},
        }
        # Frozen, the UNet is no part of a checkpoint.
        self._unet_is_frozen = cfg.MODEL.DIFFUSION.LORA_RANK > 0
        _check_artifacts(cfg, self.record)

    def check(
        self, trained: dict[str, Any] | None, checkpoint: str, continued: bool = False
    ) -> None:
        """Compares with the record of a checkpoint.

        Another base model is an error. Other tokens and captions get a warning; where the training
        goes on, other tokens and other captions of its data are an error.

        Args:
            continued: whether the training goes on from the checkpoint.

        Raises:
            UserError: the checkpoint was trained on another base model, or its training would not
                be continued with its own tokens and captions.
        """
        if trained is None:
            _logger.warning(f"{checkpoint} does not record on which base model it was trained")
            return
        # Records of earlier versions lack the conditioner, of which there was one.
        trained = {"conditioner": "CaptionPrompt", **trained}
        for key, meaning in _ESSENTIAL.items():
            if trained.get(key) == self.record.get(key):
                continue
            made_of = _MADE_OF.get(key)
            if made_of in self.record:
                if trained.get(made_of) == self.record[made_of]:
                    continue
                if made_of not in trained:
                    meaning += _ROUNDING
            raise UserError(
                f"{checkpoint} was trained with {meaning}; use what it was trained with, or train "
                "anew"
            )
        unknown = [key for key in _ESSENTIAL_SINCE if key in self.record and key not in trained]
        if unknown:
            _logger.warning(
                f"{checkpoint} is of an earlier version and does not record with which "
                f"{', '.join(unknown)} it was trained"
            )
        for key, meaning in _ESSENTIAL_SINCE.items():
            if key in trained and trained[key] != self.record.get(key):
                raise UserError(
                    f"{checkpoint} was trained with {meaning}"
                    f"{_difference(trained[key], self.record.get(key))}; use what it was trained "
                    "with, or train anew"
                )
        # Records of earlier versions lack it.
        for key, other in (
            ("unet", "another UNet than that of MODEL.DIFFUSION.UNET, WEIGHTS and LORA_FILE"),
            ("backbone", "other weights than those of MODEL.PRETRAINED.WEIGHTS"),
        ):
            own = self.record.get(key)
            if trained.get(key, own) == own:
                continue
            difference = f"{checkpoint} was trained from {other}"
            if key == "unet" and self._unet_is_frozen:
                raise UserError(f"{difference}, which its updates belong to; name the one it had")
            _logger.warning(f"{difference}; the checkpoint's own is the one in use")
        for key, meaning in _TOLD.items():
            own, theirs = (one.get(key, _UNTOLD.get(key)) for one in (self.record, trained))
            if None not in (own, theirs) and own != theirs:
                _logger.warning(
                    f"{checkpoint} was trained with {meaning.format(repr(theirs))}, and not as now"
                )
        for name, value in trained["tokens"].items():
            if self.record["tokens"].get(name) != value:
                _say(f"{checkpoint} was trained with another or a further token {name}", continued)
        for name, value in self.record["captions"].items():
            if trained["captions"].get(name, value) != value:
                matters = continued and name in self._training_sets
                _say(f"{checkpoint} was trained with other captions for {name!r}", matters)


def _backbone(cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
    """What the backbone rests on; its weights as they came, of which the checkpoint has its own."""
    for part in model.modules():
        if isinstance(part, ImageNetwork):
            levels = sorted(cfg.MODEL.PRETRAINED.LEVELS)
            return {
                "backbone": part.base_fingerprint,
                "backbone_options": {**part.options, "levels": levels},
            }
    backbone = find_diffusion_backbone(model)
    diffusion = cfg.MODEL.DIFFUSION
    # For the reader: the updates are part of the fingerprints.
    file, scale = diffusion.LORA_FILE, diffusion.LORA_SCALE
    return {
        **({"lora": LoraFile(file, scale).provenance} if file else {}),
        "vae": fingerprint(backbone.latent_encoder.module),
        "unet": backbone.unet.base_fingerprint,
        "unet_options": backbone.unet.options,
        "vae_options": backbone.latent_encoder.module.options,
        "features": [
            diffusion.TIMESTEP,
            diffusion.LATENT_SCALING,
            sorted(diffusion.ATTENTION_MAPS.LEVELS),
            sorted(diffusion.ATTENTION_MAPS.PATHS),
            # Records of earlier versions lack it.
            *([diffusion.NOISE_TIMESTEP] if diffusion.NOISE_TIMESTEP else []),
        ],
    }


def _say(difference: str, is_error: bool) -> None:
    if is_error:
        raise UserError(f"{difference}; a run is continued with what it was begun with")
    _logger.warning(difference)


def _difference(trained: Any, own: Any) -> str:
    """The first option in which two parts differ."""
    if not isinstance(trained, dict) or not isinstance(own, dict):
        return ""
    option = next(key for key in {**trained, **own} if trained.get(key) != own.get(key))
    return f" ({option} {trained.get(option)} and not {own.get(option)})"


def _check_artifacts(cfg: CfgNode, record: dict[str, Any]) -> None:
    """
    Raises:
        UserError: a learned token or a fine-tuned UNet was made for another base model.
    """
    parts = ["text_encoder", "tokenizer", "unet"]
    if not cfg.MODEL.DIFFUSION.TINY_ENCODER:
        # A small encoder makes the latents of the VAE that they were made with, nearly.
        parts.append("vae")
    base = {part: record[part] for part in parts if part in record}
    unet_folder = cfg.MODEL.DIFFUSION.UNET
    if unet_folder:
        # The base model's own, for which tokens were learned, is not loaded then.
        unet = base.pop("unet")
        check_base(unet_folder, unet_metadata_path(unet_folder), base, {"unet": unet})
    for file in cfg.TEXT.TOKENS:
        own = {token: fingerprint(vectors) for token, vectors in read_tokens(file).items()}
        check_base(file, token_metadata_path(file), base, own)


def _caption_files(cfg: CfgNode) -> dict[str, CaptionFile]:
    """Those of the data sets whose captions are here: an evaluation needs none to train on.

    Raises:
        UserError: a caption file is malformed.
    """
    files = {}
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST) if needs_captions(cfg) else ():
        with contextlib.suppress(NoCaptions):
            files[dataset] = load_captions(cfg, dataset)
    return files
