"""CLIP's image encoder, frozen: what a conditioner reads of an image."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from tadp_d2.data.normalization import PREPROCESSORS, read_normalization
from tadp_d2.diffusion.model_folder import WEIGHTS, Format, find_folder, loading, or_shards
from tadp_d2.diffusion.model_part import check_complete
from tadp_d2.errors import UserError
from tadp_d2.frozen import Frozen, fingerprint

_logger = logging.getLogger(__name__)

IMAGE_ENCODER = Format(
    "CLIP image encoder",
    (("config.json",), or_shards(*WEIGHTS)),
    ("config.json", *PREPROCESSORS, "model*.safetensors"),
    "MODEL.CONDITIONER.IMAGE_ENCODER must name a CLIP folder in transformers' format or a hub id",
)
# What the config of such a folder may call itself.
_KINDS = ("clip", "clip_vision_model")
# Of its config, what the shapes of its weights do not tell.
_OPTIONS = ("num_attention_heads", "hidden_act", "layer_norm_eps", "image_size")


class EncodedImages(NamedTuple):
    """What the encoder makes of images.

    Attributes:
        embedding: B x P, of the image, projected and not normalized.
        patches: B x n x W, the last hidden states of the patches.
    """

    embedding: Tensor
    patches: Tensor


class ImageEncoder(nn.Module):
    """Images of an input -> CLIP's embedding and patches.

    Attributes:
        provenance: fingerprint of its weights, and what of its config decides on its numbers.

    An image is squeezed to the encoder's square, so that all of it is seen; CLIP's own processing
    would cut the ends of the longer side off.
    """

    def __init__(
        self,
        model: CLIPVisionModelWithProjection,
        channels: str = "RGB",
        mean: Sequence[float] = OPENAI_CLIP_MEAN,
        std: Sequence[float] = OPENAI_CLIP_STD,
    ):
        """
        Args:
            channels: order of the channels of the images that come, "RGB" or "BGR".
            mean, std: of red, green and blue, of pixels from 0 to 1, with which it was trained.
        """
        super().__init__()
        config = model.config
        normalization = [[round(value, 6) for value in own] for own in (mean, std)]
        self.provenance = {
            "image_encoder": fingerprint(model),
            "image_encoder_options": {
                **{option: getattr(config, option) for option in _OPTIONS},
                "normalization": normalization,
            },
        }
        self.size = config.image_size
        self.embedding_width = config.projection_dim
        self.patch_width = config.hidden_size
        self._backwards = channels == "BGR"
        self.model = Frozen(model)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "ImageEncoder":
        """
        Raises:
            UserError: there is no such encoder, or its files are damaged.
        """
        folder = find_folder(IMAGE_ENCODER, cfg.MODEL.CONDITIONER.IMAGE_ENCODER)
        with loading(folder):
            kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        if kind not in _KINDS:
            raise UserError(
                f"{folder}/config.json: is of a {kind}, and not of CLIP; {IMAGE_ENCODER.advice}"
            )
        with loading(folder):
            model, report = CLIPVisionModelWithProjection.from_pretrained(
                folder,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report
            )
        check_complete(folder, report)
        return cls(model, cfg.INPUT.FORMAT, *_read_normalization(folder))

    def forward(self, inputs: Sequence[Mapping[str, Any]]) -> EncodedImages:
        """
        Args:
            inputs: B, each with "image", 3 x H x W of 0 to 255, of any size.
        """
        squares = torch.cat([self._square(own["image"]) for own in inputs])
        output = self.model(squares)
        # The first of the hidden states is of the whole image.
        return EncodedImages(output.image_embeds, output.last_hidden_state[:, 1:])

    def _square(self, image: Tensor) -> Tensor:
        image = image.to(self.mean.device).float()
        image = image.flip(0) if self._backwards else image
        size = (self.size, self.size)
        resized = F.interpolate(image[None], size, mode="bicubic", antialias=True)
        return (resized.clamp(0, 255) / 255 - self.mean) / self.std


def _read_normalization(folder: Path) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of pixels from 0 to 1.

    Raises:
        UserError: the config of the image processor does not tell.
    """
    if not any((folder / name).is_file() for name in PREPROCESSORS):
        _logger.warning(
            f"{folder}: there is no {PREPROCESSORS[0]}; its images are normalized as those of "
            "OpenAI's CLIP"
        )
        return OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    mean, std = read_normalization(folder)
    return [value / 255 for value in mean], [value / 255 for value in std]
