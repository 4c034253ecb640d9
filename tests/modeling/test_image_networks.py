"""Pre-trained image encoders: their maps are those of transformers' own forward pass."""

import json
import shutil

import pytest
import torch
import transformers
from torch.nn import functional as F

from tadp_d2.errors import UserError
from tadp_d2.modeling.image_networks import find_network
from tadp_d2.modeling.pretrained_backbone import PretrainedBackbone
from tadp_d2.pyramid import Pyramid

STRIDES = {"s3": 8, "s4": 16, "s5": 32, "s6": 64}
MEAN, STD = [127.5] * 3, [127.5] * 3


def grid(tokens, rows, columns):
    return tokens.transpose(1, 2).unflatten(-1, (rows, columns))


def of_stages(kind):
    def expected(folder, pixels):
        stages = [f"stage{i}" for i in (2, 3, 4)]
        model = getattr(transformers, kind).from_pretrained(folder, out_features=stages)
        return dict(zip((8, 16, 32), model(pixels).feature_maps, strict=True))

    return expected


def of_tokens(kind, leading, part=None, **options):
    def expected(folder, pixels):
        model = getattr(transformers, kind).from_pretrained(folder)
        model = getattr(model, part) if part else model
        tokens = model(pixels, **options).last_hidden_state
        return {16: grid(tokens[:, leading:], 4, 8)}

    return expected


def of_dinov2(kind, leading):
    def expected(folder, pixels):
        # Its patches of 14 pixels see 16 of the image's.
        smaller = F.interpolate(pixels, (56, 112), mode="bilinear", antialias=True)
        return of_tokens(kind, leading)(folder, smaller)

    return expected


def of_sam(folder, pixels):
    return {16: transformers.SamModel.from_pretrained(folder).vision_encoder(pixels)[0]}


EXPECTED = {
    "dinov2": of_dinov2("Dinov2Model", 1),
    "dinov2_with_registers": of_dinov2("Dinov2WithRegistersModel", 4),
    "dinov3": of_tokens("DINOv3ViTModel", 3),
    "swin": of_stages("SwinBackbone"),
    "convnext": of_stages("ConvNextBackbone"),
    "convnextv2": of_stages("ConvNextV2Backbone"),
    "dinov3_convnext": of_stages("DINOv3ConvNextBackbone"),
    "vit": of_tokens("ViTModel", 1, interpolate_pos_encoding=True),
    "sam": of_sam,
    "blip": of_tokens(
        "BlipForConditionalGeneration", 1, "vision_model", interpolate_pos_encoding=True
    ),
}


# One of each class; those of the others differ in what transformers computes.
QUICK = ("dinov2", "swin", "vit", "sam")


@torch.no_grad()
@pytest.mark.parametrize(
    "kind",
    [*QUICK, *(pytest.param(k, marks=pytest.mark.exhaustive) for k in EXPECTED if k not in QUICK)],
)
def test_features_are_those_of_transformers(kind, network_folder):
    folder = network_folder(kind)
    # SAM's own pass takes one size only.
    size = (64, 64) if kind == "sam" else (64, 128)
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    # As the image processor of transformers: red, green and blue from 0 to 1, normalized.
    mean, std = torch.tensor([[0.5, 0.4, 0.3], [0.2, 0.25, 0.5]])[..., None, None]
    expected = EXPECTED[kind](folder, ((images + 1) / 2 - mean) / std)
    backbone = PretrainedBackbone(find_network(str(folder)), STRIDES, MEAN, STD).eval()
    found = backbone(images)
    shapes = backbone.output_shape()
    assert {level: shape.stride for level, shape in shapes.items()} == STRIDES
    for level, stride in STRIDES.items():
        expected_size = tuple(max(side // stride, 1) for side in size)
        assert found[level].shape == (2, shapes[level].channels, *expected_size)
        if stride in expected:
            torch.testing.assert_close(found[level], expected[stride], rtol=1e-5, atol=1e-5)
    coarsest = max(expected)
    torch.testing.assert_close(
        found["s6"], F.max_pool2d(expected[coarsest], 64 // coarsest), rtol=1e-5, atol=1e-5
    )
    # Blue, green and red are read as such.
    mirrored = PretrainedBackbone(find_network(str(folder)), STRIDES, MEAN, STD, "BGR").eval()
    again = mirrored(images.flip(1))
    for stride in expected:
        level = f"s{stride.bit_length() - 1}"
        torch.testing.assert_close(again[level], found[level], rtol=1e-5, atol=1e-5)
    if kind == "sam":
        assert backbone(torch.zeros(1, 3, 128, 64))["s4"].shape[-2:] == (8, 4)


def test_a_pyramid_enlarges_and_pools():
    pyramid = Pyramid({16: 12, 32: 20}, [4, 8, 16, 32, 64, 128])
    assert pyramid.channels == {4: 3, 8: 6, 16: 12, 32: 20, 64: 20, 128: 20}
    maps = {16: torch.randn(1, 12, 8, 16), 32: torch.randn(1, 20, 4, 8)}
    found = pyramid(maps)
    for stride, channels in pyramid.channels.items():
        assert found[stride].shape == (1, channels, 128 // stride, 256 // stride)
    assert found[16] is maps[16] and found[32] is maps[32]
    assert torch.equal(found[128], F.max_pool2d(maps[32], 4))
    # A pixel of the finest level depends on one of its source through the convolution alone.
    (layer,) = pyramid.layers["s3"]
    expected = torch.einsum("bchw,cdyx->bdhywx", maps[16], layer.weight).reshape(1, 6, 16, 32)
    torch.testing.assert_close(found[8], expected + layer.bias[:, None, None])


def test_what_cannot_be_a_backbone_is_refused(network_folder, model_folder, tmp_path):
    with pytest.raises(UserError, match="MODEL.PRETRAINED.WEIGHTS is empty"):
        find_network("")
    with pytest.raises(UserError, match="lacks config.json, .* of a pre-trained image encoder"):
        find_network(str(model_folder))
    folder = shutil.copytree(network_folder("vit"), tmp_path / "vit")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="model_type is 'bert'; offered as a backbone are dinov2,"):
        find_network(str(folder))
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 24}))
    with pytest.raises(UserError, match="cannot be loaded|lack"):
        find_network(str(folder)).load([16])
    processor = folder / "preprocessor_config.json"
    for wrong in ({}, {"image_mean": [0.5], "image_std": [0.5]}, {"do_normalize": False}, []):
        processor.write_text(json.dumps(wrong))
        with pytest.raises(UserError, match="preprocessor_config.json: does not tell by image_me"):
            find_network(str(folder))
    processor.unlink()
    with pytest.raises(UserError, match="lacks preprocessor_config.json or processor_config.json"):
        find_network(str(folder))
