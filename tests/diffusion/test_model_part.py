"""Parts of a model: what is computed as their configs say, and what is refused."""

import itertools
import json
import shutil

import pytest
import safetensors.torch
import torch
from diffusers import UNet2DConditionModel

from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.diffusion.diffusion_model import Context, MapOptions
from tadp_d2.diffusion.model_part import TEXT_ENCODER, UNET, VAE
from tadp_d2.diffusion.stable_diffusion import load_unet, load_vae
from tadp_d2.diffusion.unet_features import UNetFeatures
from tadp_d2.errors import UserError

TINY = dict(
    block_out_channels=(16, 32),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=12,
    attention_head_dim=4,
    norm_num_groups=4,
)
# Options whose value is free, each with another value than `TINY`'s or the usual one.
OTHERS = dict(
    in_channels=5,
    block_out_channels=(16, 48),
    layers_per_block=(1, 2),
    cross_attention_dim=20,
    attention_head_dim=(2, 8),
    transformer_layers_per_block=(2, 1),
    use_linear_projection=True,
    upcast_attention=True,
    act_fn="gelu",
    norm_num_groups=8,
    norm_eps=1e-2,
    dropout=0.5,
    downsample_padding=0,
    mid_block_scale_factor=2.0,
    resnet_out_scale_factor=1.5,
    resnet_time_scale_shift="scale_shift",
    flip_sin_to_cos=False,
    freq_shift=1,
    time_embedding_dim=24,
    timestep_post_act="silu",
    time_cond_proj_dim=6,
    conv_in_kernel=1,
    mid_block_type=None,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
)
NEUTRAL = dict(sample_size=7, out_channels=6, conv_out_kernel=1, addition_embed_type_num_heads=3)


def test_every_option_is_tried():
    assert set(OTHERS) == {*UNET.computed, *UNET.allowed}
    assert set(NEUTRAL) <= set(UNET.indifferent)
    signature = set(UNET.usual)
    assert {*UNET.computed, *UNET.allowed, *NEUTRAL} <= signature
    assert {*VAE.computed, *VAE.allowed} <= set(VAE.usual)
    assert {*TEXT_ENCODER.computed, *TEXT_ENCODER.allowed} <= set(TEXT_ENCODER.usual)


@pytest.mark.parametrize("option", [*OTHERS, *NEUTRAL])
def test_features_are_those_of_diffusers_own_forward_pass(option):
    config = TINY | {option: {**OTHERS, **NEUTRAL}[option]}
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**config).eval()
    latents = torch.randn(2, unet.config.in_channels, 8, 12)
    context = torch.randn(2, 5, unet.config.cross_attention_dim)
    expected = {}

    def keep(level):
        return lambda _, __, out: expected.update({level: out[0] if type(out) is tuple else out})

    first, last = unet.up_blocks
    layers = first.attentions if hasattr(first, "attentions") else first.resnets
    hooks = [
        layers[-2].register_forward_hook(keep("s4")),
        last.register_forward_hook(keep("s3")),
    ]
    with torch.no_grad():
        unet(latents, 3, context)
    for hook in hooks:
        hook.remove()
    features = UNetFeatures(unet, maps=MapOptions(levels=())).eval()
    with torch.no_grad():
        found = features(latents, Context(context), 3)
    assert found.keys() == expected.keys()
    for level, maps in expected.items():
        torch.testing.assert_close(found[level], maps, rtol=1e-5, atol=1e-5)
    # One without stops distributed training.
    sum(maps.sum() for maps in features(latents, Context(context), 3).values()).backward()
    assert [name for name, p in features.named_parameters() if p.grad is None] == []


@pytest.fixture
def model(model_folder, tmp_path):
    """A copy of the tiny model."""
    return shutil.copytree(model_folder, tmp_path / "model")


def change(folder, **options):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


def load(folder):
    return {"unet": load_unet, "vae": lambda f: load_vae(f.parent)}.get(
        folder.name, lambda f: TextEncoder.from_pretrained(f.parent)
    )(folder)


@pytest.mark.parametrize(
    "part, option, value",
    [
        ("unet", "center_input_sample", True),
        ("unet", "num_class_embeds", 10),
        ("unet", "class_embed_type", "timestep"),
        ("unet", "time_embedding_act_fn", "silu"),
        ("unet", "time_embedding_type", "fourier"),
        ("unet", "addition_embed_type", "text"),
        ("unet", "encoder_hid_dim", 32),
        ("unet", "only_cross_attention", True),
        ("unet", "dual_cross_attention", True),
        ("unet", "attention_type", "gated"),
        ("unet", "cross_attention_norm", "layer_norm"),
        ("unet", "reverse_transformer_layers_per_block", [1, 1, 1, 1]),
        ("unet", "down_block_types", ["DownBlock2D", "KDownBlock2D"]),
        ("unet", "mid_block_type", "UNetMidBlock2D"),
        ("unet", "an_option_of_a_later_version", "on"),
        ("unet", "quantization_config", {"quant_method": "bitsandbytes"}),
        ("vae", "shift_factor", 0.1159),
        ("vae", "latents_mean", [0.0, 0.0, 0.0, 0.0]),
        ("vae", "in_channels", 4),
        ("text_encoder", "use_attention_mask", True),
        ("text_encoder", "quantization_config", {"quant_method": "bitsandbytes"}),
    ],
)
def test_an_option_that_is_not_computed_is_refused(model, part, option, value):
    change(model / part, **{option: value})
    with pytest.raises(UserError, match=rf"{part}/config.json: .*{option} is .*expected .*wrong"):
        load(model / part)


@pytest.mark.parametrize(
    "part, options",
    [
        ("unet", {"_name_or_path": "elsewhere", "decay": 0.9999, "use_ema_warmup": True}),
        ("unet", {"of_a_later_version_and_off": None, "this_too": False}),
        ("vae", {"force_upcast": False, "sample_size": 512}),
        ("text_encoder", {"dropout": 0.0, "torch_dtype": "float16", "eos_token_id": 2, "top_k": 9}),
    ],
)
def test_an_option_that_changes_no_feature_is_taken(model, part, options):
    change(model / part, **options)
    load(model / part)


@pytest.mark.parametrize(
    "part, kind",
    [("unet", "UNet2DModel"), ("vae", "AutoencoderTiny"), ("text_encoder", "t5")],
)
def test_a_part_of_another_kind_is_named(model, part, kind):
    change(model / part, **{"model_type" if part == "text_encoder" else "_class_name": kind})
    with pytest.raises(UserError, match=rf"{part}/config.json: is of a {kind}; expected the"):
        load(model / part)


def add_weights(folder, more, rename=lambda key: key):
    (file,) = folder.glob("*.safetensors")
    weights = safetensors.torch.load_file(file)
    weights = {rename(key): value for key, value in weights.items()} | more
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})


ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
BASE = f"{ATTENTION}.to_q.weight"


@pytest.mark.parametrize(
    "key, rename, message",
    [
        (f"{ATTENTION}.processor.to_q_lora.down.weight", {}, "an adapter (LoRA) beside the weigh"),
        (f"{ATTENTION}.to_q.lora_A.default.weight", {}, "an adapter (LoRA) beside the weights"),
        ("more", {BASE: f"{ATTENTION}.to_q.base_layer.weight"}, "PEFT's layers around the weights"),
        ("more", {BASE: f"module.{BASE}"}, "saved from within DataParallel"),
        ("more", {BASE: f"_orig_mod.{BASE}"}, "saved from within torch.compile"),
        ("class_embedding.weight", {}, "for which a UNet of its config has no place"),
        (
            "more",
            {BASE: "other"},
            "lack down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        ),
    ],
)
def test_weights_without_a_place_are_refused(model, key, rename, message):
    add_weights(model / "unet", {key: torch.zeros(3)}, lambda name: rename.get(name, name))
    with pytest.raises(UserError) as error:
        load(model / "unet")
    assert str(error.value).startswith(str(model / "unet")) and message in str(error.value)


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_weights_without_a_place_are_refused_in_every_part(model, part):
    add_weights(model / part, {"text_model.layers.9.lora_A.weight": torch.zeros(3)})
    with pytest.raises(UserError, match=rf"model/{part}: its weights hold .*an adapter"):
        load(model / part)


def test_the_other_half_of_clip_beside_a_text_encoder_is_no_matter(model):
    names = ("vision_model.post_layernorm.bias", "text_projection.weight", "logit_scale")
    add_weights(model / "text_encoder", {name: torch.zeros(1) for name in names})
    load(model / "text_encoder")


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
@pytest.mark.parametrize("name", ["adapter_config.json", "pytorch_lora_weights.safetensors"])
def test_an_adapters_file_beside_the_weights_is_refused(model, part, name):
    (model / part / name).write_text("{}")
    with pytest.raises(UserError, match=rf"{part}/{name}: an adapter \(LoRA\) beside the weights"):
        load(model / part)


def test_options_are_those_that_count_in_one_form(model):
    options = UNET.options(load_unet(model / "unet").config)
    assert not {"sample_size", "_class_name", "center_input_sample"} & options.keys()
    unet = {"attention_head_dim": [2, 2, 2, 2], "mid_block_scale_factor": 1.0, "sample_size": 9}
    change(model / "unet", **unet)
    assert UNET.options(load_unet(model / "unet").config) == options
    change(model / "unet", attention_head_dim=4)
    other = UNET.options(load_unet(model / "unet").config)
    assert [k for k in options if options[k] != other[k]] == ["attention_head_dim"]


def test_forms_of_every_option_are_told_apart():
    changed = [UNET.options(UNET.usual | {key: value}) for key, value in OTHERS.items()]
    for one, other in itertools.combinations([UNET.options(UNET.usual), *changed], 2):
        assert one != other


_FOUR = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768}
_SECOND = {"cross_attention_dim": 1024, "use_linear_projection": True}


@pytest.mark.parametrize(
    "options",
    [
        {"attention_head_dim": 8, "sample_size": 64},  # 1.1 to 1.5
        {**_SECOND, "attention_head_dim": [5, 10, 20, 20], "dual_cross_attention": False},  # 2.x
        # SD-Turbo
        {**_SECOND, "attention_head_dim": [5, 10, 20, 20], "num_attention_heads": None},
        {"time_cond_proj_dim": 256},  # LCM
        {"layers_per_block": 1, "mid_block_type": None},  # BK-SDM-Small
        {
            "layers_per_block": 1,
            "mid_block_type": None,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ["CrossAttnDownBlock2D"] * 3,
            "up_block_types": ["CrossAttnUpBlock2D"] * 3,
        },  # BK-SDM-Tiny
    ],
)
def test_configs_of_published_unets_are_computed(options):
    UNET.check_config({**UNET.usual, **_FOUR, **options}, "config.json")
