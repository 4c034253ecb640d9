"""Checkpoints of one file in the layout in which Stable Diffusion was published."""

import json
import shutil

import pytest
import safetensors.torch
import torch
import yaml
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tadp_d2.diffusion.families import find_model, open_diffusion_model
from tadp_d2.diffusion.model_folder import STABLE_DIFFUSION
from tadp_d2.diffusion.stable_diffusion import load_unet
from tadp_d2.diffusion.unet_features import unet_fingerprint
from tadp_d2.errors import UserError
from tadp_d2.personalization.model import TrainableDiffusion

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def original_unet_name(name, layers):
    """The published name of a weight of diffusers' UNet with so many layers per block."""
    path, _, kind = name.rpartition(".")
    if path in ENDS:
        return f"{ENDS[path]}.{kind}"
    block, *rest = path.split(".")
    if block == "mid_block":
        part, index, *rest = rest
        place = f"middle_block.{2 * int(index) if part == 'resnets' else 1}"
    else:
        number, part, index, *rest = rest
        across = layers + 1
        if block == "down_blocks":
            offset = layers if part == "downsamplers" else int(index)
            place = f"input_blocks.{1 + int(number) * across + offset}"
        else:
            offset = layers if part == "upsamplers" else int(index)
            place = f"output_blocks.{int(number) * across + offset}"
        place += {"resnets": ".0", "attentions": ".1", "downsamplers": ".0.op"}.get(part, "")
        if part == "downsamplers":
            return f"{place}.{kind}"
        if part == "upsamplers":
            return (place, kind)  # behind the attention, if there is one
    if part == "resnets":
        rest = [RESNET[rest[0]]]
    return ".".join((place, *rest, kind))


def original_unet(unet):
    layers = unet.config.layers_per_block
    named = {original_unet_name(name, layers): t for name, t in unet.state_dict().items()}
    weights = {name: t for name, t in named.items() if isinstance(name, str)}
    for name in named.keys() - weights.keys():
        place, kind = name
        behind = 2 if f"{place}.1.norm.weight" in weights else 1
        weights[f"{place}.{behind}.conv.{kind}"] = named[name]
    return weights


def original_vae(vae):
    weights = {}
    levels = len(vae.config.block_out_channels)
    for name, tensor in vae.state_dict().items():
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        parts = name.split(".")
        if parts[1] in ("down_blocks", "up_blocks"):
            half, way, number, part, index, *rest = parts
            number = int(number) if way == "down_blocks" else levels - 1 - int(number)
            kind = {"resnets": f"block.{index}", "downsamplers": "downsample"}.get(part, "upsample")
            parts = [half, way.removesuffix("_blocks"), str(number), kind, *rest]
        elif parts[1] == "mid_block":
            half, _, part, index, *rest = parts
            if part == "resnets":
                parts = [half, "mid", f"block_{int(index) + 1}", *rest]
            else:
                path = ".".join(rest[:-1])
                parts = [half, "mid", "attn_1", ATTENTION[path], rest[-1]]
                if path != "group_norm" and rest[-1] == "weight":
                    tensor = tensor[:, :, None, None]
        weights[".".join(parts)] = tensor
    return weights


def original_clip(text):
    weights = {name.removeprefix("text_model."): t for name, t in text.state_dict().items()}
    return {f"transformer.text_model.{name}": t for name, t in weights.items()}


def original_open_clip(text):
    """With a last layer more than diffusers computes."""
    weights, own = {}, {n.removeprefix("text_model."): t for n, t in text.state_dict().items()}
    names = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    inner = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc"}
    inner |= {"mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}
    for name, tensor in own.items():
        if name in names:
            weights[names[name]] = tensor
            continue
        number, _, rest = name.removeprefix("encoder.layers.").partition(".")
        path, _, kind = rest.rpartition(".")
        place = f"transformer.resblocks.{number}"
        if path in inner:
            weights[f"{place}.{inner[path]}.{kind}"] = tensor
        elif path == "self_attn.q_proj":
            qkv = [own[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            weights[f"{place}.attn.in_proj_{kind}"] = torch.cat(qkv)
    layers = text.config.num_hidden_layers
    last = [n for n in weights if n.startswith(f"transformer.resblocks.{layers - 1}.")]
    for name in last:
        further = name.replace(f"resblocks.{layers - 1}.", f"resblocks.{layers}.")
        weights[further] = torch.randn_like(weights[name])
    return {f"model.{name}": t for name, t in weights.items()}


def make_pipeline(family, folder):
    """Tiny, with what no shape tells as in that family; and its checkpoint's weights."""
    torch.manual_seed(0)
    widths = (64, 128)
    unet = UNet2DConditionModel(
        block_out_channels=widths,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=8 if family == 1 else [1, 2],
        use_linear_projection=family == 2,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
    )
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=1,
            hidden_act="quick_gelu" if family == 1 else "gelu",
        )
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    weights = {f"model.diffusion_model.{n}": t for n, t in original_unet(unet).items()}
    weights |= {f"first_stage_model.{n}": t for n, t in original_vae(vae).items()}
    own = original_clip(text) if family == 1 else original_open_clip(text)
    weights |= {f"cond_stage_model.{n}": t for n, t in own.items()}
    return pipeline, {name: t.contiguous().clone() for name, t in weights.items()}


@pytest.fixture(scope="module")
def models(model_folder, tmp_path_factory):
    """family -> its folder in diffusers' format, and the weights of its checkpoint."""
    made = {}
    for family in (1, 2):
        folder = tmp_path_factory.mktemp(f"family{family}")
        pipeline, weights = make_pipeline(family, model_folder)
        pipeline.save_pretrained(folder)
        made[family] = folder, weights
    return made


def place(folder, model_folder, name, weights):
    """Writes a checkpoint with the tokenizer beside it."""
    folder.mkdir(exist_ok=True)
    shutil.copytree(model_folder / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    path = folder / name
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        torch.save({"state_dict": weights, "global_step": 5}, path)
    return path


def features(name):
    """What a backbone computes of an image and a prompt."""
    from tadp_d2.diffusion.diffusion_model import MapOptions

    model = open_diffusion_model(str(name))
    encoder = model.load_latent_encoder()
    unet = model.load_features(encoder, MapOptions(levels=("s1",))).eval()
    images = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    with torch.no_grad():
        return unet(encoder(images), model.load_text_encoder()(["a dog"]), 1)


@pytest.mark.parametrize("family, name", [(1, "v1.safetensors"), (2, "v2.ckpt")])
def test_features_are_those_of_the_folder_with_the_same_weights(
    models, model_folder, tmp_path, family, name
):
    folder, weights = models[family]
    file = place(tmp_path / "models", model_folder, name, weights)
    expected, found = features(folder), features(file)
    assert list(found) == ["s1", "s2"]
    for level, maps in expected.items():
        assert torch.equal(found[level], maps)
    # It is converted once.
    made = find_model(str(file))[1]
    before = (made / "unet" / "config.json").stat().st_mtime_ns
    assert find_model(str(file))[1] == made and not STABLE_DIFFUSION.missing(made)
    assert (made / "unet" / "config.json").stat().st_mtime_ns == before


def test_half_precision_stays_so(models, model_folder, tmp_path):
    folder, weights = models[1]
    halves = {key: t.half() for key, t in weights.items()}
    half = find_model(str(place(tmp_path / "m", model_folder, "half.safetensors", halves)))[1]
    own = UNet2DConditionModel.from_pretrained(folder / "unet").half().float()
    assert unet_fingerprint(load_unet(half / "unet")) == unet_fingerprint(own)
    (stored,) = (half / "unet").glob("*.safetensors")
    assert stored.stat().st_size < 0.6 * (folder / "unet" / stored.name).stat().st_size


def test_averaged_weights_are_preferred(models, model_folder, tmp_path):
    """As in diffusers' folders of the published models."""
    folder, weights = models[1]
    prefix = "model.diffusion_model."
    names = [name for name in weights if name.startswith(prefix)]
    averaged = {f"model_ema.{name[6:].replace('.', '')}": weights[name] for name in names}
    trained = {name: torch.zeros_like(weights[name]) for name in names}
    file = place(tmp_path / "m", model_folder, "a.safetensors", {**weights, **trained, **averaged})
    assert len(averaged) > 100
    unet = load_unet(find_model(str(file))[1] / "unet")
    assert unet_fingerprint(unet) == unet_fingerprint(load_unet(folder / "unet"))


def test_who_teaches_it_must_know_what_it_predicts(models, model_folder, tmp_path):
    file = place(tmp_path / "1", model_folder, "one.safetensors", models[1][1])
    assert TrainableDiffusion.load(str(file)).scheduler.config.prediction_type == "epsilon"
    file = place(tmp_path / "2", model_folder, "two.safetensors", models[2][1])
    with pytest.raises(UserError, match="two.safetensors: does not tell whether it predicts noise"):
        TrainableDiffusion.load(str(file))
    before = find_model(str(file))[1]
    told = {"model": {"params": {"parameterization": "v"}}}
    file.with_suffix(".yaml").write_text(yaml.safe_dump(told))
    model = TrainableDiffusion.load(str(file))
    assert model.scheduler.config.prediction_type == "v_prediction"
    # What it predicts is of no weight and changes no feature.
    assert unet_fingerprint(load_unet(before / "unet")) == unet_fingerprint(model.unet)
    file.with_suffix(".yaml").write_text("model: 5")
    with pytest.raises(UserError, match="two.yaml: expected the config of two.safetensors"):
        find_model(str(file))


def test_other_files_are_refused_before_they_are_converted(models, model_folder, tmp_path):
    weights = models[1][1]

    def refused(name, content, match):
        file = place(tmp_path / "m", model_folder, name, content)
        with pytest.raises(UserError, match=f"{name}: .*{match}"):
            open_diffusion_model(str(file))

    some = {"a": torch.zeros(2)}
    for key, match in (
        ("conditioner.embedders.0.transformer.a", "of Stable Diffusion XL; expected"),
        ("lora_unet_mid_block_a.lora_up.weight", "which MODEL.DIFFUSION.LORA_FILE names"),
        ("down_blocks.0.resnets.0.conv1.weight", "a UNet alone in diffusers' format"),
        ("other", "has no UNet and no VAE and no text encoder of Stable Diffusion"),
    ):
        refused("other.safetensors", {key: some["a"]}, match)
    vaeless = {name: t for name, t in weights.items() if not name.startswith("first_stage")}
    refused("vaeless.ckpt", vaeless, "has no VAE of Stable Diffusion")
    first = "model.diffusion_model.input_blocks.0.0.weight"
    inpainting = {**weights, first: torch.zeros(64, 9, 3, 3)}
    refused("inpainting.safetensors", inpainting, "one of 9 reads a mask")
    lacking = {n: t for n, t in weights.items() if n != "model.diffusion_model.out.0.weight"}
    refused("lacking.safetensors", lacking, "(lacks conv_norm_out.weight|cannot be loaded)")
    file = tmp_path / "m" / "cut.safetensors"
    file.write_bytes((tmp_path / "m" / "lacking.safetensors").read_bytes()[:5000])
    with pytest.raises(UserError, match="cut.safetensors: cannot be read as a checkpoint"):
        find_model(str(file))
    with pytest.raises(UserError, match="absent.ckpt: there is no such file"):
        find_model(str(tmp_path / "absent.ckpt"))
    shutil.rmtree(tmp_path / "m" / "tokenizer")
    with pytest.raises(UserError, match="no tokenizer: put the folder tokenizer/ of a Stable"):
        find_model(str(place_alone(tmp_path, weights)))


def place_alone(folder, weights):
    safetensors.torch.save_file({**weights, "more": torch.zeros(1)}, folder / "alone.safetensors")
    return folder / "alone.safetensors"


class _Payload:
    def __reduce__(self):
        return print, ("executed",)


def test_pickles_are_not_executed(tmp_path, capsys):
    torch.save({"state_dict": {"a": _Payload()}}, tmp_path / "attack.ckpt")
    with pytest.raises(UserError, match="attack.ckpt: cannot be read .* best one in .safetensors"):
        find_model(str(tmp_path / "attack.ckpt"))
    assert "executed" not in capsys.readouterr().out


def test_configs_of_the_published_versions_are_found_from_their_shapes():
    """Of Stable Diffusion 1.5 and 2.1, on no device and without their weights."""
    from tadp_d2.diffusion.single_file import _unet_config

    for family, width, heads in (("1", 768, 8), ("2", 1024, [5, 10, 20, 20])):
        with torch.device("meta"):
            unet = UNet2DConditionModel(
                cross_attention_dim=width,
                attention_head_dim=heads,
                use_linear_projection=family == "2",
                block_out_channels=(320, 640, 1280, 1280),
            )
        shapes = {name: tuple(t.shape) for name, t in original_unet(unet).items()}
        found = _unet_config(shapes, family)
        assert found.pop("_class_name") == "UNet2DConditionModel"
        assert json.loads(json.dumps({key: unet.config[key] for key in found})) == found
