"""Tiny pre-trained image encoders, made by transformers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

_VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
_STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}


_DINOV2 = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "image_size": 56,
    "patch_size": 14,
}


def _dinov2() -> transformers.PreTrainedModel:
    return transformers.Dinov2Model(transformers.Dinov2Config(**_DINOV2))


def _dinov2_with_registers() -> transformers.PreTrainedModel:
    config = transformers.Dinov2WithRegistersConfig(**_DINOV2, num_register_tokens=3)
    return transformers.Dinov2WithRegistersModel(config)


def _dinov3() -> transformers.PreTrainedModel:
    config = transformers.DINOv3ViTConfig(**_VIT, num_register_tokens=2)
    return transformers.DINOv3ViTModel(config)


def _swin() -> transformers.PreTrainedModel:
    own = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2}
    return transformers.SwinForImageClassification(transformers.SwinConfig(image_size=64, **own))


def _convnext() -> transformers.PreTrainedModel:
    return transformers.ConvNextForImageClassification(transformers.ConvNextConfig(**_STAGES))


def _convnextv2() -> transformers.PreTrainedModel:
    config = transformers.ConvNextV2Config(**_STAGES)
    return transformers.ConvNextV2ForImageClassification(config)


def _dinov3_convnext() -> transformers.PreTrainedModel:
    return transformers.DINOv3ConvNextModel(transformers.DINOv3ConvNextConfig(**_STAGES))


def _vit() -> transformers.PreTrainedModel:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**_VIT, image_size=32))


def _sam() -> transformers.PreTrainedModel:
    vision = transformers.SamVisionConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2.0,
        image_size=64,
        output_channels=8,
        window_size=2,
        global_attn_indexes=[1],
    )
    decoder = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "mlp_dim": 8}
    config = transformers.SamConfig(
        vision_config=vision,
        mask_decoder_config=decoder | {"iou_head_hidden_dim": 8},
        prompt_encoder_config={"hidden_size": 8, "image_size": 64},
    )
    return transformers.SamModel(config)


def _blip() -> transformers.PreTrainedModel:
    text = {"vocab_size": 50, "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 16}
    text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "bos_token_id": 1}
    config = transformers.BlipConfig(
        vision_config=_VIT | {"image_size": 32},
        text_config=text | {"eos_token_id": 2, "pad_token_id": 0, "sep_token_id": 3},
    )
    return transformers.BlipForConditionalGeneration(config)


NETWORKS: dict[str, Callable[[], transformers.PreTrainedModel]] = {
    "dinov2": _dinov2,
    "dinov2_with_registers": _dinov2_with_registers,
    "dinov3": _dinov3,
    "swin": _swin,
    "convnext": _convnext,
    "convnextv2": _convnextv2,
    "dinov3_convnext": _dinov3_convnext,
    "vit": _vit,
    "sam": _sam,
    "blip": _blip,
}


@pytest.fixture(scope="session")
def network_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """network_folder("dinov2") is a folder as transformers saves it, of random weights."""
    folders: dict[str, Path] = {}

    def find(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = folder = tmp_path_factory.mktemp(kind)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                NETWORKS[kind]().save_pretrained(folder)
            normalization = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.5]}
            text = json.dumps(normalization | {"rescale_factor": 1 / 255})
            (folder / "preprocessor_config.json").write_text(text)
        return folders[kind]

    return find
