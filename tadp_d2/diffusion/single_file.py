"""Checkpoints of one file, as Stable Diffusion was published, converted once by diffusers.

The sizes of a model are read from the shapes of its weights. What no shape tells is that of its
family: Stable Diffusion 1.x has 8 heads in each layer and CLIP's own text encoder, 2.x has heads of
64 channels and OpenCLIP's, read after its last layer but one.
"""

import hashlib
import importlib.util
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from torch import Tensor, nn

from tadp_d2.diffusion.clip_tokenizer import load_tokenizer
from tadp_d2.diffusion.model_folder import Format, find_folder, loading
from tadp_d2.diffusion.stable_diffusion import StableDiffusion, noise_schedule
from tadp_d2.errors import UserError, reason
from tadp_d2.files import new_folder, sha256
from tadp_d2.remembered import Remembered, cache_folder

_logger = logging.getLogger(__name__)
# Of the way of converting: another one converts anew.
_VERSION = 1
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_CLIP, _OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
# Names of weights of other models -> what they are.
_OTHERS = {
    r"conditioner\.embedders\.": "Stable Diffusion XL",
    r"(model\.diffusion_model\.)?joint_blocks\.": "Stable Diffusion 3",
    r"(model\.diffusion_model\.)?double_blocks\.": "FLUX",
    r"lora_|.*\.lora": "a LoRA, which MODEL.DIFFUSION.LORA_FILE names",
    r"control_model\.": "a ControlNet",
    r"(encoder|decoder)\.conv_in\.": "a VAE alone",
    r"(down_blocks|conv_in|time_embedding)\.": "a UNet alone in diffusers' format, whose folder "
    "MODEL.DIFFUSION.UNET names",
}
# CLIP's vocabulary, which no such file holds. Stable Diffusion 2.x pads with its first token.
_VOCABULARY = Format(
    "tokenizer of CLIP",
    (("vocab.json",), ("merges.txt",)),
    ("vocab.json", "merges.txt"),
    "A checkpoint of one file has no tokenizer: put the folder tokenizer/ of a Stable Diffusion "
    "model beside it",
)
_VOCABULARY_NAME = "openai/clip-vit-large-patch14"
_PADDING = {"1": "<|endoftext|>", "2": "!"}
_PREDICTIONS = {
    **dict.fromkeys(("eps", "epsilon"), "epsilon"),
    **dict.fromkeys(("v", "v_prediction"), "v_prediction"),
}


def convert_file(file: Path) -> Path:
    """The folder in diffusers' format of a checkpoint of one file.

    It is made once, in the cache, and found there by the bytes of the file. What stands beside the
    file counts as well: `tokenizer/`, and `<name>.yaml` as for other programs, of which only
    `model.params.parameterization` is read (eps or v).

    Raises:
        UserError: the file is none of Stable Diffusion 1.x or 2.x, or damaged, or is not read
            safely.
    """
    if file.suffix not in SUFFIXES:
        raise UserError(
            f"{file}: expected the folder of a diffusion model, or a checkpoint whose name ends in "
            f"{', '.join(SUFFIXES)}"
        )
    with Remembered(file.parent, "sha256") as kept:
        digest = kept.get(file, sha256)
    tokenizer = file.parent / "tokenizer"
    vocabulary = sorted(tokenizer.iterdir()) if tokenizer.is_dir() else []
    told = _told_prediction(file)
    key = [_VERSION, digest, {part.name: sha256(part) for part in vocabulary}, told]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    folder = cache_folder() / "models" / name
    if not folder.is_dir():
        try:
            _convert(file, folder, tokenizer if vocabulary else None, told)
        except UserError:
            # Another process may have been faster.
            if not folder.is_dir():
                raise
    return folder


def _convert(file: Path, folder: Path, tokenizer: Path | None, told: str) -> None:
    # Here, because the pipeline's many parts are imported with it.
    from diffusers import StableDiffusionPipeline

    shapes, halves, stated = _read_shapes(file)
    family, configs = _configs(file, shapes)
    if importlib.util.find_spec("accelerate") is None:
        # Without it diffusers fills what a file lacks with random numbers.
        raise UserError(f"{file}: to convert it takes a package: pip install accelerate")
    if tokenizer is None:
        tokenizer = find_folder(_VOCABULARY, _VOCABULARY_NAME)
    prediction = told or stated or ("epsilon" if family == "1" else "")
    _logger.info(f"{file}: converting to {folder}, once")
    with new_folder(folder) as temporary:
        for part, config in configs.items():
            (temporary / part).mkdir()
            (temporary / part / "config.json").write_text(json.dumps(config), "utf-8")
        _copy_tokenizer(tokenizer, temporary / "tokenizer", _PADDING[family])
        try:
            StableDiffusion(temporary).check()
        except UserError as error:
            raise UserError(str(error).replace(str(temporary), str(file))) from None
        scheduler = noise_schedule(prediction or "epsilon")
        index = StableDiffusionPipeline.config_name
        (temporary / index).write_text(json.dumps(_INDEX), "utf-8")
        with loading(file):
            pipeline = StableDiffusionPipeline.from_single_file(
                str(file),
                config=str(temporary),
                local_files_only=True,
                torch_dtype=torch.float16 if halves else torch.float32,
                # Where a file has both, as those that diffusers' own folders were made from.
                extract_ema=True,
                tokenizer=load_tokenizer(temporary),
                scheduler=scheduler,
            )
        for name in configs:
            part = getattr(pipeline, name)
            _check_complete(file, part)
            part.save_pretrained(temporary / name)
        # To teach it one must know; its features do not depend on it.
        if prediction:
            scheduler.save_pretrained(temporary / "scheduler")


_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def _check_complete(file: Path, part: nn.Module) -> None:
    """
    Raises:
        UserError: weights are missing.
    """
    missing = [name for name, tensor in part.named_parameters() if tensor.is_meta]
    if missing:
        raise UserError(
            f"{file}: lacks {missing[0]} ({len(missing)} such) of its {type(part).__name__}; "
            "replace it by an undamaged copy"
        )


def _copy_tokenizer(source: Path, target: Path, padding: str) -> None:
    target.mkdir()
    for path in source.iterdir():
        # Where all of CLIP lies, its vocabulary only.
        if source.name == "tokenizer" or path.name in ("vocab.json", "merges.txt"):
            shutil.copyfile(path, target / path.name)
    config = target / "tokenizer_config.json"
    if not config.is_file():
        options = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": 77,
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "pad_token": padding,
        }
        config.write_text(json.dumps(options), "utf-8")


def _told_prediction(file: Path) -> str:
    """What the file beside it tells of its prediction; empty without one.

    Raises:
        UserError: it is damaged.
    """
    path = file.with_suffix(".yaml")
    if not path.is_file():
        return ""
    try:
        told = yaml.safe_load(path.read_text("utf-8"))["model"]["params"]
        return _PREDICTIONS[told.get("parameterization", "eps")]
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: expected the config of {file.name}, whose model.params.parameterization is "
            f"eps or v ({reason(error)})"
        ) from None


def _read_shapes(file: Path) -> tuple[dict[str, Sequence[int]], bool, str]:
    """Weight -> shape; whether all are of half precision; what the file states to predict.

    Raises:
        UserError: it cannot be read safely, or holds no weights.
    """
    stated = ""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as content:
                slices = {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118, no dict
                shapes = {name: part.get_shape() for name, part in slices.items()}
                types = {part.get_dtype() for part in slices.values()}
                halves = "F16" in types and not types & {"F64", "F32", "BF16"}
                metadata = content.metadata() or {}
            stated = _PREDICTIONS.get(metadata.get("modelspec.prediction_type", ""), "")
        else:
            weights = torch.load(file, map_location="meta", weights_only=True)
            while "state_dict" in weights:
                weights = weights["state_dict"]
            weights = {n: part for n, part in weights.items() if isinstance(part, Tensor)}
            shapes = {name: tuple(part.shape) for name, part in weights.items()}
            types = {part.dtype for part in weights.values() if part.is_floating_point()}
            halves = types == {torch.float16}
    except Exception as error:  # the two readers raise many kinds for a damaged file
        advice = "" if file.suffix == ".safetensors" else ", best one in .safetensors"
        raise UserError(
            f"{file}: cannot be read as a checkpoint ({reason(error)}); replace it by an undamaged "
            f"copy{advice}"
        ) from None
    return shapes, halves, stated


def _configs(file: Path, shapes: Mapping[str, Sequence[int]]) -> tuple[str, dict[str, Any]]:
    """The family, "1" or "2", and part -> config.

    Raises:
        UserError: the file is of another model, or lacks a part.
    """
    for form, what in _OTHERS.items():
        found = next((name for name in shapes if re.match(form, name)), None)
        if found:
            raise UserError(
                f"{file}: holds {found!r}, of {what}; expected a checkpoint of Stable Diffusion "
                "1.x or 2.x. A model of another family is read from its folder in diffusers' format"
            )
    parts = {_UNET: "UNet", _VAE: "VAE"}
    absent = [
        what for prefix, what in parts.items() if not any(n.startswith(prefix) for n in shapes)
    ]
    family = "1" if any(n.startswith(_CLIP) for n in shapes) else "2"
    if family == "2" and not any(n.startswith(_OPEN_CLIP) for n in shapes):
        absent.append("text encoder")
    if absent:
        raise UserError(
            f"{file}: has no {' and no '.join(absent)} of Stable Diffusion 1.x or 2.x: expected a "
            f"checkpoint of the whole model, with {_UNET}..., {_VAE}... and cond_stage_model...."
        )
    make_text = _clip_config if family == "1" else _open_clip_config
    try:
        return family, {
            "unet": _unet_config(_below(shapes, _UNET), family),
            "vae": _vae_config(_below(shapes, _VAE)),
            "text_encoder": make_text(_below(shapes, _CLIP if family == "1" else _OPEN_CLIP)),
        }
    except (KeyError, IndexError, StopIteration) as error:
        raise UserError(
            f"{file}: lacks a weight of Stable Diffusion 1.x or 2.x ({reason(error)}); replace it "
            "by an undamaged copy"
        ) from None


def _below(shapes: Mapping[str, Sequence[int]], prefix: str) -> dict[str, Sequence[int]]:
    return {n.removeprefix(prefix): shape for n, shape in shapes.items() if n.startswith(prefix)}


def _count(shapes: Mapping[str, Any], form: str) -> int:
    """How many numbers stand in the place of a group in names of a form."""
    found = (re.match(form, name) for name in shapes)
    return len({match[1] for match in found if match})


def _unet_config(shapes: Mapping[str, Sequence[int]], family: str) -> dict[str, Any]:
    widths: list[int] = []
    attends: list[bool] = []
    layers: list[int] = []
    new_level = True
    for block in range(1, _count(shapes, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{block}.0.op.weight" in shapes:
            new_level = True
            continue
        if new_level:
            widths.append(shapes[f"input_blocks.{block}.0.in_layers.2.weight"][0])
            attends.append(f"input_blocks.{block}.1.norm.weight" in shapes)
            layers.append(0)
        layers[-1] += 1
        new_level = False
    attention = next(n for n in shapes if n.endswith("transformer_blocks.0.attn2.to_k.weight"))
    start = attention.removesuffix("transformer_blocks.0.attn2.to_k.weight")
    config = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": layers[0] if len(set(layers)) == 1 else layers,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]],
        "cross_attention_dim": shapes[attention][1],
        "transformer_layers_per_block": _count(
            shapes, re.escape(start) + r"transformer_blocks\.(\d+)\."
        ),
        "use_linear_projection": len(shapes[f"{start}proj_in.weight"]) == 2,
        "attention_head_dim": 8 if family == "1" else [width // 64 for width in widths],
    }
    if "label_emb.0.0.weight" in shapes:
        config["class_embed_type"] = "projection"
    if not any(name.startswith("middle_block.") for name in shapes):
        config["mid_block_type"] = None
    return config


def _vae_config(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    levels = _count(shapes, r"encoder\.down\.(\d+)\.")
    widths = [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)]
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": _count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "scaling_factor": 0.18215,
    }


def _clip_config(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    layers = _count(shapes, r"encoder\.layers\.(\d+)\.")
    return _text_config(
        shapes["embeddings.token_embedding.weight"],
        shapes["embeddings.position_embedding.weight"],
        shapes["encoder.layers.0.mlp.fc1.weight"],
        {"num_hidden_layers": layers, "hidden_act": "quick_gelu"},
    )


def _open_clip_config(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    layers = _count(shapes, r"transformer\.resblocks\.(\d+)\.")
    return _text_config(
        shapes["token_embedding.weight"],
        shapes["positional_embedding"],
        shapes["transformer.resblocks.0.mlp.c_fc.weight"],
        {"num_hidden_layers": layers - 1, "hidden_act": "gelu"},
    )


def _text_config(
    tokens: Sequence[int], positions: Sequence[int], inner: Sequence[int], own: dict[str, Any]
) -> dict[str, Any]:
    return {
        "model_type": "clip_text_model",
        "architectures": ["CLIPTextModel"],
        "vocab_size": tokens[0],
        "hidden_size": tokens[1],
        "max_position_embeddings": positions[0],
        "intermediate_size": inner[0],
        "num_attention_heads": tokens[1] // 64,
        **own,
    }
