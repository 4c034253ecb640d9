"""The tiny Stable Diffusion folder is one in the eyes of diffusers and transformers."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTextModel, CLIPTokenizer

from tadp_d2.diffusion.model_folder import STABLE_DIFFUSION
from tadp_d2.files import sha256
from tadp_d2.synthetic.data_folder import CLIP_FOLDER
from tadp_d2.synthetic.drawing.class_figures import CLASSES
from tadp_d2.synthetic.tiny_diffusion import SHIPPED
from tadp_d2.synthetic.tiny_tokenizer import make_tokenizer
from tadp_d2.synthetic.training_samples import STYLE_TEMPLATES, draw_sample

SENTENCES = {"a dog and two cars in a park", "a watercolor style painting of a bird"}


def test_the_folder_is_complete_and_draws_a_image(model_folder, pipeline):
    assert STABLE_DIFFUSION.missing(model_folder) == []
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a dog", num_inference_steps=2, height=64, width=64).images[0]
    assert image.size == (64, 64)


@pytest.fixture(scope="module")
def pipeline(model_folder):
    return StableDiffusionPipeline.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def samples():
    """Images that the model was not trained on, two in each style."""
    return [draw_sample(index, 1, style) for index, style in enumerate(2 * tuple(STYLE_TEMPLATES))]


def latents_of(pipeline, sample):
    pixels = torch.from_numpy(np.array(sample.image, np.float32)) / 127.5 - 1
    images = pixels.permute(2, 0, 1)[None]
    with torch.no_grad():
        latents = pipeline.vae.encode(images).latent_dist.mode()
        error = (pipeline.vae.decode(latents).sample - images).square().mean()
    return latents * pipeline.vae.config.scaling_factor, error


def test_the_vae_reconstructs_every_style(pipeline, samples):
    """Latents of about unit variance, from which the image can be told."""
    for sample in samples:
        latents, error = latents_of(pipeline, sample)
        # 14 dB is an error of 20 %, which the dots of a comic come near.
        assert 10 * torch.log10(4 / error) > 14, sample.style
        assert 0.4 < latents.std() < 1.8, sample.style


def errors(pipeline, latents, prompts):
    """Mean squared error of the noise that the UNet finds, at four noise levels."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    tokens = pipeline.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
    found = []
    with torch.no_grad():
        context = pipeline.text_encoder(tokens.input_ids).last_hidden_state
        for time in (300, 500, 700, 900):
            times = torch.full((len(latents),), time)
            noisy = pipeline.scheduler.add_noise(latents, noise, times)
            output = pipeline.unet(noisy, times, context).sample
            found.append((output - noise).square().mean().item())
    return found


def test_the_unet_removes_noise_and_reads_the_style(pipeline, samples):
    """Its error is far below that of knowing nothing, and grows when the prompt names a style
    that is not the image's."""
    latents = torch.cat([latents_of(pipeline, sample)[0][..., :24] for sample in samples])
    right, wrong = (
        errors(
            pipeline,
            latents,
            [
                STYLE_TEMPLATES[tuple(STYLE_TEMPLATES)[(index + shift) % 6]].replace(
                    "{caption}", sample.caption
                )
                for index, sample in enumerate(samples)
            ],
        )
        for shift in (0, 2)
    )
    assert max(right) < 0.5
    assert np.mean(right) < np.mean(wrong)


def test_the_unet_reads_the_classes(pipeline):
    """Its error grows when the prompt names another class than the image's one object."""
    drawn = [draw_sample(index, 2, "photo") for index in range(40)]
    samples = [sample for sample in drawn if len(sample.things) == 1]
    latents = torch.cat([latents_of(pipeline, sample)[0] for sample in samples])
    names = [sample.things[0].name for sample in samples]
    others = {name: CLASSES[(CLASSES.index(name) + 1) % len(CLASSES)] for name in CLASSES}
    template = STYLE_TEMPLATES["photo"]
    right = [template.replace("{caption}", sample.caption) for sample in samples]
    wrong = [text.replace(f"a {n}", f"a {others[n]}") for text, n in zip(right, names, strict=True)]
    assert len(samples) >= 6 and all(map(str.__ne__, right, wrong))
    pairs = zip(errors(pipeline, latents, right), errors(pipeline, latents, wrong), strict=True)
    assert all(with_own < with_other for with_own, with_other in pairs)


def test_the_tokenizer_is_a_clip_tokenizer(tmp_path):
    tokenizer = make_tokenizer(SENTENCES)
    ids = tokenizer("A Watercolor of a dog").input_ids
    words = ["<|startoftext|>", "a</w>", "watercolor</w>", "of</w>", "a</w>", "dog</w>"]
    assert tokenizer.convert_ids_to_tokens(ids) == [*words, "<|endoftext|>"]
    assert tokenizer.model_max_length == 77
    # Unknown words are spelled in bytes, never lost.
    assert tokenizer.decode(tokenizer("żółw").input_ids, skip_special_tokens=True) == "żółw"


def test_its_files_are_those_of_stable_diffusion(model_folder):
    folder = model_folder / "tokenizer"
    vocabulary = json.loads((folder / "vocab.json").read_text())
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert not (folder / "tokenizer.json").exists()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    assert len(tokenizer) == len(vocabulary)
    assert tokenizer.tokenize("a watercolor style painting of a bicycle") == [
        *("a</w>", "watercolor</w>", "style</w>", "painting</w>"),
        *("of</w>", "a</w>", "bicycle</w>"),
    ]


def test_its_text_encoder_is_the_tiny_clips(model_folder, world):
    """And so is its tokenizer, file by file."""
    clip = world / CLIP_FOLDER
    for file in (model_folder / "tokenizer").iterdir():
        assert file.read_bytes() == (clip / file.name).read_bytes(), file.name
    own, expected = (
        CLIPTextModel.from_pretrained(folder, dtype=torch.float32).state_dict()
        for folder in (model_folder / "text_encoder", clip)
    )
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in expected.items())


def test_the_recipe_is_that_of_the_weights():
    last = json.loads((SHIPPED / "recipe.json").read_text())["trainings"][-1]
    for part, found in last["sha256"].items():
        name = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        assert sha256(SHIPPED / part / f"{name}.safetensors") == found
