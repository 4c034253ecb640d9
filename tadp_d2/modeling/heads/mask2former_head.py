"""Masks as queries: transformers' Mask2Former on the maps of any backbone."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from torch import Tensor, nn
from transformers import (
    AutoBackbone,
    AutoConfig,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import is_scipy_available

from tadp_d2.diffusion.model_folder import WEIGHTS, Format, find_folder, loading, or_shards
from tadp_d2.errors import UserError

_CHECKPOINT = Format(
    "Mask2Former",
    (("config.json",), or_shards(*WEIGHTS)),
    ("config.json", "model*.safetensors"),
    "MODEL.MASK_FORMER.WEIGHTS must name a Mask2Former folder in transformers' format or a hub id",
)
# What of a checkpoint depends on the backbone, or on the classes: it may have other shapes.
_OTHER_SHAPES = (
    "model.pixel_level_module.decoder.adapter_",
    "model.pixel_level_module.decoder.input_projections.",
    "class_predictor.",
    "criterion.empty_weight",
)
_ENCODER = "model.pixel_level_module.encoder."
# The levels of the deformable encoder; finer ones join the masks' features (section 3.2.1).
_DEFORMABLE = 3


class _LevelsConfig(PreTrainedConfig):
    model_type = "tadp_d2_levels"

    def __init__(self, channels: Sequence[int] = (), **options: Any):
        super().__init__(**options)
        self.channels = list(channels)


class _Levels(PreTrainedModel):
    """Stands where transformers expects a backbone, and returns how many channels its maps have.

    The maps go to the pixel decoder directly.
    """

    config_class = _LevelsConfig
    main_input_name = "pixel_values"

    def __init__(self, config: _LevelsConfig):
        super().__init__(config)
        self.channels = config.channels
        self.post_init()


AutoConfig.register(_LevelsConfig.model_type, _LevelsConfig)
AutoBackbone.register(_LevelsConfig, _Levels)


class _Config(Mask2FormerConfig):
    # Others get a warning.
    backbones_supported = (*Mask2FormerConfig.backbones_supported, _LevelsConfig.model_type)


class Queries(NamedTuple):
    """What the queries are after a layer of the decoder.

    Attributes:
        classes: B x Q x (K + 1), logits; the last is for no object.
        masks: B x Q x h x w, logits at the stride of the finest level.
    """

    classes: Tensor
    masks: Tensor


class Targets(NamedTuple):
    """The segments of an image.

    Attributes:
        classes: n, class indices.
        masks: n x H x W, 1 inside of a segment; H x W is that of the padded batch.
    """

    classes: Tensor
    masks: Tensor


class Mask2FormerHead(nn.Module):
    """Maps of four strides -> queries, each a mask with a class (Mask2Former, section 3).

    Pixel decoder, transformer decoder, matcher and loss are transformers', without compiled code.
    The finest level gives the masks their stride, the others go through deformable attention.
    It computes in fp32, also under autocast.
    """

    @configurable
    def __init__(
        self, input_shape: Mapping[str, ShapeSpec], *, options: Mapping[str, Any], weights: str = ""
    ):
        """
        Args:
            input_shape: level -> channels and stride; strides double from level to level.
            options: of transformers' `Mask2FormerConfig`.
            weights: folder or hub id of a Mask2Former that transformers has saved; what depends
                on its backbone or on other classes begins at random. Empty for all at random.

        Raises:
            UserError: scipy is missing, or the weights do not fit.
        """
        super().__init__()
        if not is_scipy_available():
            raise UserError("Mask2Former's matcher needs scipy: pip install scipy")
        self.levels = sorted(input_shape, key=lambda level: input_shape[level].stride)
        strides = [input_shape[level].stride for level in self.levels]
        if len(strides) != _DEFORMABLE + 1 or any(
            2 * fine != coarse for fine, coarse in zip(strides, strides[1:], strict=False)
        ):
            raise UserError(
                f"MODEL.MASK_FORMER.IN_FEATURES have the strides {strides}: expected four levels, "
                "each with twice the stride of the one before"
            )
        config = _Config(
            backbone_config=_LevelsConfig([input_shape[level].channels for level in self.levels]),
            feature_strides=strides,
            common_stride=strides[0],
            **options,
        )
        self.network = (
            _load(weights, config) if weights else Mask2FormerForUniversalSegmentation(config)
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        own = cfg.MODEL.MASK_FORMER
        return {
            "input_shape": {level: input_shape[level] for level in own.IN_FEATURES},
            "weights": own.WEIGHTS,
            "options": {
                "num_labels": own.NUM_CLASSES,
                "num_queries": own.QUERIES,
                "feature_size": own.WIDTH,
                "mask_feature_size": own.WIDTH,
                "hidden_dim": own.WIDTH,
                # The proportions of the paper, 1024 and 2048 for 256.
                "encoder_feedforward_dim": 4 * own.WIDTH,
                "dim_feedforward": 8 * own.WIDTH,
                "encoder_layers": own.ENCODER_LAYERS,
                # transformers counts the first prediction, before any layer.
                "decoder_layers": own.DECODER_LAYERS + 1,
                "train_num_points": own.POINTS,
                "class_weight": own.CLASS_WEIGHT,
                "mask_weight": own.MASK_WEIGHT,
                "dice_weight": own.DICE_WEIGHT,
                "no_object_weight": own.NO_OBJECT_WEIGHT,
            },
        }

    def forward(self, features: Mapping[str, Tensor]) -> list[Queries]:
        """
        Args:
            features: level -> B x C x H/stride x W/stride.

        Returns:
            The queries before the decoder, and after each of its layers.
        """
        maps = [features[level].float() for level in self.levels]
        with torch.autocast(maps[0].device.type, enabled=False):
            pixels = self.network.model.pixel_level_module.decoder(maps)
            decoded = self.network.model.transformer_module(
                pixels.multi_scale_features, pixels.mask_features
            )
            states = [
                self.network.class_predictor(state.transpose(0, 1))
                for state in decoded.intermediate_hidden_states
            ]
        pairs = zip(states, decoded.masks_queries_logits, strict=True)
        return [Queries(classes, masks) for classes, masks in pairs]

    def losses(self, queries: Sequence[Queries], targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Weighted losses of the queries that the matcher assigns to segments, and of the others.

        Masks are compared at points that are drawn at random, more where a mask is uncertain
        (section 3.3).

        Args:
            queries: as `forward` returns them.
            targets: B.
        """
        *earlier, last = queries
        with torch.autocast(last.masks.device.type, enabled=False):
            return self.network.get_loss_dict(
                masks_queries_logits=last.masks,
                class_queries_logits=last.classes,
                mask_labels=[target.masks.float() for target in targets],
                class_labels=[target.classes for target in targets],
                auxiliary_predictions=[
                    {"masks_queries_logits": layer.masks, "class_queries_logits": layer.classes}
                    for layer in earlier
                ],
            )


def _load(name: str, config: Mask2FormerConfig) -> Mask2FormerForUniversalSegmentation:
    folder = find_folder(_CHECKPOINT, name)
    with loading(folder):
        network, report = Mask2FormerForUniversalSegmentation.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    wrong = sorted(report["missing_keys"])
    wrong += sorted(key for key in report["unexpected_keys"] if not key.startswith(_ENCODER))
    wrong += sorted(
        key for key, *_ in report["mismatched_keys"] if not key.startswith(_OTHER_SHAPES)
    )
    if wrong:
        raise UserError(
            f"{folder}: its weights have no {wrong[0]} of the model's shape ({len(wrong)} such); "
            "MODEL.MASK_FORMER.QUERIES, WIDTH, ENCODER_LAYERS and DECODER_LAYERS must be those of "
            "the checkpoint"
        )
    return network
