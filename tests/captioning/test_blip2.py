"""Captions by a tiny BLIP-2: each depends on its picture alone, and is what the model says."""

import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from transformers import AutoProcessor

from tadp_d2.captioning.blip2 import Blip2Settings, Captioner, blip2, find_captioner
from tadp_d2.data.images import read_rgb
from tadp_d2.device import find_device
from tadp_d2.errors import UserError
from tadp_d2.synthetic.tiny_captioner import NEWLINE, write_tiny_captioner


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioner") / "tiny"
    write_tiny_captioner(folder, seed=0)
    return folder


@pytest.fixture(scope="module")
def captioner(folder):
    return Captioner.from_pretrained(str(folder))


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of many sizes and modes, read as the command reads them."""
    rng = np.random.default_rng(0)
    arrays = [
        (rng.random((10 + 7 * i, 90 - 6 * i, 3)) * 255 * (i + 1) / 12).astype(np.uint8)
        for i in range(12)
    ]
    rotated = Image.Exif()
    rotated[0x0112] = 6
    modes = (*("RGB",) * 6, "RGBA", "L", "P", "CMYK", "RGB", "1")
    folder, pictures = tmp_path_factory.mktemp("pictures"), []
    for i, (array, mode) in enumerate(zip(arrays, modes, strict=True)):
        path = folder / f"{i}.{'jpg' if i in (9, 10) else 'png'}"
        Image.fromarray(array).convert(mode).save(path, exif=rotated if i == 10 else b"")
        pictures.append(read_rgb(path)[0])
    return pictures


@pytest.fixture(scope="module")
def alone(captioner, pictures):
    """min_new_tokens -> the caption of every picture, made by itself."""
    return {n: [captioner.captions([p], n)[0] for p in pictures] for n in (0, 20)}


@pytest.mark.parametrize("min_new_tokens", [0, 20])
@pytest.mark.parametrize("batch_size", [2, 5, 12])
def test_a_caption_does_not_depend_on_its_batch(
    captioner, pictures, alone, batch_size, min_new_tokens
):
    captions = []
    for start in range(0, len(pictures), batch_size):
        captions += captioner.captions(pictures[start : start + batch_size], min_new_tokens)
    assert captions == alone[min_new_tokens]
    backwards = captioner.captions(pictures[::-1], min_new_tokens)
    assert backwards[::-1] == alone[min_new_tokens]


def test_captions_differ_in_words_and_length(alone):
    """So that the test above has something to find."""
    for captions in alone.values():
        assert len(set(captions)) > 6
        assert len({len(caption.split()) for caption in captions}) > 3


def test_a_caption_is_the_most_likely_word_after_word(captioner, pictures, alone):
    """An independent greedy search with the model's forward pass."""
    model, tokenizer = captioner.model, captioner.processor.tokenizer
    end = tokenizer.convert_tokens_to_ids(NEWLINE)
    config = model.config
    # Those that end first, so that a bound matters.
    chosen = sorted(range(len(pictures)), key=lambda i: len(alone[0][i]))[:2]
    for least in (0, 40):
        for picture in (pictures[i] for i in chosen):
            pixels = captioner.processor.image_processor(picture, return_tensors="pt").pixel_values
            ids = [config.image_token_index] * config.num_query_tokens + [tokenizer.bos_token_id]
            start = len(ids)
            while len(ids) - start < 77:
                with torch.no_grad():
                    logits = model(pixel_values=pixels, input_ids=torch.tensor([ids])).logits[0, -1]
                if len(ids) - start < least:
                    logits[end] = -torch.inf
                ids.append(int(logits.argmax()))
                if ids[-1] == end:
                    break
            words = tokenizer.decode(ids[start:], skip_special_tokens=True)
            assert captioner.captions([picture], least) == [" ".join(words.split())]


def test_the_bounds_on_its_length_hold(captioner, pictures, alone):
    """A token of this model is a word, or the end."""
    ended = [i for i, caption in enumerate(alone[0]) if len(caption.split()) < 60]
    assert ended
    for i in ended:
        length = len(alone[0][i].split())
        assert captioner.captions([pictures[i]], length) == [alone[0][i]]
        (longer,) = captioner.captions([pictures[i]], length + 1)
        assert longer.startswith(alone[0][i]) and len(longer.split()) > length
    assert max(len(c.split()) for c in captioner.captions(pictures, 0, 7)) == 7


def test_a_text_is_put_on_one_line_and_not_changed_otherwise(captioner, pictures, monkeypatch):
    class Processor:
        image_processor = captioner.processor.image_processor

        @staticmethod
        def batch_decode(_, skip_special_tokens):
            assert skip_special_tokens
            return ["  A  dog\n on\ta mat. ", "\n"]

    assert Captioner(captioner.model, Processor).captions(pictures[:2], 0, 1) == [
        "A dog on a mat.",
        "",
    ]


def test_the_same_seed_writes_the_same_model(folder, tmp_path):
    write_tiny_captioner(tmp_path / "same", seed=0)
    for path in folder.iterdir():
        assert (tmp_path / "same" / path.name).read_bytes() == path.read_bytes(), path.name
    write_tiny_captioner(tmp_path / "other", seed=1)
    names = ("model.safetensors", "tokenizer.json")
    equal = [(tmp_path / "other" / n).read_bytes() == (folder / n).read_bytes() for n in names]
    assert equal == [False, True]


@pytest.mark.parametrize(
    "file", ["config.json", "processor_config.json", "tokenizer.json", "model.safetensors"]
)
def test_a_missing_file_is_named_with_what_to_do(copy, file):
    (copy / file).unlink()
    with pytest.raises(UserError, match=rf"copy: lacks [^,]*\b{file}.*hf download"):
        find_captioner(str(copy))


def test_a_missing_part_of_the_weights_is_named(copy):
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    index = '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-2.safetensors"}}'
    (copy / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=r"lacks model-2.safetensors of"):
        find_captioner(str(copy))


def test_weights_that_lack_a_tensor_are_refused(copy):
    tensors = safetensors.torch.load_file(copy / "model.safetensors")
    del tensors["language_projection.weight"]
    safetensors.torch.save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="its weights lack language_projection.weight"):
        Captioner.from_pretrained(str(copy))
    (copy / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(UserError, match="copy: cannot be loaded"):
        Captioner.from_pretrained(str(copy))


def test_a_model_that_chats_is_refused(folder, captioner, monkeypatch):
    monkeypatch.setattr(captioner.processor, "chat_template", "{{ messages }}", raising=False)
    monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda *_, **__: captioner.processor)
    with pytest.raises(UserError, match="answers questions in a chat"):
        Captioner.from_pretrained(str(folder))


def test_offline_a_hub_id_is_an_error_without_asking_the_network(monkeypatch):
    import socket

    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(UserError, match="no captioning model 'Salesforce/blip2-opt-2.7b'"):
        find_captioner()


def test_a_model_in_the_hub_cache_goes_by_its_commit(folder, tmp_path, monkeypatch):
    commit = "0" * 40
    snapshot = tmp_path / "models--owner--name" / "snapshots" / commit
    shutil.copytree(folder, snapshot)
    (tmp_path / "models--owner--name" / "refs").mkdir()
    (tmp_path / "models--owner--name" / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert find_captioner("owner/name") == snapshot
    made_by = blip2("owner/name", device="cpu").made_by
    assert (made_by["model"], made_by["revision"]) == ("owner/name", commit)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(UserError, match="lacks model.safetensors"):
        find_captioner("owner/name")


def test_a_folder_goes_by_its_weights(folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / folder.name)
    made_by = blip2(str(folder), device="cpu").made_by
    assert made_by == blip2(str(moved), device="cpu").made_by
    write_tiny_captioner(moved, seed=1)
    assert made_by["revision"] != blip2(str(moved), device="cpu").made_by["revision"]


def test_settings_out_of_range_are_errors(folder):
    with pytest.raises(UserError, match="--min-new-tokens 9 --max-new-tokens 8"):
        blip2(str(folder), settings=Blip2Settings("fp32", 9, 8))
    with pytest.raises(UserError, match="--dtype fp8: expected one of fp32, bf16, fp16"):
        blip2(str(folder), settings=Blip2Settings("fp8"))
    with pytest.raises(UserError, match="--device tpu99: cannot be used"):
        find_device("tpu99")
    with pytest.raises(UserError, match="is a folder and has no revision .main."):
        blip2(str(folder), revision="main")
