"""Where a diffusion model is looked for, and what is said when it is not there."""

import shutil

import pytest
from transformers import CLIPTokenizer

from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.diffusion.model_folder import find_weights
from tadp_d2.diffusion.stable_diffusion import load_unet
from tadp_d2.errors import UserError


def test_a_folder_is_used_as_it_is(model_folder):
    assert find_weights(str(model_folder)) == model_folder


def test_a_folder_that_lacks_a_part_is_an_error(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "vae")
    with pytest.raises(UserError, match="lacks vae/config.json"):
        find_weights(str(tmp_path / "model"))


def test_a_tokenizer_in_the_newer_format_is_one_too(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(model_folder / "tokenizer")
    tokenizer.save_pretrained(tmp_path / "model" / "tokenizer")
    assert not (tmp_path / "model" / "tokenizer" / "vocab.json").exists()
    assert find_weights(str(tmp_path / "model")) == tmp_path / "model"
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


def test_offline_a_hub_id_is_an_error_without_asking_the_network(monkeypatch):
    import socket

    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(UserError, match="neither a folder nor in the local hub cache"):
        find_weights("stable-diffusion-v1-5/stable-diffusion-v1-5")


def test_a_model_in_the_hub_cache_is_used_offline(model_folder, tmp_path, monkeypatch):
    revision = "0" * 40
    snapshot = tmp_path / "models--owner--name" / "snapshots" / revision
    shutil.copytree(model_folder, snapshot)
    (tmp_path / "models--owner--name" / "refs").mkdir()
    (tmp_path / "models--owner--name" / "refs" / "main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert find_weights("owner/name") == snapshot
    assert find_weights("owner/name", revision) == snapshot
    with pytest.raises(UserError, match="neither a folder nor in the local hub cache"):
        find_weights("owner/name", "1" * 40)
