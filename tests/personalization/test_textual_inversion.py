"""Textual inversion changes one word, and the word means the same everywhere."""

import copy
import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from tadp_d2.conditioning.caption_prompt import make_prompt
from tadp_d2.conditioning.domains import Modifier
from tadp_d2.conditioning.templates import SAMPLES, SLOT, TEMPLATES
from tadp_d2.data.images import find_image_files
from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.diffusion.tokens import ONLY, read_tokens
from tadp_d2.errors import UserError
from tadp_d2.files import sha256
from tadp_d2.frozen import fingerprint
from tadp_d2.personalization.latents import LatentSource
from tadp_d2.personalization.settings import KINDS, resolve
from tadp_d2.personalization.textual_inversion import (
    LearnedRows,
    TextualInversion,
    add_learnable_token,
)
from tadp_d2.personalization.training import TrainingState
from tadp_d2.personalization.training_images import Crops, read_pictures


def make_training(model, pictures, **given):
    given = {"token": "<new>", "init": "watercolor", "size": 64, "accumulation": 1, **given}
    settings = resolve("invert", "paper-text", given)
    read, _ = read_pictures(list(find_image_files([pictures])), settings.size)
    source = LatentSource(model, Crops(read, settings.size, settings.flip))
    return TrainingState(TextualInversion(model, source, settings))


@pytest.mark.parametrize("kind", KINDS)
def test_every_sentence_has_one_place_for_the_token(kind):
    sentences = (*TEMPLATES[kind], *SAMPLES[kind])
    assert all(sentence.count("{") == sentence.count(SLOT) == 1 for sentence in sentences)
    assert len(set(TEMPLATES[kind])) == len(TEMPLATES[kind])


@pytest.mark.parametrize("vectors", [1, 2])
def test_only_the_new_rows_change(model, pictures, vectors):
    def weights():
        parts = {"text": model.text_encoder, "unet": model.unet, "vae": model.vae}
        return {
            f"{name}.{key}": tensor.clone()
            for name, part in parts.items()
            for key, tensor in part.state_dict().items()
        }

    original = weights()
    training = make_training(model, pictures, vectors=vectors)
    (rows,) = training.objective.parameters
    start = rows.detach().clone()
    for _ in range(3):
        training.advance()
    assert (rows != start).any(dim=1).all()
    after = weights()
    (new,) = set(after) - set(original)
    assert new.endswith("token_embedding.rows")
    (table,) = [name for name in original if name.endswith("token_embedding.weight")]
    assert torch.equal(after[table][: len(original[table])], original[table])
    assert torch.equal(after[table][len(original[table]) :], start)
    for name in original.keys() - {table}:
        assert torch.equal(after[name], original[name]), name
    assert not any(p.grad is not None for p in model.unet.parameters())


def test_the_rows_are_those_of_an_embedding_and_get_its_gradient():
    generator = torch.Generator().manual_seed(0)
    plain = nn.Embedding.from_pretrained(torch.randn(7, 3, generator=generator), freeze=False)
    learned = LearnedRows(nn.Embedding.from_pretrained(plain.weight.data.clone()), [4, 2])
    ids = torch.tensor([[0, 2, 4, 4], [6, 1, 2, 5]])
    weights = torch.randn(2, 4, 3, generator=generator)
    assert torch.equal(learned(ids), plain(ids))
    (learned(ids) * weights).sum().backward()
    (plain(ids) * weights).sum().backward()
    torch.testing.assert_close(learned.rows.grad, plain.weight.grad[[4, 2]])


def test_the_loss_of_one_batch_falls(model, pictures, overfit):
    losses = overfit(make_training(model, pictures, rate=1e-5, batch=2), 8)
    assert losses[-1] < losses[0]


def test_bf16_learns_too_and_keeps_weights_in_fp32(model, pictures):
    training = make_training(model, pictures, precision="bf16", rate=1e-2)
    training.advance()
    (rows,) = training.objective.parameters
    assert rows.dtype == torch.float32 and rows.isfinite().all()
    assert {p.dtype for p in model.unet.parameters()} == {torch.float32}


def test_gradient_checkpointing_changes_nothing(model, untouched, pictures):
    learned = []
    for each, checkpointing in ((model, True), (copy.deepcopy(untouched), False)):
        training = make_training(each, pictures, gradient_checkpointing=checkpointing, rate=0.1)
        training.advance()
        learned += training.objective.parameters
    assert model.unet.is_gradient_checkpointing
    torch.testing.assert_close(*learned)


@pytest.mark.parametrize("vectors", [1, 3])
def test_the_token_means_the_same_in_diffusers_and_here(
    run, model_folder, pictures, tmp_path, vectors
):
    run("invert", tmp_path, "--steps", 3, "--rate", 0.1, "--vectors", vectors)
    file = tmp_path / "learned_embeds.safetensors"
    text = TextEncoder.from_pretrained(model_folder, [file])
    pipeline = StableDiffusionPipeline.from_pretrained(model_folder)
    pipeline.load_textual_inversion(str(file))
    prompt = "a <new> style painting of a dog"
    expected, _ = pipeline.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)
    modifier = Modifier("template", "a <new> style painting of {caption}")
    ours = text([make_prompt("a dog", modifier, text)])
    torch.testing.assert_close(ours.embeddings, expected, rtol=1e-5, atol=1e-6)
    assert len(read_tokens(file)["<new>"][ONLY]) == vectors

    metadata = json.loads((tmp_path / "learned_embeds.json").read_text())
    base = TextEncoder.from_pretrained(model_folder).base_fingerprint
    assert metadata["base"]["text_encoder"] == metadata["needs"]["text_encoder"] == base
    assert metadata["artifact"] == {"<new>": fingerprint(read_tokens(file)["<new>"])}
    assert metadata["images"] == [
        {"file": path.name, "sha256": sha256(path)} for path in sorted(pictures.iterdir())
    ]
    assert metadata["preset"] == "paper-text" and metadata["settings"]["steps"] == 3
    assert len(metadata["loss"]) == 3
    assert [step for step, _ in metadata["fixed_set_loss"]] == [0, 3]
    assert torch.__version__.startswith(metadata["versions"]["torch"])
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"learned_embeds.safetensors", "learned_embeds.json", "tensorboard"}


def test_the_published_format_of_the_token_loads(run, model_folder, tmp_path):
    """`learned_embeds.bin`, a pickled dict with one vector, as most published tokens are."""
    run("invert", tmp_path, "--steps", 1)
    vectors = read_tokens(tmp_path / "learned_embeds.safetensors")["<new>"][ONLY]
    torch.save({"<new>": vectors[0]}, tmp_path / "learned_embeds.bin")
    ours, theirs = (
        TextEncoder.from_pretrained(model_folder, [tmp_path / f"learned_embeds.{suffix}"])
        for suffix in ("safetensors", "bin")
    )
    assert torch.equal(ours(["a <new> dog"]).embeddings, theirs(["a <new> dog"]).embeddings)


@pytest.mark.parametrize(
    "token, init, message",
    [
        ("dog</w>", "dog", "'dog</w>' exists already"),
        ("a dog", "dog", "expected one word in lower case, without spaces"),
        ("", "dog", "expected one word in lower case, without spaces"),
        ("<Water>", "dog", "expected one word in lower case, without spaces"),
        ("waterc", "watercolor", "would take other words apart"),
        ("<new>", "blorptious", "--init 'blorptious': expected a word that is one token, but the"),
        ("<new>", "watercolor painting", "reads watercolor</w> painting</w>"),
        ("<new>", "", "reads no token"),
    ],
)
def test_words_that_cannot_be_used(model, token, init, message):
    with pytest.raises(UserError, match=message):
        add_learnable_token(token, init, 1, model.tokenizer, model.text_encoder)


def test_too_many_vectors_for_a_prompt(fails, tmp_path):
    message = fails("invert", tmp_path / "out", "--vectors", 80)
    assert "the text encoder reads 77: shorten the prompt, or use fewer --vectors" in message
    assert not (tmp_path / "out").exists()
