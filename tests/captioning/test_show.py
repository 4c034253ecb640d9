"""`tadp-d2 captions show`: what it finds is what is there, and its prompts are the model's."""

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers import CLIPTokenizer

from tadp_d2.captioning.show import coverage, find_loop, find_loops, style_words, token_lengths
from tadp_d2.captioning.store import CaptionStore
from tadp_d2.cli import main
from tadp_d2.conditioning.caption_prompt import make_prompt
from tadp_d2.conditioning.domains import DOMAINS
from tadp_d2.data.texts import Caption, read_captions, write_captions
from tadp_d2.diffusion.clip_text import TextEncoder

LONG = "a dog and a cat and a bird in a park near a street with a car and a bicycle "


@pytest.fixture
def encoder(model_folder):
    return TextEncoder.from_pretrained(model_folder)


def _show(capsys, *arguments):
    capsys.readouterr()
    main(["captions", "show", *map(str, arguments)])
    return capsys.readouterr().out


def _fails(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["captions", "show", *map(str, arguments)])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_coverage_names_what_lacks_on_either_side(tmp_path):
    write_captions(tmp_path / "d.jsonl", "d", {"1": "a", "9": "b", "3": ""}, {})
    found = coverage(["3", "2", "1", "0"], read_captions(tmp_path / "d.jsonl"))
    assert (found.images, found.missing, found.strangers) == (4, ["2", "0"], ["9"])


@pytest.mark.parametrize(
    ("text", "loop"),
    [
        ("a dog, a dog, a dog", "a dog"),
        ("A street with a Dog - a dog - a dog - a do", "a dog"),
        ("golden eagle, golden eagle, golden eagle, golden", "golden eagle"),
        ("the the the", "the"),
        ("a man on a red bus on a red bus on a red bus", "on a red bus"),
        ("a dog and a dog", ""),
        ("a dog, a cat and a dog", ""),
        ("a man and a woman and a child and a dog", ""),
        ("", ""),
    ],
)
def test_a_loop_is_a_phrase_three_times_in_a_row(text, loop):
    assert find_loop(text) == loop


@pytest.mark.skipif(
    not Path("../shared/data/tadp_captions").is_dir(), reason="the published files are not here"
)
def test_the_loops_of_the_published_captions():
    folder = Path("../shared/data/tadp_captions")
    loops = find_loops(read_captions(folder / "watercolor_captions.json").captions)
    assert list(loops.values()) == ["john lennon"]
    loops = find_loops(read_captions(folder / "voc_val_captions.json").captions)
    assert sorted(loops.values()) == ["australian cattle dog", "golden eagle"]


def test_style_words_are_those_of_the_cleaning():
    captions = {"1": "a watercolor painting of a dog", "2": "a dog"}
    assert list(style_words(captions, "watercolor")) == ["1"]


def test_a_caption_counts_as_too_long_if_the_model_would_cut_it(encoder, model_folder):
    """Against the prompts that the model reads, word by word around the limit."""
    words = (LONG * 5).split()
    captions = [" ".join(words[:n]) for n in range(55, 80)] + [""]
    tokenizer = CLIPTokenizer.from_pretrained(model_folder / "tokenizer")
    lengths = token_lengths(captions, tokenizer, ["night", "comic"])
    assert lengths.limit == 77
    for (domain, name), number in lengths.too_long.items():
        modifier = DOMAINS[domain].modifiers[name]
        if modifier.needs == "token":
            continue
        cut = [
            make_prompt(c, modifier, encoder) != modifier.template.format(caption=c).strip()
            for c in captions
        ]
        assert number == sum(cut) and 0 < number < len(captions)
    # A learned token is one token: the template has as many words as "simple".
    for domain in ("night", "comic"):
        assert lengths.too_long[domain, "ti"] == lengths.too_long[domain, "simple"]
    assert lengths.captions == [len(i) for i in encoder.tokenizer(captions).input_ids]


def test_a_data_set_at_a_glance(world, model_folder, tmp_path, capsys):
    source = world / "captions" / "watercolor_test.jsonl"
    captions = read_captions(source).captions
    ids = list(captions)
    captions[ids[0]] = "a watercolor of a dog"
    captions[ids[1]] = ""
    captions[ids[2]] = LONG * 5
    captions[ids[3]] = "a dog a dog a dog"
    del captions[ids[5]]
    captions["stranger"] = "a bird"
    write_captions(tmp_path / "watercolor_test.jsonl", "watercolor_test", captions, {"model": "m"})
    arguments = ("watercolor_test", "--caption-dir", tmp_path, "--weights", model_folder)
    out = _show(capsys, *arguments, "--domain", "watercolor")
    assert "made by: model m" in out
    assert "captions: 6, 0 of them cleaned" in out
    assert "images: 6, 5 with a caption" in out
    assert f"images without a caption: 1 ({ids[5]})" in out
    assert "captions without an image: 1 (stranger)" in out
    assert f"empty captions: 1 ({ids[1]})" in out
    assert "captions that loop (a phrase three times in a row): 2 (" in out
    assert f"{ids[3]} ('a dog'))" in out
    assert "tell of the domain watercolor: 1 (watercolor 1)" in out
    assert "by modifier: watercolor null 1, watercolor simple 1, watercolor ti 1" in out
    # A caption file can be named itself; its images are those of the data set of its name.
    assert "images: 6, 5 with" in _show(capsys, tmp_path / "watercolor_test.jsonl", *arguments[3:])


def test_without_a_tokenizer_the_rest_is_shown(world, capsys):
    out = _show(capsys, "comic_test")
    assert "images: 6, 6 with a caption" in out
    assert "lengths: not counted: no tokenizer 'stable-diffusion-v1-5/" in out
    assert "--weights names the folder of a diffusion model" in out
    assert "no tokenizer 'nowhere': it is neither" in _fails(
        capsys, "comic_test", "--weights", "nowhere"
    )


def test_without_its_images_a_file_is_still_shown(world, tmp_path, model_folder, capsys):
    shutil.copy(world / "captions" / "comic_test.jsonl", tmp_path / "mine.jsonl")
    out = _show(capsys, tmp_path / "mine.jsonl", "--weights", model_folder)
    assert "captions: 6" in out and "images: not compared ('mine' is neither" in out


def test_one_image_with_its_prompt_as_the_model_reads_it(model_folder, encoder, tmp_path, capsys):
    path = tmp_path / "d.jsonl"
    with CaptionStore(path, "d", {"model": "m"}) as store:
        store.add_captions({"1": Caption(f"a painting of {LONG * 5}"), "2": Caption("a cat")})
        store.add_cleaned({"1": (LONG * 5, {"method": "rules"})})
    arguments = ("--weights", model_folder, "--domain", "night", "--prompt", "dreambooth")
    out = _show(capsys, path, "1", "2", *arguments)
    prompt = make_prompt(LONG * 5, DOMAINS["night"].modifiers["dreambooth"], encoder)
    assert f"prompt:  {prompt!r}" in out and prompt.endswith("at sks night")
    assert len(prompt) < len(LONG * 5)
    assert "prompt:  'a dashcam photo of a cat at sks night'" in out
    assert f"raw:     {f'a painting of {LONG * 5}'!r}" in out
    assert f"cleaned: {LONG * 5!r}" in out and "method rules" in out and "made by: model m" in out
    template = ("--weights", model_folder, "--prompt", "charcoal of {caption}")
    assert "prompt:  'charcoal of a cat'" in _show(capsys, path, "2", *template)
    assert "needs the learned token: --token FILE" in _fails(
        capsys, path, "2", *arguments[:-1], "ti"
    )
    token = tmp_path / "learned_embeds.safetensors"
    width = encoder.text_encoder.module.config.hidden_size
    safetensors.torch.save_file({"<night>": torch.zeros(2, width)}, token)
    out = _show(capsys, path, "2", *arguments[:-1], "ti", "--token", token)
    assert "prompt:  'a dark <night> <night>_1 photo of a cat'" in out


def test_wrong_arguments_are_errors(world, tmp_path, capsys):
    assert "no caption for image 'x'" in _fails(capsys, "comic_test", "x")
    assert "--prompt shows the prompts of single images" in _fails(
        capsys, "comic_test", "--prompt", "null"
    )
    assert "--domain opera: expected one of" in _fails(capsys, "comic_test", "--domain", "opera")
    assert "no captions for data set 'comic_tset'" in _fails(capsys, "comic_tset")
    assert "there is no such caption file" in _fails(capsys, tmp_path / "none.json")
