"""Pre-trained image encoders of transformers: pixels -> maps. Detectron2 is not known here.

Networks of stages (Swin, ConvNeXt) have maps of several strides, Vision Transformers one. Their
classes are imported where they are needed, because every command imports this module.
"""

import json
import math
import os
from abc import abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import constants
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from tadp_d2.data.normalization import PREPROCESSORS, read_normalization
from tadp_d2.diffusion.model_folder import (
    WEIGHTS,
    Format,
    find_folder,
    find_here,
    loading,
    or_shards,
)
from tadp_d2.diffusion.model_part import check_complete
from tadp_d2.errors import UserError
from tadp_d2.frozen import fingerprint

IMAGE_NETWORK = Format(
    "pre-trained image encoder",
    (("config.json",), PREPROCESSORS, or_shards(*WEIGHTS)),
    ("config.json", *PREPROCESSORS, "model*.safetensors", "model.safetensors.index.json"),
    "MODEL.PRETRAINED.WEIGHTS must name a folder in transformers' format, with the config of its "
    "image processor, or a hub id",
)


class ImageNetwork(nn.Module):
    """A pre-trained image encoder.

    Attributes:
        strides: those of its maps, in pixels, the finest first.
        channels: of the maps that it returns, by stride.
        mean, std: of red, green and blue, of pixels from 0 to 255, with which it was trained.
        base_fingerprint: of its weights as they came.
        options: of its config, those that decide on its maps.
    """

    # Options of a config that have to do with files and versions.
    _NEUTRAL: ClassVar[frozenset[str]] = frozenset(
        ("_name_or_path", "architectures", "dtype", "id2label", "label2id", "transformers_version")
    )

    def __init__(self, config: PreTrainedConfig, folder: Path):
        super().__init__()
        self.config, self.folder = getattr(config, "vision_config", config), folder
        self.mean, self.std = read_normalization(folder)
        known = {k: v for k, v in self.config.to_dict().items() if k not in self._NEUTRAL}
        self.options = {**json.loads(json.dumps(known)), "mean": self.mean, "std": self.std}

    @property
    def strides(self) -> list[int]:
        # A patch covers as many pixels, once the image is resized for it.
        return [2 ** round(math.log2(self.config.patch_size))]

    @property
    def channels(self) -> dict[int, int]:
        return {self.strides[0]: self.config.hidden_size}

    @abstractmethod
    def load(self, strides: Collection[int]) -> None:
        """Loads the weights.

        Args:
            strides: of the maps that are to be returned, the coarsest among them.

        Raises:
            UserError: the files are damaged.
        """

    def forward(self, pixels: Tensor) -> dict[int, Tensor]:
        """
        Args:
            pixels: B x 3 x H x W, RGB, of mean 0 and deviation 1; H and W multiples of the largest
                stride.

        Returns:
            stride -> B x channels x H/stride x W/stride.
        """
        scale = self.config.patch_size / self.strides[0]
        if scale != 1:
            # So that patches of 14 pixels give a map of stride 16.
            size = [round(side * scale) for side in pixels.shape[-2:]]
            pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        return {self.strides[0]: self.encode(pixels)}

    def encode(self, pixels: Tensor) -> Tensor:
        """One map; H and W are multiples of the patch's size."""
        raise NotImplementedError

    def _backbone_class(self) -> type[PreTrainedModel]:
        """What `AutoBackbone` makes of the config; unlike it, without asking the network."""
        from transformers import MODEL_FOR_BACKBONE_MAPPING

        return MODEL_FOR_BACKBONE_MAPPING[type(self.config)]

    def _take(self, kind: Any, **options: Any) -> None:
        with loading(self.folder):
            model, report = kind.from_pretrained(
                self.folder, dtype=torch.float32, output_loading_info=True, **options
            )
        # Norms of single stages, which transformers adds for dense prediction, are new.
        missing = {key for key in report["missing_keys"] if "hidden_states_norms." not in key}
        check_complete(self.folder, {**report, "missing_keys": missing})
        self.base_fingerprint = fingerprint(model)
        for name, parameter in model.named_parameters():
            # Not computed here: without a gradient they would stop distributed training.
            if name.endswith("mask_token") or name.startswith("swin.layernorm."):
                parameter.requires_grad_(False)
        self.model: PreTrainedModel = model


class StageNetwork(ImageNetwork):
    """Swin, ConvNeXt: maps of strides 4, 8, 16 and 32."""

    @property
    def strides(self) -> list[int]:
        first = getattr(self.config, "patch_size", 4)
        return [first * 2**stage for stage in range(len(self.config.depths))]

    @property
    def channels(self) -> dict[int, int]:
        first = getattr(self.config, "embed_dim", None)
        stages = range(len(self.config.depths))
        widths = self.config.hidden_sizes if first is None else [first * 2**i for i in stages]
        return dict(zip(self.strides, widths, strict=True))

    def load(self, strides: Collection[int]) -> None:
        self.taken = [stride for stride in self.strides if stride in strides]
        stages = [f"stage{self.strides.index(stride) + 1}" for stride in self.taken]
        self._take(self._backbone_class(), out_features=stages)

    def forward(self, pixels: Tensor) -> dict[int, Tensor]:
        return dict(zip(self.taken, self.model(pixels).feature_maps, strict=True))


class BackboneTransformer(ImageNetwork):
    """Vision Transformers of which transformers has a backbone: DINOv2, DINOv3."""

    def load(self, strides: Collection[int]) -> None:
        self._take(self._backbone_class(), out_features=[f"stage{self.config.num_hidden_layers}"])
        for option in ("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale"):
            # Changes of the positions in DINOv3's own training, each time others.
            if hasattr(self.model.config, option):
                setattr(self.model.config, option, None)

    def encode(self, pixels: Tensor) -> Tensor:
        return self.model(pixels).feature_maps[-1]


class TokenTransformer(ImageNetwork):
    """Vision Transformers of which the last hidden state is taken: ViT, BLIP's image encoder."""

    def load(self, strides: Collection[int]) -> None:
        from transformers import BlipVisionModel, ViTModel

        if self.config.model_type == "vit":
            self._take(ViTModel, add_pooling_layer=False)
        else:
            # A model of image and text has the encoder under this name, a saved encoder has not.
            self._take(BlipVisionModel, key_mapping={r"^vision_model\.": ""})

    def encode(self, pixels: Tensor) -> Tensor:
        rows, columns = (side // self.config.patch_size for side in pixels.shape[-2:])
        tokens = self.model(pixels, interpolate_pos_encoding=True).last_hidden_state
        # The first is of the whole image.
        return tokens[:, 1:].transpose(1, 2).unflatten(-1, (rows, columns))


class SamEncoder(ImageNetwork):
    """The image encoder of Segment Anything, whose neck gives its map.

    It was trained on 1024 x 1024 pixels. For other sizes its positions are resized, as those of
    other Vision Transformers are.
    """

    @property
    def channels(self) -> dict[int, int]:
        return {self.strides[0]: self.config.output_channels}

    def load(self, strides: Collection[int]) -> None:
        from transformers import SamVisionModel

        self._take(SamVisionModel)

    def encode(self, pixels: Tensor) -> Tensor:
        encoder = self.model.vision_encoder
        # transformers' own forward pass refuses other sizes.
        hidden = encoder.patch_embed.projection(pixels).permute(0, 2, 3, 1)
        if encoder.pos_embed is not None:
            positions = encoder.pos_embed
            if positions.shape[1:3] != hidden.shape[1:3]:
                maps = positions.permute(0, 3, 1, 2)
                maps = F.interpolate(maps, hidden.shape[1:3], mode="bicubic", antialias=True)
                positions = maps.permute(0, 2, 3, 1)
            hidden = hidden + positions
        for layer in encoder.layers:
            hidden = layer(hidden)
        return encoder.neck(hidden)


# What a config calls its model -> the class that computes it.
KINDS: dict[str, type[ImageNetwork]] = {
    **dict.fromkeys(("dinov2", "dinov2_with_registers", "dinov3_vit"), BackboneTransformer),
    **dict.fromkeys(("swin", "convnext", "convnextv2", "dinov3_convnext"), StageNetwork),
    **dict.fromkeys(("vit", "blip"), TokenTransformer),
    "sam": SamEncoder,
}


def find_network(name: str) -> ImageNetwork:
    """Finds a pre-trained image encoder and reads its configs, and no weights yet.

    Args:
        name: a folder in transformers' format, or a hub id.

    Raises:
        UserError: there is none, it is of a kind that is not offered, or the config of its image
            processor is missing or wrong.
    """
    if not name:
        raise UserError(
            "MODEL.PRETRAINED.WEIGHTS is empty: expected the folder of a pre-trained image encoder "
            "in transformers' format, or a hub id"
        )
    folder = find_folder(IMAGE_NETWORK, name)
    with loading(folder / "config.json"):
        config = AutoConfig.from_pretrained(folder)
    if config.model_type not in KINDS:
        raise UserError(
            f"{folder / 'config.json'}: model_type is {config.model_type!r}; offered as a backbone "
            f"are {', '.join(KINDS)}"
        )
    return KINDS[config.model_type](config, folder)


def network_must_be_fetched(name: str) -> bool:
    """Whether `find_network` asks the hub for an encoder, because it is not here in full."""
    if not name or os.path.exists(name) or constants.HF_HUB_OFFLINE:
        return False
    folder = find_here(name)
    return folder is None or bool(IMAGE_NETWORK.missing(folder))
