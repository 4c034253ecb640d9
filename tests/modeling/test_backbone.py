"""The diffusion model as a Detectron2 backbone."""

import pytest
import safetensors.torch
import torch
from detectron2.modeling import build_backbone
from diffusers import UNet2DConditionModel

from tadp_d2.diffusion.diffusion_model import Context
from tadp_d2.errors import UserError
from tadp_d2.modeling.backbone import DiffusionBackbone

from ..tiny_model import TEXT_WIDTH


@pytest.fixture
def backbone(make_config):
    torch.manual_seed(0)
    levels = ["s3", "s4", "s5", "s6"]
    heads = ("MODEL.RPN.IN_FEATURES", levels, "MODEL.ROI_HEADS.IN_FEATURES", levels)
    name = ("MODEL.BACKBONE.NAME", "build_diffusion_backbone")
    return build_backbone(make_config(*name, *heads)).eval()


def images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def context(batch):
    return Context(torch.randn(batch, 77, TEXT_WIDTH, generator=torch.Generator().manual_seed(1)))


def test_output_shape_is_what_comes_out(backbone):
    with torch.no_grad(), backbone.conditioned(context(2)):
        outputs = backbone(images(2, 3, 128, 192))
    shapes = backbone.output_shape()
    assert list(outputs) == list(shapes) == ["s3", "s4", "s5", "s6"]
    for level, shape in shapes.items():
        expected = (2, shape.channels, 128 // shape.stride, 192 // shape.stride)
        assert outputs[level].shape == expected
    assert backbone.size_divisibility == 64


def test_with_detectron2s_fpn(make_config):
    cfg = make_config()
    fpn = build_backbone(cfg)
    assert {name: shape.stride for name, shape in fpn.output_shape().items()} == dict(
        p3=8, p4=16, p5=32, p6=64
    )
    assert all(s.channels == cfg.MODEL.FPN.OUT_CHANNELS for s in fpn.output_shape().values())
    assert fpn.size_divisibility == 64


def test_pyramids_are_fp32_under_autocast(make_config):
    fpn = build_backbone(make_config())
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    with torch.no_grad(), fpn.bottom_up.conditioned(context(1)), autocast:
        outputs = fpn(images(1, 3, 64, 64))
    assert {out.dtype for out in outputs.values()} == {torch.float32}


def test_a_picture_does_not_see_its_neighbours(backbone):
    batch, texts = images(3, 3, 128, 64), context(3)
    with torch.no_grad():
        with backbone.conditioned(texts):
            together = backbone(batch)
        with backbone.conditioned(Context(texts.embeddings[1:2])):
            alone = backbone(batch[1:2])
    for level in alone:
        torch.testing.assert_close(together[level][1:2], alone[level], rtol=1e-4, atol=1e-5)


def test_features_depend_on_the_context(backbone):
    batch = images(1, 3, 64, 64)
    with torch.no_grad():
        with backbone.conditioned(context(1)):
            first = backbone(batch)
        with backbone.conditioned(Context(context(1).embeddings + 1)):
            second = backbone(batch)
    assert not torch.allclose(first["s3"], second["s3"])


def test_a_context_lasts_for_its_block_only(backbone):
    with pytest.raises(RuntimeError, match="needs a condition"):
        backbone(images(1, 3, 64, 64))
    with pytest.raises(ZeroDivisionError), backbone.conditioned(context(1)):
        1 / 0  # noqa: B018
    with pytest.raises(RuntimeError, match="needs a condition"):
        backbone(images(1, 3, 64, 64))


def test_the_vae_is_frozen_and_not_in_the_checkpoint(backbone):
    backbone.train()
    assert not any(module.training for module in backbone.latent_encoder.modules())
    assert not any(p.requires_grad for p in backbone.latent_encoder.parameters())
    assert all(name.startswith("unet.") for name in backbone.state_dict())
    assert all(p.requires_grad for p in backbone.unet.parameters())


def test_no_decoder_is_held(backbone):
    assert not [name for name, _ in backbone.named_modules() if "decoder" in name]


def test_a_unet_for_other_latents_is_an_error(make_config, tmp_path):
    UNet2DConditionModel(
        in_channels=9, block_out_channels=(32, 32, 32, 32), cross_attention_dim=32
    ).save_pretrained(tmp_path / "unet")
    with pytest.raises(UserError, match="reads latents of 9 channels, but the VAE.*writes 4"):
        build_backbone(make_config("MODEL.DIFFUSION.UNET", str(tmp_path / "unet")))


def test_gradient_checkpointing_by_config(make_config):
    fpn = build_backbone(make_config("MODEL.DIFFUSION.GRADIENT_CHECKPOINTING", True))
    assert isinstance(fpn.bottom_up, DiffusionBackbone)
    assert fpn.bottom_up.unet.unet.is_gradient_checkpointing


def test_a_dreambooth_unet_replaces_that_of_the_base_model(make_config, tmp_path):
    key = "conv_in.bias"
    plain = build_backbone(make_config()).bottom_up.unet.unet
    plain.conv_out, plain.conv_norm_out = torch.nn.Conv2d(32, 4, 3), torch.nn.GroupNorm(32, 32)
    plain.save_pretrained(tmp_path / "unet")
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights = safetensors.torch.load_file(file)
    weights[key] = torch.full_like(weights[key], 3.0)
    safetensors.torch.save_file(weights, file)
    swapped = build_backbone(make_config("MODEL.DIFFUSION.UNET", str(tmp_path / "unet")))
    assert (swapped.bottom_up.unet.unet.conv_in.bias == 3).all()


def test_a_unet_of_another_base_model_is_an_error(make_config, tmp_path):
    UNet2DConditionModel(
        block_out_channels=(32, 32, 32, 32), cross_attention_dim=16, layers_per_block=1
    ).save_pretrained(tmp_path / "unet")
    with pytest.raises(
        UserError, match=f"contexts of width 16, but the text encoder.*{TEXT_WIDTH}"
    ):
        build_backbone(make_config("MODEL.DIFFUSION.UNET", str(tmp_path / "unet")))


def test_bf16_autocast_stays_close(backbone):
    batch = images(1, 3, 64, 64)
    with torch.no_grad(), backbone.conditioned(context(1)):
        full = backbone(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            reduced = backbone(batch)
    for level in full:
        error = (reduced[level].float() - full[level]).norm() / full[level].norm()
        # bf16 keeps 8 bits: 0.4 % per operation, through some fifty layers.
        assert error < 0.1, (level, error)


def test_the_precision_of_testing_is_not_that_of_training(make_config):
    full, reduced = (
        build_backbone(make_config("TEST.PRECISION", precision)).bottom_up
        for precision in ("fp32", "bf16")
    )
    reduced.load_state_dict(full.state_dict())
    batch = images(1, 3, 64, 64)

    @torch.no_grad()
    def features(backbone):
        with backbone.conditioned(context(1)):
            return backbone(batch)

    for level, expected in features(full.train()).items():
        assert torch.equal(features(reduced.train())[level], expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = features(full.eval())
    for level, maps in features(reduced.eval()).items():
        assert maps.dtype == torch.float32
        assert torch.equal(maps, expected[level].float())


@pytest.mark.exhaustive
def test_is_one_graph_for_any_length_of_text(backbone):
    compiled = torch.compile(backbone, fullgraph=True, backend="eager")
    picture, texts = images(1, 3, 64, 64), context(1)
    for length in (77, 20):
        text = Context(texts.embeddings[:, :length])
        with torch.no_grad(), backbone.conditioned(text):
            expected, outputs = backbone(picture), compiled(picture)
        for level, features in expected.items():
            assert torch.equal(outputs[level], features)
