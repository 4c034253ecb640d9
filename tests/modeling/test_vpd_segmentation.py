"""VPD's segmentor of Detectron2's parts: the golden file, from class embeddings to logits."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from torch.nn import functional as F

from tadp_d2.conditioning.text_adapter import TextAdapter
from tadp_d2.diffusion.diffusion_model import Context, MapOptions
from tadp_d2.diffusion.unet_features import UNetFeatures
from tadp_d2.errors import UserError

FOLDER = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parents[1] / "golden")
GOLDEN = FOLDER / "vpd_segmentation_features.safetensors"
LEVELS = ("s3", "s4", "s5", "s6")
STRIDES = dict(zip(LEVELS, (8, 16, 32, 64), strict=True))


@pytest.fixture(scope="module")
def golden():
    with safe_open(GOLDEN, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def weights(tensors, prefix):
    found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return {k: v.float() if v.is_floating_point() else v for k, v in found.items()}


def make_features(golden, **options):
    tensors, metadata = golden
    unet = UNet2DConditionModel(**json.loads(metadata["unet_config"]))
    unet.load_state_dict(weights(tensors, "unet."))
    maps = MapOptions(tokens=len(tensors["class_embeddings"]), **options)
    return UNetFeatures(unet, maps=maps)


def make_adapter(golden):
    tensors, _ = golden
    adapter = TextAdapter(None, tensors["class_embeddings"].shape[1])
    adapter.mlp.load_state_dict(weights(tensors, "adapter.fc."))
    with torch.no_grad():
        adapter.gamma.copy_(tensors["gamma"])
    return adapter


def run(features, golden, embeddings):
    latents = golden[0]["latents"]
    context = Context(embeddings.expand(len(latents), -1, -1))
    return features(latents, context, float(golden[1]["timestep"]))


def close(found, expected, tolerance=1e-4):
    assert found.shape == expected.shape
    error = ((found - expected).abs() / (1 + expected.abs())).max()
    assert error < tolerance, error


@torch.no_grad()
def test_the_adapters_context_and_the_features(golden):
    tensors, _ = golden
    adapted = make_adapter(golden).adapt(tensors["class_embeddings"])
    close(adapted, tensors["context"], 2e-6)
    outputs = run(make_features(golden), golden, adapted)
    for level, stride in STRIDES.items():
        close(outputs[level], tensors[f"features.stride{stride}"])


@pytest.mark.parametrize(
    "name, options",
    [
        ("default", {}),
        ("up_cross", {"paths": ("up",)}),
        ("down_cross", {"paths": ("down",)}),
        # VPD's A64: max_attn_size is the latent's side.
        ("max_attn_size_full", {"levels": ("s3", "s4", "s5")}),
        ("tadp_self.group0", {}),
    ],
)
@torch.no_grad()
def test_the_maps_of_every_selector(golden, name, options):
    tensors, _ = golden
    outputs = run(make_features(golden, **options), golden, tensors["context"])
    number = len(tensors["context"])
    for level, stride in STRIDES.items():
        expected = tensors.get(f"maps.{name}.stride{stride}")
        features = tensors[f"features.stride{stride}"]
        if expected is not None:
            close(outputs[level][:, -number:], expected)
        # The features before the maps are those of every setting.
        plain = outputs[level].shape[1] - (number if expected is not None else 0)
        close(outputs[level][:, :plain], features[:, :plain])


@torch.no_grad()
def test_the_self_attention_maps_follow_the_others(golden):
    tensors, _ = golden
    size = tuple(8 * n for n in tensors["latents"].shape[-2:])
    features = make_features(golden, self_attention=size)
    outputs = run(features, golden, tensors["context"])
    for level, stride in STRIDES.items():
        plain = tensors[f"features.stride{stride}"]
        assert outputs[level].shape[1] == features.channels[level]
        close(outputs[level][:, : plain.shape[1]], plain)
        if f"maps.tadp_self.group1.stride{stride}" in tensors:
            maps = outputs[level][:, plain.shape[1] :]
            close(maps, tensors[f"maps.tadp_self.group1.stride{stride}"])
            # Each position's attention to all positions sums to one.
            close(maps.sum(1), torch.ones_like(maps[:, 0]))


def test_self_attention_maps_are_for_one_size(golden):
    latents = golden[0]["latents"]
    features = make_features(golden, self_attention=(8 * latents.shape[-2], 8 * 64))
    with pytest.raises(
        UserError, match=r"came to the UNet, whose self-attention maps are for \d+ x 512"
    ):
        run(features, golden, golden[0]["context"])


def test_gradients_through_the_adapter(golden):
    tensors, _ = golden
    adapter = make_adapter(golden)
    adapted = adapter.adapt(tensors["class_embeddings"])
    outputs = run(make_features(golden, gradient=False), golden, adapted)
    loss = sum(out.square().mean() for out in outputs.values())
    loss.backward()
    close(loss.detach().reshape(1), tensors["grad.loss"], 2e-6)
    for name, found in (
        ("gamma", adapter.gamma.grad),
        ("adapter.fc.0.weight", adapter.mlp[0].weight.grad),
        ("adapter.fc.2.bias", adapter.mlp[2].bias.grad),
    ):
        # Of numbers far below one: relative to the largest.
        expected = tensors[f"grad.{name}"]
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


class Given(Backbone):
    """Features of a file in the place of a backbone."""

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, images):
        return self.features

    def output_shape(self):
        return {
            k: ShapeSpec(channels=v.shape[1], stride=STRIDES[k]) for k, v in self.features.items()
        }


@torch.no_grad()
def test_detectron2s_fpn_and_head_give_the_released_logits(golden):
    tensors, metadata = golden
    given = Given({k: tensors[f"features.stride{s}"] for k, s in STRIDES.items()})
    width = tensors["neck_out.0"].shape[1]
    fpn = FPN(given, list(LEVELS), width).eval()
    own = {}
    for index, stride in enumerate(STRIDES.values()):
        stage = int(math.log2(stride))
        for parameter in ("weight", "bias"):
            lateral = tensors[f"neck.lateral_convs.{index}.conv.{parameter}"]
            own[f"fpn_lateral{stage}.{parameter}"] = lateral.float()
            output = tensors[f"neck.fpn_convs.{index}.conv.{parameter}"]
            own[f"fpn_output{stage}.{parameter}"] = output.float()
    fpn.load_state_dict(own)
    neck = fpn(None)
    for index, maps in enumerate(neck.values()):
        close(maps, tensors[f"neck_out.{index}"])

    classes = int(metadata["head_classes"])
    head = SemSegFPNHead(
        fpn.output_shape(),
        num_classes=classes,
        conv_dims=width,
        common_stride=8,
        norm="BN",
        loss_weight=1.0,
    ).eval()
    state = {}
    for name, value in weights(tensors, "head.").items():
        if name.startswith("conv_seg."):
            state[name.replace("conv_seg", "predictor")] = value
            continue
        _, level, layer, part, *rest = name.split(".")
        part = "norm." if part == "bn" else ""
        state[f"p{int(level) + 3}.{layer}.{part}{rest[0]}"] = value
    head.load_state_dict(state)
    logits = head.layers(neck)
    close(logits, tensors["logits"])
    size = int(metadata["image_size"])
    full = F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=False)
    rows = json.loads(metadata["logits_full_rows"])
    close(full[:, :, rows], tensors["logits_full_rows"])


@torch.no_grad()
def test_the_middle_blocks_map_is_the_coarsest_levels(golden):
    """VPD's table 5 has it; its released code cannot run it."""
    tensors, _ = golden
    outputs = run(make_features(golden, levels=("s6",), paths=("mid",)), golden, tensors["context"])
    number = len(tensors["context"])
    maps = outputs["s6"][:, -number:]
    torch.testing.assert_close(maps.sum(dim=1), torch.ones_like(maps[:, 0]))
    close(outputs["s6"][:, :-number], tensors["features.stride64"])
