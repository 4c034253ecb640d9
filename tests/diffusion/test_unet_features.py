"""Features of the UNet: the golden file, other UNets, gradients, maps."""

import json
import os
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open

from tadp_d2.diffusion.diffusion_model import Context, MapOptions
from tadp_d2.diffusion.stable_diffusion import LatentEncoder, load_unet
from tadp_d2.diffusion.unet_features import UNetFeatures
from tadp_d2.errors import UserError

FOLDER = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parents[1] / "golden")
GOLDEN = FOLDER / "vpd_unet_features.safetensors"


@pytest.fixture(scope="module")
def golden():
    """Tensors and metadata of the file: what the original VPD/TADP wrapper returned."""
    with safe_open(GOLDEN, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def golden_features(golden, taps=(), **options):
    tensors, metadata = golden
    unet = UNet2DConditionModel(**json.loads(metadata["unet_config"]))
    prefix = "unet."
    weights = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
    unet.load_state_dict({k: v.float() for k, v in weights.items()})
    return UNetFeatures(unet, maps=MapOptions(**options), taps=taps)


def run(features, golden, context=None):
    tensors, _ = golden
    timestep = tensors["timesteps"][0].item()
    return features(tensors["latents"], context or Context(tensors["context"]), timestep)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_agrees_with_the_original_wrapper(golden, checkpointing, training):
    features = golden_features(golden).train(training)
    if checkpointing:
        features.unet.enable_gradient_checkpointing()
    outputs = run(features, golden)
    assert list(outputs) == ["s3", "s4", "s5", "s6"]
    for level, stride in features.strides.items():
        expected = golden[0][f"features.stride{stride}"]
        assert outputs[level].shape[1] == features.channels[level]
        error = (outputs[level] - expected).norm() / expected.norm()
        assert error < 1e-4, (level, error)


def gradients(features, golden):
    generator = torch.Generator().manual_seed(0)
    loss = sum(
        (out * torch.randn(out.shape, generator=generator)).sum()
        for out in run(features, golden).values()
    )
    loss.backward()
    return {name: parameter.grad for name, parameter in features.named_parameters()}


def test_gradient_checkpointing_changes_no_gradient(golden):
    plain = golden_features(golden).train()
    checkpointed = golden_features(golden).train()
    checkpointed.unet.enable_gradient_checkpointing()
    expected, ours = gradients(plain, golden), gradients(checkpointed, golden)
    for name in expected:
        torch.testing.assert_close(ours[name], expected[name], rtol=1e-5, atol=1e-5)


def test_every_parameter_gets_a_gradient_and_the_output_layers_are_gone(golden):
    found = gradients(golden_features(golden).train(), golden)
    assert [name for name, grad in found.items() if grad is None or not grad.any()] == []
    assert not [name for name in found if "conv_norm_out" in name or "conv_out" in name]


def test_maps_are_probabilities(golden):
    for level in ("s4", "s5"):
        maps = run(golden_features(golden), golden)[level][:, -77:]
        assert (maps >= 0).all()
        torch.testing.assert_close(maps.sum(1), torch.ones_like(maps[:, 0]))


def test_maps_can_be_left_out_moved_and_cut_from_the_graph(golden):
    assert golden_features(golden, levels=()).channels == dict(s3=32, s4=32, s5=32, s6=64)
    s3 = golden_features(golden, levels=("s3",))
    assert run(s3, golden)["s3"].shape[1] == 32 + 77
    with_maps = run(golden_features(golden), golden)["s4"][:, :32]
    without = run(golden_features(golden, levels=()), golden)["s4"]
    torch.testing.assert_close(with_maps, without, rtol=1e-4, atol=1e-4)
    for gradient in (True, False):
        features = golden_features(golden, gradient=gradient).train()
        for block in features.unet.up_blocks[1:]:
            block.requires_grad_(False)
        features.requires_grad_(False)
        query = features.unet.up_blocks[1].attentions[2].transformer_blocks[0].attn2.to_q
        query.requires_grad_(True)
        run(features, golden)["s5"][:, -77:].square().sum().backward() if gradient else None
        # The last layer of a level reaches that level's features through its map alone.
        assert (query.weight.grad is not None) == gradient
        assert run(features, golden)["s5"].requires_grad == gradient


def test_the_mean_over_paths_is_weighted_by_layers(golden):
    both = run(golden_features(golden), golden)["s5"][:, -77:]
    down = run(golden_features(golden, paths=("down",)), golden)["s5"][:, -77:]
    up = run(golden_features(golden, paths=("up",)), golden)["s5"][:, -77:]
    torch.testing.assert_close(both, (2 * down + 3 * up) / 5)


def test_a_level_without_cross_attention_has_no_maps(golden):
    with pytest.raises(UserError, match="attention maps at s6"):
        golden_features(golden, levels=("s5", "s6"))


def test_masked_tokens_get_no_attention_and_any_number_of_tokens_works(golden):
    context = golden[0]["context"]
    mask = torch.ones(2, 77, dtype=torch.bool)
    mask[:, 20:] = False
    masked = run(golden_features(golden), golden, Context(context, mask))
    short = run(golden_features(golden, tokens=20), golden, Context(context[:, :20].contiguous()))
    assert not masked["s4"][:, -57:].any()
    assert short["s4"].shape[1] == 32 + 20
    torch.testing.assert_close(masked["s4"][:, : 32 + 20], short["s4"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(masked["s3"], short["s3"], rtol=1e-4, atol=1e-4)


SD1 = dict(block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768)
SD2 = SD1 | dict(
    cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
)
PRUNED = dict(
    block_out_channels=(320, 640, 1280),
    down_block_types=["CrossAttnDownBlock2D"] * 3,
    up_block_types=["CrossAttnUpBlock2D"] * 3,
    layers_per_block=1,
    mid_block_type=None,
    cross_attention_dim=768,
)


@pytest.mark.parametrize(
    "config, channels",
    [
        (SD1, dict(s3=320, s4=717, s5=1357, s6=1280)),
        (SD2, dict(s3=320, s4=717, s5=1357, s6=1280)),
        (PRUNED, dict(s3=320, s4=717, s5=1357)),
    ],
)
def test_full_size_unets_of_other_configurations(config, channels):
    with torch.device("meta"):
        features = UNetFeatures(UNet2DConditionModel(**config))
        context = Context(torch.empty(1, 77, config["cross_attention_dim"]))
        outputs = features(torch.empty(1, 4, 64, 96), context, 0)
    assert features.channels == channels
    for index, (level, out) in enumerate(outputs.items()):
        assert out.shape == (1, channels[level], 64 >> index, 96 >> index)


def test_sizes_that_do_not_divide_evenly(golden):
    features = golden_features(golden)
    outputs = features(torch.randn(1, 4, 18, 27), Context(golden[0]["context"][:1]), 0)
    assert [tuple(out.shape[-2:]) for out in outputs.values()] == [
        (18, 27),
        (9, 14),
        (5, 7),
        (3, 4),
    ]


def test_other_kinds_of_unets_are_refused():
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(32, 32),
            down_block_types=["DownBlock2D", "SimpleCrossAttnDownBlock2D"],
            up_block_types=["SimpleCrossAttnUpBlock2D", "UpBlock2D"],
            class_embed_type="timestep",
        )
    with pytest.raises(UserError, match="SimpleCrossAttnDownBlock2D.*class_embed_type"):
        UNetFeatures(unet)


def test_a_folder_that_is_not_a_unet(tmp_path):
    with pytest.raises(UserError, match="lacks config.json, .* of a UNet"):
        load_unet(tmp_path)


def test_latents_are_the_scaled_mean(model_folder):
    vae = AutoencoderKL.from_pretrained(model_folder / "vae")
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mean = vae.encode(images).latent_dist.mean
        torch.testing.assert_close(
            LatentEncoder(vae)(images), mean * vae.config.scaling_factor, rtol=0, atol=0
        )
        assert torch.equal(LatentEncoder(vae, scale_latents=False)(images), mean)
    assert vae.decoder is None


@torch.no_grad()
def test_taps_choose_the_layer_of_each_level(golden):
    plain = golden_features(golden, levels=())
    assert plain.taps == {"s3": 2, "s4": 1, "s5": 1, "s6": 1}
    layers = {}
    for block, level in zip(plain.unet.up_blocks, ("s6", "s5", "s4", "s3"), strict=True):
        own = getattr(block, "attentions", None) or block.resnets
        for index, layer in enumerate(own):
            layer.register_forward_hook(
                lambda m, i, out, key=(level, index): layers.update(
                    {key: out[0] if isinstance(out, tuple) else out}
                )
            )
    run(plain, golden)
    outputs = run(
        golden_features(golden, taps=(0, 2, 0, 2), levels=()),
        golden,
    )
    for level, tap in zip(("s3", "s4", "s5", "s6"), (0, 2, 0, 2), strict=True):
        assert torch.equal(outputs[level], layers[level, tap]), level


@pytest.mark.parametrize("taps", [(2, 1, 1), (3, 1, 1, 1)])
def test_taps_beyond_the_layers_are_refused(golden, taps):
    with pytest.raises(UserError, match="TAPS is .* expected a layer for each level .* s3 0 to 2"):
        golden_features(golden, taps=taps)
