"""The maps of words are those that the head receives."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional as F

from tadp_d2.cli import main
from tadp_d2.conditioning.templates import TEMPLATES
from tadp_d2.errors import UserError
from tadp_d2.inference.predictor import Predictor, load_model
from tadp_d2.inference.word_maps import (
    AttentionProbe,
    average,
    compare,
    load_captions_conditioner,
    load_untrained,
    make_prompts,
)
from tadp_d2.modeling.backbone import find_diffusion_backbone

PIXELS = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)


def trained(cfg):
    return find_diffusion_backbone(load_model(cfg))


def seen_by_head(predictor, caption):
    """The features that the model's own forward pass hands to its FPN."""
    received = []
    backbone = find_diffusion_backbone(predictor.model)
    handle = backbone.register_forward_hook(lambda *args: received.append(args[-1]))
    predictor(PIXELS, caption)
    handle.remove()
    return received[0]


def test_maps_are_those_that_the_detectors_head_receives(detector, trained_config):
    cfg = trained_config(detector)
    features = seen_by_head(Predictor(cfg), "a dog and a bird")
    prompts = make_prompts(load_captions_conditioner(cfg), "a dog and a bird")
    assert list(prompts) == ["caption"]
    words = [word.text for word in prompts["caption"].words]
    assert words == ["a", "watercolor", "style", "painting", "of", "a", "dog", "and", "a", "bird"]
    maps = AttentionProbe(cfg, trained(cfg))(PIXELS, prompts["caption"])
    assert list(maps) == ["s4", "s5", "mean"]
    for level, side in (("s4", 8), ("s5", 4)):
        assert maps[level].shape == (10, side, side)
        # Each word is one token here; the first token is the text's start.
        assert torch.equal(maps[level], features[level][0, -77:][1:11])
    enlarged = F.interpolate(maps["s5"][None], (8, 8), mode="bilinear")[0]
    torch.testing.assert_close(maps["mean"], (maps["s4"] + enlarged) / 2)


def test_a_segmentor_looks_at_the_whole_picture_and_padding_is_cut_off(segmentor, trained_config):
    # 160 x 64 is padded to 192 x 64.
    size = ("INPUT.FIXED_SIZE_TEST", (160, 64), "TEST.WINDOW_SIZE", 0)
    cfg = trained_config(segmentor, *size)
    prompts = make_prompts(load_captions_conditioner(cfg), "two cars")
    maps = AttentionProbe(cfg, trained(cfg))(PIXELS, prompts["caption"])
    features = seen_by_head(Predictor(cfg), "two cars")
    words = ["a", "dark", "night", "photo", "of", "two", "cars"]
    assert maps["s4"].shape == (len(words), 4, 10)
    assert features["s4"].shape[2:] == (4, 12)
    assert torch.equal(maps["s4"], features["s4"][0, -77:][1:8, :, :10])


def test_the_maps_before_training_are_the_diffusion_models_own(detector, trained_config):
    cfg = trained_config(detector)
    prompts = make_prompts(load_captions_conditioner(cfg), "a dog")
    before, after = (
        AttentionProbe(cfg, load(cfg))(PIXELS, prompts["caption"])
        for load in (load_untrained, trained)
    )
    assert not torch.equal(before["s4"], after["s4"])

    def make(conditioner):
        return make_prompts(conditioner, "a dog")

    found, maps = compare(cfg, PIXELS, make)
    assert found["caption"].text == prompts["caption"].text
    states = maps["caption"]
    assert list(states) == ["before training", "after training"]
    untrained = trained_config(detector, "MODEL.WEIGHTS", "")
    alone = compare(untrained, PIXELS, make)[1]["caption"]
    assert list(alone) == ["before training"]
    for level in ("s4", "s5", "mean"):
        assert torch.equal(states["before training"][level], before[level])
        assert torch.equal(states["after training"][level], after[level])
        assert torch.equal(alone["before training"][level], before[level])


def test_self_attention_maps_are_left_out(detector, trained_config):
    key = "MODEL.DIFFUSION.ATTENTION_MAPS.SELF_ATTENTION"
    plain, more = trained_config(detector), trained_config(detector, key, (128, 128))
    prompt = make_prompts(load_captions_conditioner(plain), "a dog")["caption"]
    expected, found = (AttentionProbe(c, load_untrained(c))(PIXELS, prompt) for c in (plain, more))
    for level, maps in expected.items():
        torch.testing.assert_close(found[level], maps)


def test_the_average_is_over_levels_of_one_size():
    fine = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    coarse = torch.tensor([[[5.0]]])
    assert average([coarse, fine]).tolist() == [[[2.5, 3.0], [3.5, 4.0]]]


def test_a_class_is_the_mean_of_its_sentences_ends(detector, trained_config):
    conditioning = load_captions_conditioner(trained_config(detector))
    classes = ["dog", "pottedplant"]
    prompts = make_prompts(conditioning, "a dog", ["dog", "cat"], classes)
    assert prompts["oracle"].text == "a watercolor style painting of dog cat"
    assert prompts["class names"].text == "a watercolor style painting of dog pottedplant"
    embeddings = prompts["class embeddings"].context.embeddings
    tokenizer, encoder = conditioning.text.tokenizer, conditioning.text.text_encoder.module
    for name, embedding in zip(classes, embeddings[0], strict=True):
        ends = []
        for sentence in TEMPLATES["object"]:
            # Without padding, the last token is the end of the text.
            ids = tokenizer(sentence.format(name), return_tensors="pt").input_ids
            with torch.no_grad():
                ends.append(encoder(ids).last_hidden_state[0, -1])
        torch.testing.assert_close(embedding, torch.stack(ends).mean(0), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="the caption is empty"):
        make_prompts(
            load_captions_conditioner(trained_config(detector, "TEXT.MODIFIER", "null")), " "
        )


def test_words_that_are_not_read_are_told(detector, trained_config, caplog):
    conditioning = load_captions_conditioner(trained_config(detector))
    prompts = make_prompts(conditioning, "a dog " + "red " * 80 + "bird", ["dog"])
    assert prompts["caption"].words[-1].text == "red"
    (told,) = (record.message for record in caplog.records if "too long" in record.message)
    assert told.startswith("The caption is too long to be read: cut to 'a watercolor")


def test_a_model_without_maps_says_so(detector, trained_config):
    cfg = trained_config(detector, "MODEL.DIFFUSION.ATTENTION_MAPS.LEVELS", ())
    with pytest.raises(UserError, match="ATTENTION_MAPS.LEVELS is empty"):
        AttentionProbe(cfg, load_untrained(cfg))


@pytest.fixture
def attention(tmp_path, capsys):
    """attention(argument, ...) runs the command; returns its error message, or what it prints."""
    Image.fromarray(PIXELS).save(tmp_path / "picture.png")

    def run(*arguments):
        words = ("attention", tmp_path / "picture.png", "--output", tmp_path / "a.png", *arguments)
        capsys.readouterr()
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            err = capsys.readouterr().err
            assert stop.code == 2 and "Traceback" not in err
            return err[err.index("error: ") :]
        return capsys.readouterr().out

    return run


def test_the_command_draws_a_trained_model_before_and_after(
    attention, detector, trained_config, tmp_path
):
    weights = detector / "model_final.pth"
    printed = attention("--caption", "a dog", "--objects", "dog", "--weights", weights)
    assert "caption: 'a watercolor style painting of a dog'\n" in printed
    numbers = load_file(tmp_path / "a.safetensors")
    names = ("caption", "oracle", "class names", "class embeddings")
    states, levels = ("before training", "after training"), ("s4", "s5", "mean")
    assert set(numbers) == {f"{n}/{s}/{level}" for n in names for s in states for level in levels}
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        record = json.loads(file.metadata()["tadp_d2"])
    assert record["weights"] == str(weights)
    for name in names:
        assert len(record["prompts"][name]["words"]) == len(numbers[f"{name}/{states[0]}/s4"])
    cfg = trained_config(detector)
    prompt = make_prompts(load_captions_conditioner(cfg), "a dog")["caption"]
    maps = AttentionProbe(cfg, trained(cfg))(PIXELS, prompt)
    assert torch.equal(numbers["caption/after training/s5"], maps["s5"])
    # 25 words, and two rows for each of three levels in four blocks.
    width, height = Image.open(tmp_path / "a.png").size
    assert (width, height) == (110 + 25 * 138 + 6, 111 + 4 * (46 + 6 * 105))


def over_all_layers(backbone, probe, prompt):
    """The mean over levels of one size, of the mean over all heads and layers of a level."""
    found = {}

    def note(layer, args, kwargs, _):
        hidden, context = args[0], kwargs["encoder_hidden_states"]
        query, key = (
            project(source).unflatten(-1, (layer.heads, -1)).transpose(1, 2)[0]
            for project, source in ((layer.to_q, hidden), (layer.to_k, context))
        )
        scores = (query @ key.transpose(1, 2)) / key.shape[-1] ** 0.5
        found.setdefault(hidden.shape[1], []).append(scores.softmax(-1).mean(0))

    layers = [m for name, m in backbone.unet.named_modules() if name.endswith("attn2")]
    handles = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
    probe(PIXELS, prompt)
    for handle in handles:
        handle.remove()
    assert len(layers) == sum(map(len, found.values())) == 16
    levels = []
    for size, maps in found.items():
        side = round(size**0.5)
        level = torch.stack(maps).mean(0).T.unflatten(1, (side, side))
        levels.append(F.interpolate(level[None], (16, 16), mode="bilinear")[0])
    assert len(levels) == 4
    mean = torch.stack(levels).mean(0)
    return torch.stack([mean[list(word.positions)].mean(0) for word in prompt.words])


def test_figure_4_shows_all_heads_and_scales_of_the_prompts_that_are_asked_for(
    attention, detector, trained_config, tmp_path
):
    asked = ("--caption", "a dog", "--weights", detector / "model_final.pth")
    message = attention(*asked, "--prompts", "caption", "oracle")
    assert "--prompts oracle: needs --objects" in message
    attention(*asked, "--prompts", "class-embeddings", "caption")
    numbers = load_file(tmp_path / "a.safetensors")
    names, states = ("class embeddings", "caption"), ("before training", "after training")
    assert set(numbers) == {f"{name}/{state}/mean" for name in names for state in states}
    # A row for each state in two blocks, and a panel for each of the 20 classes.
    assert Image.open(tmp_path / "a.png").size == (110 + 20 * 138 + 6, 111 + 2 * (46 + 2 * 105))
    cfg = trained_config(detector)
    prompt = make_prompts(load_captions_conditioner(cfg), "a dog")["caption"]
    backbone = trained(cfg)
    with torch.no_grad():
        probe = AttentionProbe(cfg, backbone, everywhere=True)
        expected = over_all_layers(backbone, probe, prompt)
    torch.testing.assert_close(numbers["caption/after training/mean"], expected)
    assert not torch.equal(numbers["caption/before training/mean"], expected)


def test_the_command_draws_what_the_words_of_an_expression_look_at(
    attention, referring_segmentor, detector, trained_config, tmp_path
):
    weights = referring_segmentor / "model_final.pth"
    printed = attention("--expression", "the leftmost dog", "--weights", weights)
    assert printed.startswith("expression: 'the leftmost dog'\n")
    numbers = load_file(tmp_path / "a.safetensors")
    assert numbers["expression/before training/s4"].shape == (3, 4, 4)
    predictor = Predictor(trained_config(referring_segmentor))
    features = seen_by_head(predictor, "the leftmost dog")
    tokens = predictor.model.conditioner.inner.length
    positions = predictor.model.conditioner.text.tokenizer("the leftmost dog").input_ids
    # "leftmost" is several tokens of the tiny tokenizer; the last word is one, before the end.
    assert len(positions) > 3 + 2
    own = features["s4"][0, -tokens:][len(positions) - 2]
    torch.testing.assert_close(numbers["expression/after training/s4"][2], own)
    (tmp_path / "a.png").unlink()
    (tmp_path / "a.safetensors").unlink()
    message = attention("--expression", "a", "--weights", detector / "model_final.pth")
    assert "--expression: this model reads no expression" in message


def test_the_command_draws_a_diffusion_model_alone_and_overwrites_nothing(
    attention, model_folder, tmp_path
):
    small = ("--opts", "INPUT.FIXED_SIZE_TEST", "(64, 64)")
    arguments = ("--caption", "two zebras", "--diffusion", model_folder, *small)
    assert "no diffusion model 'absent'" in attention("--caption", "a", "--diffusion", "absent")
    assert not (tmp_path / "a.png").exists()
    assert "class names: 'aeroplane bicycle" in attention(*arguments)
    numbers = load_file(tmp_path / "a.safetensors")
    assert numbers["caption/before training/s4"].shape == (2, 4, 4)
    before = {path: path.read_bytes() for path in Path(tmp_path).iterdir()}
    assert "a.png exists already" in attention(*arguments)
    (tmp_path / "a.png").unlink()
    assert "a.safetensors exists already" in attention(*arguments)
    assert (tmp_path / "a.safetensors").read_bytes() == before[tmp_path / "a.safetensors"]
    (tmp_path / "a.safetensors").unlink()
    (tmp_path / "picture.png").write_text("no picture")
    assert "picture.png: cannot be read as an image" in attention(*arguments)
    assert not (tmp_path / "a.png").exists()
    assert not (tmp_path / "a.safetensors").exists()
