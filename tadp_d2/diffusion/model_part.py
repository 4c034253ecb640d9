"""Loading one part of a model, and what its folder may hold.

Every option of its config is either computed as set, or changes no feature, or must have its
usual value; every weight has a place. What is not understood is an error: a part that is taken for
another gives features, too, and nobody sees that they are wrong.
"""

import inspect
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, SD3Transformer2DModel, UNet2DConditionModel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    GenerationConfig,
    T5Config,
    T5EncoderModel,
)

from tadp_d2.diffusion.model_folder import find_variant, loading
from tadp_d2.errors import UserError, reason

# What scripts that average weights note in a config.
_AVERAGING = ("decay", "min_decay", "inv_gamma", "power", "optimization_step")
_AVERAGING += ("update_after_step", "use_ema_warmup")


@dataclass(frozen=True)
class Part:
    """A kind of part of a Stable Diffusion model.

    Attributes:
        what: for messages.
        kind: the class that computes it.
        declared: what its `config.json` may call itself.
        computed: options whose value counts, whatever it is.
        indifferent: options that change no feature.
        allowed: option -> the values that it may have.
        usual: option -> its value where a config names none.
        model: that it is of, for messages.
    """

    what: str
    kind: type[nn.Module]
    declared: Collection[str]
    computed: Collection[str]
    indifferent: Collection[str]
    allowed: Mapping[str, Collection] = field(default_factory=dict)
    usual: Mapping[str, Any] = field(default_factory=dict)
    model: str = "Stable Diffusion 1.x or 2.x"

    def load(self, folder: Path) -> nn.Module:
        """Loads a folder in diffusers' or transformers' format, in fp32.

        Raises:
            UserError: the folder does not hold such a part, or more than is understood, or its
                files are damaged.
        """
        self.read_config(folder)
        _check_no_adapter(folder)
        with loading(folder):
            part, report = self.kind.from_pretrained(
                folder,
                dtype=torch.float32,
                variant=find_variant(folder),
                output_loading_info=True,
            )
        _check_weights(folder, self.what, report)
        return part

    def read_config(self, folder: Path) -> dict[str, Any]:
        """Option -> value, with those that have their usual value.

        Raises:
            UserError: it is damaged, of another kind of part, or asks for what is not computed.
        """
        path = folder / "config.json"
        try:
            config = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"{path}: cannot be read as JSON ({reason(error)}); replace it by an undamaged copy"
            ) from None
        if not isinstance(config, dict):
            raise UserError(f"{path}: expected a JSON object, the config of a {self.what}")
        declared = config.get("_class_name") or config.get("model_type")
        if declared not in (None, *self.declared):
            raise UserError(
                f"{path}: is of a {declared}; expected the {self.what} of a Stable Diffusion model "
                f"({' or '.join(self.declared)})"
            )
        # A config of all of CLIP.
        config = {**self.usual, **config.get("text_config", config)}
        self.check_config(config, str(path))
        return config

    def check_config(self, config: Mapping[str, Any], where: str) -> None:
        """
        Args:
            config: option -> value, with those that have their usual value.
            where: its file, for messages.

        Raises:
            UserError: an option has a value that is not computed here.
        """
        problems = []
        for option, values in self.allowed.items():
            found = config[option] if isinstance(config[option], list | tuple) else [config[option]]
            if not set(map(str, found)) <= set(map(str, values)):
                problems.append(_told(option, config[option], values))
        known = {*self.computed, *self.indifferent, *self.allowed}
        for option, value in config.items():
            usual = self.usual.get(option)
            # What a newer version knows, switched off, is no option that is asked for.
            if option in known or option.startswith("_") or value == usual or not (value or usual):
                continue
            problems.append(_told(option, value, [usual]))
        if problems:
            raise UserError(
                f"{where}: {'; '.join(problems)}. Others are not computed here, and the features "
                f"would be wrong: use the {self.what} of a {self.model} model"
            )

    def without_weights(self, config: Mapping[str, Any]) -> nn.Module:
        """The part that a config describes, on torch's meta device."""
        with torch.device("meta"):
            if hasattr(self.kind, "from_config"):
                return self.kind.from_config(dict(config))
            return self.kind(self.kind.config_class(**config))

    def options(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The options that count of a loaded part's config, in one form."""
        return {key: _plain(config[key]) for key in sorted({*self.computed, *self.allowed})}


def _told(option: str, value: Any, expected: Collection) -> str:
    told = " or ".join(json.dumps(known, default=str) for known in expected)
    return f"{option} is {json.dumps(value, default=str)}, expected {told}"


def _plain(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return value
    values = [_plain(item) for item in value]
    # diffusers takes a single value for one per level.
    return values[0] if values and all(item == values[0] for item in values) else values


def _usual(kind: type[nn.Module]) -> dict[str, Any]:
    parameters = inspect.signature(kind.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


UNET = Part(
    "UNet",
    UNet2DConditionModel,
    declared=("UNet2DConditionModel",),
    computed=(
        *("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim"),
        *("attention_head_dim", "transformer_layers_per_block", "use_linear_projection"),
        *("upcast_attention", "act_fn", "norm_num_groups", "norm_eps", "dropout"),
        *("downsample_padding", "mid_block_scale_factor", "resnet_out_scale_factor"),
        *("resnet_time_scale_shift", "flip_sin_to_cos", "freq_shift", "time_embedding_dim"),
        *("timestep_post_act", "time_cond_proj_dim", "conv_in_kernel"),
    ),
    indifferent=(
        *("sample_size", "out_channels", "conv_out_kernel", "addition_embed_type_num_heads"),
        *_AVERAGING,
    ),
    allowed={
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "mid_block_type": ("UNetMidBlock2DCrossAttn", None),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    },
    usual=_usual(UNet2DConditionModel),
)
VAE = Part(
    "VAE",
    AutoencoderKL,
    declared=("AutoencoderKL",),
    computed=(
        *("block_out_channels", "layers_per_block", "act_fn", "latent_channels"),
        *("norm_num_groups", "scaling_factor", "use_quant_conv", "mid_block_add_attention"),
    ),
    indifferent=(
        *("out_channels", "up_block_types", "sample_size", "force_upcast", "use_post_quant_conv"),
        *_AVERAGING,
    ),
    allowed={
        "in_channels": (3,),
        "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    },
    usual=_usual(AutoencoderKL),
)
TINY_VAE = Part(
    "small autoencoder",
    AutoencoderTiny,
    declared=("AutoencoderTiny",),
    computed=(
        *("encoder_block_out_channels", "num_encoder_blocks", "act_fn", "latent_channels"),
        "scaling_factor",
    ),
    indifferent=(
        *("out_channels", "decoder_block_out_channels", "num_decoder_blocks", "upsample_fn"),
        *("upsampling_scaling_factor", "latent_magnitude", "latent_shift", "force_upcast"),
        "block_out_channels",
    ),
    allowed={"in_channels": (3,)},
    usual=_usual(AutoencoderTiny),
)
TEXT_ENCODER = Part(
    "text encoder",
    CLIPTextModel,
    declared=("clip_text_model", "clip"),
    computed=(
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "max_position_embeddings", "hidden_act", "layer_norm_eps"),
    ),
    indifferent=(
        *("projection_dim", "attention_dropout", "dropout", "initializer_factor"),
        *("initializer_range", "bos_token_id", "eos_token_id", "pad_token_id"),
        *("architectures", "model_type", "dtype", "torch_dtype", "transformers_version"),
        *("output_hidden_states", "output_attentions", "gradient_checkpointing"),
        *GenerationConfig().to_dict(),
    ),
    usual=CLIPTextConfig().to_dict(),
)
_XL = "Stable Diffusion XL"
_3 = "Stable Diffusion 3"
TRANSFORMER_3 = Part(
    "transformer",
    SD3Transformer2DModel,
    declared=("SD3Transformer2DModel",),
    computed=(
        *("sample_size", "patch_size", "in_channels", "num_layers", "attention_head_dim"),
        *("num_attention_heads", "joint_attention_dim", "caption_projection_dim"),
        *("pooled_projection_dim", "pos_embed_max_size", "dual_attention_layers", "qk_norm"),
    ),
    indifferent=("out_channels", *_AVERAGING),
    usual=_usual(SD3Transformer2DModel),
    model=_3,
)
VAE_3 = replace(VAE, computed=(*VAE.computed, "shift_factor"), model=_3)
T5_ENCODER = Part(
    "third text encoder",
    T5EncoderModel,
    declared=("t5",),
    computed=(
        *("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"),
        *("relative_attention_num_buckets", "relative_attention_max_distance"),
        *("layer_norm_epsilon", "feed_forward_proj", "dense_act_fn", "is_gated_act"),
    ),
    indifferent=(
        *TEXT_ENCODER.indifferent,
        *("dropout_rate", "classifier_dropout", "num_decoder_layers", "decoder_start_token_id"),
        *("is_decoder", "is_encoder_decoder", "use_cache", "tie_word_embeddings", "n_positions"),
        *("output_past", "task_specific_params", "scale_decoder_outputs"),
    ),
    usual=T5Config().to_dict(),
    model=_3,
)
UNET_XL = replace(
    UNET,
    computed=(
        *UNET.computed,
        *("addition_time_embed_dim", "projection_class_embeddings_input_dim"),
    ),
    allowed={**UNET.allowed, "addition_embed_type": ("text_time",)},
    model=_XL,
)
# Its pooled embedding is the projected one of the token that the config takes for the end.
PROJECTED_TEXT_ENCODER = replace(
    TEXT_ENCODER,
    kind=CLIPTextModelWithProjection,
    computed=(*TEXT_ENCODER.computed, "projection_dim", "eos_token_id"),
    model=_XL,
)


def _check_no_adapter(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if re.match("adapter_(config|model)|pytorch_lora_weights", path.name):
            raise UserError(f"{path}: {_ADAPTER}")


_ADAPTER = (
    "an adapter (LoRA) beside the weights is not applied: move it elsewhere and name it in "
    "MODEL.DIFFUSION.LORA_FILE, or merge it in diffusers "
    "(load_lora_weights, fuse_lora, unload_lora_weights) and save the merged part, or take it away"
)
# What the names of weights reveal, of those that have no place.
_FOREIGN = {
    r"lora|adapter|processor\.": _ADAPTER,
    r"\.base_layer\.": "PEFT's layers around the weights: merge the adapter (merge_and_unload) and "
    "save the merged part",
    r"^module\.": "saved from within DataParallel: save `model.module` instead",
    r"^_orig_mod\.": "saved from within torch.compile: save the model itself instead",
}
# What is saved with a text encoder and is not computed: the other half of CLIP.
_OTHER_HALF = re.compile(
    r"(vision_model|visual_projection|text_projection|logit_scale)(\.|$)|.*\bposition_ids$"
)


def _check_weights(folder: Path, what: str, report: Mapping[str, Any]) -> None:
    """
    Args:
        report: what `from_pretrained` of diffusers and transformers reports of a model with
            `output_loading_info=True`. They only warn of what has no place.

    Raises:
        UserError: weights are missing, or too many, or have other shapes than the model's.
    """
    unexpected = sorted(key for key in report["unexpected_keys"] if not _OTHER_HALF.match(key))
    for form, advice in _FOREIGN.items():
        found = [key for key in unexpected if re.search(form, key)]
        if found:
            raise UserError(f"{folder}: its weights hold {found[0]} ({len(found)} such): {advice}")
    check_complete(folder, report)
    if unexpected:
        raise UserError(
            f"{folder}: its weights hold {unexpected[0]} ({len(unexpected)} such), for which a "
            f"{what} of its config has no place: use weights and config of one model"
        )


def check_complete(folder: Path, report: Mapping[str, Any]) -> None:
    """
    Args:
        report: as for `output_loading_info=True`. What is missing would be made up at random.

    Raises:
        UserError: weights are missing, or have other shapes than the model's.
    """
    wrong = sorted(str(key) for key in report["missing_keys"])
    wrong += sorted(str(mismatch[0]) for mismatch in report["mismatched_keys"])
    if wrong:
        raise UserError(
            f"{folder}: its weights lack {wrong[0]} ({len(wrong)} such), or have it in another "
            "shape; replace it by an undamaged copy"
        )
