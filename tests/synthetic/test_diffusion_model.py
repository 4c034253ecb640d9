"""The tiny Stable Diffusion folder is one in the eyes of diffusers and transformers."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from transformers import CLIPTokenizer

from tadp_d2.data.captions import read_captions
from tadp_d2.synthetic.diffusion_model import make_tokenizer, write_diffusion_model
from tadp_d2.weights import missing_parts

SENTENCES = {"a dog and two cars in a park", "a watercolor style painting of a bird"}


def write(folder: Path, seed: int) -> Path:
    write_diffusion_model(folder, seed, SENTENCES)
    return folder


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_same_seed_same_bytes(tmp_path):
    first, same, other = (write(tmp_path / n, s) for n, s in (("a", 0), ("b", 0), ("c", 1)))
    assert hashes(first) == hashes(same)
    assert hashes(first) != hashes(other)


def test_writing_it_leaves_the_random_state_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    write(tmp_path / "a", 0)
    assert torch.equal(torch.rand(2), expected)


def test_the_folder_is_complete_and_draws_a_picture(model_folder):
    assert missing_parts(model_folder) == []
    pipeline = StableDiffusionPipeline.from_pretrained(model_folder)
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a dog", num_inference_steps=2, height=64, width=64).images[0]
    assert picture.size == (64, 64)


def test_the_vae_reconstructs_the_worlds_pictures(model_folder, world):
    """Latents of unit variance, from which the picture can be told; 16 dB is an error of 16 %."""
    vae = StableDiffusionPipeline.from_pretrained(model_folder).vae
    for style in ("VOC2007", "watercolor", "comic"):
        paths = sorted((world / style / "JPEGImages").iterdir())[:4]
        pixels = [np.asarray(Image.open(path).resize((256, 256)), np.float32) for path in paths]
        images = torch.from_numpy(np.stack(pixels) / 127.5 - 1).permute(0, 3, 1, 2)
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mode()
            error = (vae.decode(latents).sample - images).square().mean()
        assert 10 * torch.log10(4 / error) > 16, style
        assert 0.7 < latents.std() * vae.config.scaling_factor < 1.4, style


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


def test_every_word_of_the_worlds_captions_is_one_token(model_folder, world):
    tokenizer = CLIPTokenizer.from_pretrained(model_folder / "tokenizer")
    for caption in read_captions(world / "captions" / "comic_test.jsonl").captions.values():
        words = caption.replace(",", " ,").split()
        assert len(tokenizer.tokenize(caption)) == len(words)
