"""Where a diffusion model is looked for, and what is said when it is not there."""

import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import CLIPTokenizer

from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.diffusion.families import find_model, open_diffusion_model
from tadp_d2.diffusion.model_folder import STABLE_DIFFUSION, TOKENIZER, find_folder
from tadp_d2.diffusion.stable_diffusion import load_unet
from tadp_d2.diffusion.unet_features import unet_fingerprint
from tadp_d2.errors import UserError

from ..tiny_model import TEXT_WIDTH


def test_a_folder_is_used_as_it_is(model_folder):
    assert find_model(str(model_folder))[1] == model_folder


def test_a_folder_that_lacks_a_part_is_an_error(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "vae")
    with pytest.raises(UserError, match="lacks vae/config.json"):
        find_model(str(tmp_path / "model"))


def test_a_tokenizer_in_the_newer_format_is_one_too(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(model_folder / "tokenizer")
    tokenizer.save_pretrained(tmp_path / "model" / "tokenizer")
    assert not (tmp_path / "model" / "tokenizer" / "vocab.json").exists()
    assert find_model(str(tmp_path / "model"))[1] == tmp_path / "model"
    text = TextEncoder.from_pretrained(tmp_path / "model")
    assert text.tokenizer("a dog").input_ids == tokenizer("a dog").input_ids


def test_damaged_weights_are_named(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    (file,) = (tmp_path / "model" / "unet").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="unet: cannot be loaded"):
        load_unet(tmp_path / "model" / "unet")
    (tmp_path / "model" / "text_encoder" / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(UserError, match="text_encoder: cannot be loaded"):
        TextEncoder.from_pretrained(tmp_path / "model")


def test_weights_in_shards_are_found_and_a_missing_one_is_named(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    folder = tmp_path / "model" / "unet"
    whole = load_unet(folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    whole.save_pretrained(folder, max_shard_size="2MB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert find_model(str(tmp_path / "model"))[1] == tmp_path / "model"
    for name, tensor in load_unet(folder).state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name])
    shard = min(folder.glob("*.safetensors"))
    shard.unlink()
    with pytest.raises(UserError, match=rf"lacks unet/{shard.name} of a diffusion model"):
        find_model(str(tmp_path / "model"))
    with pytest.raises(UserError, match=rf"lacks {shard.name} of a UNet"):
        load_unet(folder)
    (index,) = folder.glob("*.index.json")
    index.write_text('{"weight_map": []}')
    with pytest.raises(UserError, match="index.json: cannot be read as an index of shards"):
        load_unet(folder)


def test_a_variant_is_read_where_there_is_no_other_and_two_are_named(model_folder, tmp_path):
    folder = tmp_path / "model"
    pipeline = StableDiffusionPipeline.from_pretrained(model_folder, dtype=torch.float16)
    for size in ("10GB", "2MB"):
        shutil.rmtree(folder, ignore_errors=True)
        pipeline.save_pretrained(folder, variant="fp16", max_shard_size=size)
        assert not list(folder.rglob("*model.safetensors"))
        assert find_model(str(folder))[1] == folder
        assert not STABLE_DIFFUSION.missing(folder)
        # The tiny model's own files are of half precision, too.
        unet = load_unet(folder / "unet")
        assert unet.dtype == torch.float32
        assert unet_fingerprint(unet) == unet_fingerprint(load_unet(model_folder / "unet"))
        text, own = map(TextEncoder.from_pretrained, (folder, model_folder))
        assert text.base_fingerprint == own.base_fingerprint
    assert len(list((folder / "unet").glob("*.fp16-*-of-*.safetensors"))) > 2
    shard = min((folder / "unet").glob("*-of-*.safetensors"))
    shard.unlink()
    with pytest.raises(UserError, match=f"lacks unet/{shard.name} of a diffusion model"):
        find_model(str(folder))
    shutil.rmtree(folder / "unet")
    for variant in ("fp16", "non_ema"):
        pipeline.unet.save_pretrained(folder / "unet", variant=variant)
    told = "lacks unet/.* of the variants fp16 and non_ema: leave one of them in the folder"
    with pytest.raises(UserError, match=told):
        find_model(str(folder))
    pipeline.unet.save_pretrained(folder / "unet")
    assert find_model(str(folder))[1] == folder


def test_other_formats_are_named(model_folder, tmp_path):
    shutil.copytree(model_folder / "unet", tmp_path / "unet")
    (weights,) = (tmp_path / "unet").glob("*.safetensors")
    weights.rename(weights.with_name("flax_model.msgpack"))
    with pytest.raises(UserError, match=r"there is flax_model.msgpack\)"):
        load_unet(tmp_path / "unet")


def test_what_is_no_folder_and_no_id_is_told_from_a_hub_model(tmp_path):
    file = tmp_path / "captions.txt"
    file.touch()
    with pytest.raises(UserError, match="expected the folder of a diffusion model, or a checkpoin"):
        find_model(str(file))
    with pytest.raises(UserError, match="is a file, not the folder of a tokenizer"):
        find_folder(TOKENIZER, str(file))
    with pytest.raises(UserError, match="there is no such folder, and a hub id has the form"):
        find_model(str(tmp_path / "absent"))


def test_a_revision_of_a_folder_is_an_error(model_folder):
    with pytest.raises(UserError, match="is a folder and has no revision 'main'"):
        find_model(str(model_folder), "main")


class _CutOff(Exception):
    """As httpx's RemoteProtocolError, which is no OSError."""


def write_index(folder, pipeline, **parts):
    folder.mkdir(parents=True, exist_ok=True)
    index = {name: ["diffusers", kind] for name, kind in parts.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **index}))


@pytest.mark.parametrize(
    "pipeline, parts, message",
    [
        (
            "StableVideoDiffusionPipeline",
            {"unet": "UNetSpatioTemporalConditionModel", "image_encoder": "CLIPVisionModel"},
            "is of a StableVideoDiffusionPipeline .*unet UNetSpatioTemporalConditionModel.*; "
            "expected the text-to-image model of one of the families .*Stable Diffusion 1",
        ),
        (
            "StableDiffusionInpaintPipeline",
            {"unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel"},
            "whose UNet reads a mask and the rest of the image, for inpainting besides the noisy",
        ),
    ],
)
def test_another_kind_of_pipeline_is_refused_before_it_is_fetched(
    tmp_path, monkeypatch, pipeline, parts, message
):
    write_index(tmp_path / "local", pipeline, **parts)
    with pytest.raises(UserError, match=message):
        open_diffusion_model(str(tmp_path / "local"))
    asked = []

    def download(name, revision, local_files_only=False, allow_patterns=()):
        if local_files_only:
            raise LocalEntryNotFoundError("not here")
        asked.append(allow_patterns)
        return str(tmp_path / "local")

    monkeypatch.setattr("tadp_d2.diffusion.model_folder.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match=message):
        open_diffusion_model("owner/name")
    assert asked == [["model_index.json"]]


def test_parts_of_different_models_are_refused_before_weights_are_read(model_folder, tmp_path):
    """No weights are there at all, but for empty files."""
    shutil.copytree(model_folder, tmp_path / "model")
    for file in (tmp_path / "model").rglob("*.safetensors"):
        file.write_bytes(b"")
    open_diffusion_model(str(tmp_path / "model"))
    config = tmp_path / "model" / "unet" / "config.json"
    content = json.loads(config.read_text())
    for option, value, message in (
        ("in_channels", 9, "reads latents of 9 channels, .* writes 4; one of 9 reads a mask"),
        ("cross_attention_dim", 1024, f"of width 1024, but the text encoder writes {TEXT_WIDTH}"),
        ("num_class_embeds", 1000, "num_class_embeds is 1000, expected null"),
    ):
        config.write_text(json.dumps({**content, option: value}))
        with pytest.raises(UserError, match=message):
            open_diffusion_model(str(tmp_path / "model"))


@pytest.mark.parametrize(
    "error", [_CutOff("peer closed connection"), json.JSONDecodeError("no JSON", "<html>", 0)]
)
def test_an_error_of_a_transport_is_a_message(error, monkeypatch):
    def fail(*_, **how):
        if how.get("local_files_only"):
            raise LocalEntryNotFoundError("not here")
        raise error

    monkeypatch.setattr("tadp_d2.diffusion.model_folder.snapshot_download", fail)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(UserError) as raised:
        find_model("owner/name")
    message = str(raised.value)
    assert message.startswith("no diffusion model 'owner/name'") and str(error) in message
    assert message.endswith(STABLE_DIFFUSION.advice)


def test_what_is_here_in_part_is_completed_and_not_mixed(model_folder, tmp_path, monkeypatch):
    commit = "0" * 40
    snapshot = tmp_path / commit
    shutil.copytree(model_folder, snapshot)
    shutil.rmtree(snapshot / "vae")
    asked = []

    def download(name, revision, local_files_only=False, allow_patterns=()):
        asked.append(revision)
        if not local_files_only:
            shutil.copytree(model_folder / "vae", snapshot / "vae")
        return str(snapshot)

    monkeypatch.setattr("tadp_d2.diffusion.model_folder.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert find_folder(TOKENIZER, "owner/name") == snapshot
    with pytest.raises(UserError, match="lacks vae/config.json"):
        find_folder(STABLE_DIFFUSION, "owner/name", ask_hub=False)
    assert asked == [None, None]
    assert find_model("owner/name")[1] == snapshot
    assert asked == [None, None, None, None, commit]


def test_offline_a_hub_id_is_an_error_without_asking_the_network(monkeypatch):
    import socket

    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(UserError, match="neither a folder nor in the local hub cache"):
        find_model("stable-diffusion-v1-5/stable-diffusion-v1-5")


def test_a_model_in_the_hub_cache_is_used_offline(model_folder, tmp_path, monkeypatch):
    revision = "0" * 40
    snapshot = tmp_path / "models--owner--name" / "snapshots" / revision
    shutil.copytree(model_folder, snapshot)
    (tmp_path / "models--owner--name" / "refs").mkdir()
    (tmp_path / "models--owner--name" / "refs" / "main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert find_model("owner/name")[1] == snapshot
    assert find_model("owner/name", revision)[1] == snapshot
    with pytest.raises(UserError, match="neither a folder nor in the local hub cache"):
        find_model("owner/name", "1" * 40)
