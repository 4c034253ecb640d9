"""Caption -> prompt -> context."""

import sys
import types

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline

from tadp_d2.conditioning.caption_prompt import check_modifier, make_prompt
from tadp_d2.conditioning.domains import Modifier, get_modifier
from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.errors import UserError

from ..tiny_model import TEXT_WIDTH

LONG = " ".join(["a dog and a car in a park"] * 20)


@pytest.fixture(scope="module")
def text(model_folder):
    return TextEncoder.from_pretrained(model_folder)


def tokens(text, prompt):
    return len(text.tokenizer(prompt).input_ids)


def test_contexts_are_those_of_stable_diffusions_own_pipeline(text, model_folder):
    pipeline = StableDiffusionPipeline.from_pretrained(model_folder)
    prompts = ["", "a dog", "a watercolor style painting of two birds"]
    expected, _ = pipeline.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=False)
    context = text(prompts)
    assert context.embeddings.shape == (3, 77, TEXT_WIDTH)
    assert context.mask is None
    torch.testing.assert_close(context.embeddings, expected, rtol=1e-5, atol=1e-5)


def test_a_context_depends_on_its_prompt_alone(text):
    alone = text(["a dog"]).embeddings[0]
    assert torch.equal(text(["a car", "a dog"]).embeddings[1], alone)
    text._cache.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = text(["two birds", "a dog"]).embeddings[1]
    assert again.dtype == torch.float32
    assert torch.equal(again, alone)


def test_each_prompt_is_encoded_once(model_folder, monkeypatch):
    text = TextEncoder.from_pretrained(model_folder, cache_size=2)
    encoded = []
    encode = text._encode
    monkeypatch.setattr(text, "_encode", lambda p, device: encoded.append(p) or encode(p, device))
    for prompt in ("a", "b", "a", "c", "a", "b"):
        text([prompt])
    # "b" was used least recently when "c" came, and had to be encoded again.
    assert encoded == ["a", "b", "c", "b"]


def test_without_a_cache(model_folder):
    text = TextEncoder.from_pretrained(model_folder, cache_size=0)
    assert torch.equal(*(text(["a dog"]).embeddings for _ in range(2)))
    assert not text._cache


def test_short_captions_are_kept_whole(text):
    modifier = get_modifier("watercolor", "simple")
    assert make_prompt(" two  dogs ", modifier, text) == "a watercolor style painting of two dogs"
    assert make_prompt("", get_modifier("", "null"), text) == ""


@pytest.mark.parametrize("name", ["null", "simple", "dreambooth", "nearby", "unrelated"])
@pytest.mark.parametrize("domain", ["watercolor", "night"])
def test_long_captions_lose_their_last_words_and_the_modifier_none(text, domain, name):
    modifier = get_modifier(domain, name)
    before, after = modifier.template.split("{caption}")
    prompt = make_prompt(LONG, modifier, text)
    kept = prompt.removeprefix(before).removesuffix(after)
    assert prompt == before + kept + after
    assert LONG.startswith(kept)
    assert tokens(text, prompt) <= 77
    one_more = " ".join(LONG.split()[: len(kept.split()) + 1])
    assert tokens(text, before + one_more + after) > 77


@pytest.fixture
def night(model_folder, tmp_path):
    """A text encoder with a token of three vectors."""
    file = tmp_path / "learned_embeds.safetensors"
    safetensors.torch.save_file({"<Night>": torch.ones(3, TEXT_WIDTH)}, file)
    return TextEncoder.from_pretrained(model_folder, [file])


def test_tokens_are_written_out_in_the_modifier_and_not_in_the_caption(night):
    whole = "<Night> <Night>_1 <Night>_2"
    modifier = get_modifier("night", "ti")
    check_modifier(modifier, night)
    assert make_prompt("a dog", modifier, night) == f"a dark {whole} photo of a dog"
    prompt = make_prompt("a <night> sign", modifier, night)
    assert prompt == f"a dark {whole} photo of a <night> sign"
    assert make_prompt("a <Night> sign", get_modifier("", "null"), night) == "a <Night> sign"


@pytest.mark.parametrize(
    "caption, kept",
    [
        ("犬" * 400, ""),
        ("a dog and " + "x" * 300 + " in a park", "a dog and "),
        (" ".join(["two dogs"] * 30) + " " + "y" * 300, " ".join(["two dogs"] * 30) + " "),
    ],
)
@pytest.mark.parametrize("name", ["null", "simple", "dreambooth"])
def test_a_word_that_no_prompt_has_room_for_keeps_its_beginning(text, caption, kept, name):
    modifier = get_modifier("night", name)
    before, after = modifier.template.split("{caption}")
    prompt = make_prompt(caption, modifier, text)
    read = prompt.removeprefix(before).removesuffix(after)
    assert prompt == before + read + after and caption.startswith(read)
    assert len(read) > len(kept) + 3
    assert tokens(text, prompt) <= 77 < tokens(text, before + caption[: len(read) + 1] + after)


def test_a_long_word_with_room_elsewhere_goes_as_a_whole(text):
    words = ["a dog"] * 35 + ["z" * 40]
    assert make_prompt(" ".join(words), get_modifier("", "null"), text) == " ".join(words[:-1])


def test_captions_are_normalized_and_modifiers_are_not(model_folder, monkeypatch):
    fake = types.SimpleNamespace(fix_text=str.upper, __version__="6.3")
    monkeypatch.setitem(sys.modules, "ftfy", fake)
    text = TextEncoder.from_pretrained(model_folder, normalization="openai")
    prompt = make_prompt("a dog &amp; a bird", Modifier("template", "&lt; {caption}"), text)
    assert prompt == "&lt; A DOG &AMP; A BIRD".replace("&AMP;", "&")
    assert text.provenance["normalization"] == "openai (ftfy 6.3)"


def test_a_modifier_that_fills_the_prompt_is_an_error(text):
    modifier = Modifier("template", LONG + " {caption}")
    with pytest.raises(UserError, match="tokens longer than the 77"):
        check_modifier(modifier, text)


def test_the_text_encoder_is_frozen(text):
    text.train()
    assert not any(module.training for module in text.text_encoder.modules())
    assert not any(parameter.requires_grad for parameter in text.parameters())
    assert text.state_dict() == {}
    assert not text(["a dog"]).embeddings.requires_grad
