"""Low-rank updates that others trained: added to the weights as diffusers adds them."""

import json
import shutil

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline

from tadp_d2.conditioning.conditioner import open_model_of
from tadp_d2.diffusion.diffusion_model import MapOptions
from tadp_d2.diffusion.families import open_diffusion_model
from tadp_d2.diffusion.lora_file import LoraFile
from tadp_d2.errors import UserError
from tadp_d2.modeling.backbone import build_diffusion_backbone

RANK, ALPHA, SCALE = 2, 3.0, 0.7
UNET = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "up_blocks.1.attentions.2.transformer_blocks.0.attn1.to_out.0",
    "mid_block.attentions.0.proj_in",
    "down_blocks.1.resnets.0.conv1",
)
TEXT = ("text_model.encoder.layers.1.self_attn.q_proj", "text_model.encoder.layers.0.mlp.fc1")


@pytest.fixture(scope="module")
def factors(model_folder):
    """(part, layer) -> down, up."""
    pipeline = StableDiffusionPipeline.from_pretrained(model_folder)
    generator = torch.Generator().manual_seed(0)
    found = {}
    for part, names in (("unet", UNET), ("text_encoder", TEXT)):
        module = getattr(pipeline, part)
        own = {name.removeprefix("text_model."): layer for name, layer in module.named_modules()}
        for name in names:
            weight = own[name.removeprefix("text_model.")].weight
            down = torch.randn(RANK, *weight.shape[1:], generator=generator)
            one = (1,) * (weight.ndim - 2)
            up = torch.randn(len(weight), RANK, *one, generator=generator)
            found[part, name] = 0.1 * down, up
    return found


def peft(factors):
    weights = {}
    for (part, name), (down, up) in factors.items():
        weights |= {f"{part}.{name}.lora_A.weight": down, f"{part}.{name}.lora_B.weight": up}
    return weights


def kohya(factors):
    weights = {}
    for (part, name), (down, up) in factors.items():
        start = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part] + name.replace(".", "_")
        weights |= {f"{start}.lora_down.weight": down, f"{start}.lora_up.weight": up}
        weights[f"{start}.alpha"] = torch.tensor(ALPHA)
    return weights


def write(path, weights, **options):
    metadata = {"lora_adapter_metadata": json.dumps(options)} if options else None
    safetensors.torch.save_file(weights, path, metadata=metadata)
    return path


def fused(model_folder, file):
    pytest.importorskip("peft")
    pipeline = StableDiffusionPipeline.from_pretrained(model_folder, dtype=torch.float32)
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    pipeline.fuse_lora(lora_scale=SCALE)
    pipeline.unload_lora_weights()
    return {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}


def load(model_folder, file, scale=SCALE):
    model = open_diffusion_model(str(model_folder))
    model.add_lora(LoraFile(file, scale))
    unet = model.load_features(model.load_latent_encoder(), MapOptions(levels=())).unet
    return {"unet": unet, "text_encoder": model.load_text_encoder().text_encoder.module}


def test_the_sum_is_that_of_diffusers_in_either_format(model_folder, factors, tmp_path):
    options = {}
    for part, names in (("unet", UNET), ("text_encoder", TEXT)):
        options |= {f"{part}.r": RANK, f"{part}.lora_alpha": ALPHA}
        options[f"{part}.target_modules"] = [name.removeprefix("text_model.") for name in names]
    file = write(tmp_path / "lora.safetensors", peft(factors), **options)
    expected = fused(model_folder, file)
    plain = load(model_folder, file, 0.0)
    # diffusers leaves out kohya's updates of the text encoder's attention, with a warning.
    other = load(model_folder, write(tmp_path / "kohya.safetensors", kohya(factors)))
    for part, module in load(model_folder, file).items():
        theirs, before = expected[part].state_dict(), plain[part].state_dict()
        changed = 0
        for name, weight in module.state_dict().items():
            torch.testing.assert_close(weight, theirs[name], rtol=1e-5, atol=1e-6)
            assert torch.equal(weight, other[part].state_dict()[name])
            changed += not torch.equal(weight, before[name])
        assert changed == len(UNET if part == "unet" else TEXT)


def test_older_names_without_alpha_are_of_the_scale_one(model_folder, factors, tmp_path):
    attention = UNET[0].rpartition(".")[0]
    down, up = factors["unet", UNET[0]]
    text_down, text_up = factors["text_encoder", TEXT[0]]
    text = f"text_encoder.{TEXT[0].replace('q_proj', 'to_q_lora')}"
    for start in ("", "unet."):
        weights = {
            f"{start}{attention}.processor.to_k_lora.down.weight": down,
            f"{start}{attention}.processor.to_k_lora.up.weight": up,
            f"{text}.down.weight": text_down,
            f"{text}.up.weight": text_up,
        }
        torch.save(weights, tmp_path / "lora.bin")
        merged, plain = (load(model_folder, tmp_path / "lora.bin", scale) for scale in (1.0, 0.0))
        for part, layer, product in (
            ("unet", UNET[0], up @ down),
            ("text_encoder", TEXT[0].removeprefix("text_model."), text_up @ text_down),
        ):
            added = merged[part].get_parameter(f"{layer}.weight") - plain[part].get_parameter(
                f"{layer}.weight"
            )
            torch.testing.assert_close(added, product, rtol=1e-4, atol=1e-6)


def test_the_config_merges_it_and_the_record_names_it(make_config, factors, tmp_path):
    file = write(tmp_path / "lora.safetensors", kohya(factors))
    prints = []
    for options in (
        (),
        ("MODEL.DIFFUSION.LORA_FILE", str(file), "MODEL.DIFFUSION.LORA_SCALE", 0.5),
    ):
        cfg = make_config(*options)
        unet = build_diffusion_backbone(cfg, None).unet
        text = open_model_of(cfg).load_text_encoder()
        prints.append((unet.base_fingerprint, text.base_fingerprint))
    assert not set(prints[0]) & set(prints[1])
    provenance = LoraFile(file, 0.5).provenance
    assert provenance["ranks"] == [RANK] and provenance["scale"] == 0.5


@pytest.mark.parametrize("keys", [peft, kohya])
def test_updates_of_the_first_stable_diffusion_are_refused_by_the_xl(
    keys, sdxl_folder, factors, tmp_path
):
    file = write(tmp_path / "lora.safetensors", keys(factors))
    with pytest.raises(UserError, match="lora.safetensors: .*made for another base model"):
        open_diffusion_model(str(sdxl_folder)).add_lora(LoraFile(file))


def test_updates_of_another_base_and_of_other_kinds_are_refused(model_folder, factors, tmp_path):
    """Before weights are read: there are none."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    for weights in folder.rglob("*.safetensors"):
        weights.write_bytes(b"")
    down, up = factors["unet", UNET[0]]
    key = f"unet.{UNET[0]}.lora"

    def refused(message, name, down=down, up=up, suffixes=("_A.weight", "_B.weight"), **options):
        weights = {name + suffix: t for suffix, t in zip(suffixes, (down, up), strict=False)}
        file = write(tmp_path / "lora.safetensors", weights, **options)
        with pytest.raises(UserError, match=f"lora.safetensors: .*{message}"):
            open_diffusion_model(str(folder)).add_lora(LoraFile(file))

    other = "made for another base model"
    refused(
        rf"\(.*, 2\) x \(2, 768\), and the weight is of .*: .*{other}", key, torch.randn(2, 768)
    )
    refused(
        f"{other}.*no such layer", key.replace("blocks.0.attentions.0", "blocks.3.attentions.0")
    )
    refused("updates a text_encoder_2: .* has none", "text_encoder_2.encoder.layers.0.fc1.lora")
    refused("of no transformer", "transformer.transformer_blocks.0.attn.to_q.lora")
    refused("not DoRA", key, suffixes=("_A.weight", "_magnitude_vector"))
    refused("has but one of two factors", key, suffixes=("_A.weight",))
    refused("trained with unet.use_rslora", key, **{"unet.use_rslora": True})
    with pytest.raises(UserError, match="must name a file in it, such as pytorch_lora_weights"):
        LoraFile(tmp_path)
    (tmp_path / "damaged.safetensors").write_bytes(b"\0" * 30)
    with pytest.raises(UserError, match="damaged.safetensors: cannot be read as low-rank updates"):
        LoraFile(tmp_path / "damaged.safetensors")
