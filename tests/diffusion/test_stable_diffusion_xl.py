"""Stable Diffusion XL: contexts and features are those of diffusers' pipeline."""

import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file

from tadp_d2.conditioning.caption_prompt import make_prompt
from tadp_d2.conditioning.domains import Modifier
from tadp_d2.diffusion.diffusion_model import MapOptions
from tadp_d2.diffusion.families import open_diffusion_model
from tadp_d2.diffusion.stable_diffusion_xl import StableDiffusionXL
from tadp_d2.errors import UserError

PROMPTS = ["a watercolor style painting of a dog", ""]


@pytest.fixture(scope="module")
def pipeline(sdxl_folder):
    return StableDiffusionXLPipeline.from_pretrained(sdxl_folder, add_watermarker=False)


@pytest.fixture(scope="module")
def model(sdxl_folder):
    model = open_diffusion_model(str(sdxl_folder))
    assert isinstance(model, StableDiffusionXL)
    return model


@torch.no_grad()
def test_contexts_are_those_of_the_pipeline(pipeline, model):
    expected, _, pooled, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    text = model.load_text_encoder()
    context = text(PROMPTS)
    torch.testing.assert_close(context.embeddings, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(context.pooled, pooled, rtol=1e-5, atol=1e-5)
    assert context.embeddings.shape == (2, model.text_length, model.context_width)
    # From the cache.
    again = text(PROMPTS[1:])
    assert torch.equal(again.embeddings, context.embeddings[1:])
    assert torch.equal(again.pooled, context.pooled[1:])


@torch.no_grad()
def test_features_are_those_of_the_pipelines_unet(pipeline, model):
    torch.manual_seed(0)
    latents = torch.randn(2, 4, 16, 24)
    embeddings, _, pooled, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    size = (16 * 8, 24 * 8)
    sizes = pipeline._get_add_time_ids(
        size, (0, 0), size, torch.float32, pipeline.text_encoder_2.config.projection_dim
    )
    expected = {}

    def keep(level):
        return lambda _, __, out: expected.update({level: out[0] if type(out) is tuple else out})

    blocks = pipeline.unet.up_blocks
    for level, layer in {
        "s5": blocks[0].attentions[-2],
        "s4": blocks[1].attentions[-2],
        "s3": blocks[2],
    }.items():
        layer.register_forward_hook(keep(level))
    added = {"text_embeds": pooled, "time_ids": sizes.repeat(2, 1)}
    pipeline.unet(latents, 3, embeddings, added_cond_kwargs=added)
    encoder = model.load_latent_encoder()
    features = model.load_features(encoder, MapOptions()).eval()
    found = features(latents, model.load_text_encoder()(PROMPTS), 3)
    assert features.strides == {"s3": 8, "s4": 16, "s5": 32}
    for level, maps in expected.items():
        channels = maps.shape[1]
        torch.testing.assert_close(found[level][:, :channels], maps, rtol=1e-5, atol=1e-5)
        assert found[level].shape[1] == features.channels[level]
        if level != "s3":  # which has no cross-attention
            attended = found[level][:, channels:].sum(dim=1)
            torch.testing.assert_close(attended, torch.ones_like(attended))


def test_every_parameter_gets_a_gradient(model):
    features = model.load_features(model.load_latent_encoder(), MapOptions(), True).train()
    found = features(torch.randn(1, 4, 8, 8), model.load_text_encoder()(["a dog"]), 0)
    sum(maps.sum() for maps in found.values()).backward()
    assert [name for name, p in features.named_parameters() if p.grad is None] == []


def pair(first, second, number=1):
    torch.manual_seed(0)
    return {"clip_l": torch.randn(number, first), "clip_g": torch.randn(number, second)}


@torch.no_grad()
def test_learned_tokens_are_read_as_by_the_pipeline(sdxl_folder, model, tmp_path):
    """Which loads them into one text encoder at a time."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(sdxl_folder, add_watermarker=False)
    learned = pair(16, 24, 3)
    modifier = Modifier("template", "a <night> photo of {caption}")
    save_file(learned, tmp_path / "<night>.safetensors")
    for name, suffix in (("clip_l", ""), ("clip_g", "_2")):
        reader = {part: getattr(pipeline, part + suffix) for part in ("tokenizer", "text_encoder")}
        pipeline.load_textual_inversion({"<night>": learned[name]}, **reader)
    expected, _, pooled, _ = pipeline.encode_prompt(
        "a <night> photo of a dog", do_classifier_free_guidance=False
    )
    text = model.load_text_encoder([tmp_path / "<night>.safetensors"])
    context = text([make_prompt("a dog", modifier, text)])
    torch.testing.assert_close(context.embeddings, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(context.pooled, pooled, rtol=1e-5, atol=1e-5)

    plain = model.load_text_encoder()
    assert (context.embeddings - plain(["a photo of a dog"]).embeddings).abs().max() > 0.1
    assert text.provenance == plain.provenance and plain.token_fingerprints == {}
    changed = {**learned, "clip_g": learned["clip_g"] + 1}
    torch.save(changed, tmp_path / "<night>.pt")
    other = model.load_text_encoder([tmp_path / "<night>.pt"])
    assert set(text.token_fingerprints) == set(other.token_fingerprints) == {"<night>"}
    assert text.token_fingerprints != other.token_fingerprints

    # Published configs name a wrong end of text, for which transformers takes the highest id.
    folder = shutil.copytree(sdxl_folder, tmp_path / "model")
    path = folder / "text_encoder_2" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 2}))
    published = open_diffusion_model(str(folder))
    for files, prompt in (([], PROMPTS[0]), ([tmp_path / "<night>.pt"], "a <night> <night>_1 dog")):
        own, same = (m.load_text_encoder(files)([prompt]).pooled for m in (published, model))
        assert torch.equal(own, same)


def test_what_does_not_fit_is_refused(sdxl_folder, model_folder, tmp_path):
    model = open_diffusion_model(str(sdxl_folder))
    for name, learned, found in (
        ("one.bin", {"<a>": torch.ones(16)}, "width 16"),
        ("pair.bin", pair(768, 1280), r"width 768 \(clip_l\) and width 1280 \(clip_g\)"),
        ("swapped.bin", pair(24, 16), r"width 24 \(clip_l\) and width 16 \(clip_g\)"),
    ):
        torch.save(learned, tmp_path / name)
        message = rf"{name}: .* vectors of {found}, .* width 16 \(clip_l\) and width 24 \(clip_g\)"
        with pytest.raises(UserError, match=message):
            model.load_text_encoder([tmp_path / name])
    with pytest.raises(UserError, match='addition_embed_type is "text_time", expected null'):
        open_diffusion_model(str(model_folder), unet=str(sdxl_folder / "unet"))
    folder = shutil.copytree(sdxl_folder, tmp_path / "model")
    shutil.rmtree(folder / "tokenizer_2")
    with pytest.raises(UserError, match="lacks tokenizer_2/vocab.json or tokenizer_2/tokenizer"):
        open_diffusion_model(str(folder))
    shutil.copytree(folder / "tokenizer", folder / "tokenizer_2")
    path = folder / "text_encoder_2" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"projection_dim": 19}))
    with pytest.raises(UserError, match="input_dim is 56, but .* 19 and 6 sizes of 6 are 55"):
        open_diffusion_model(str(folder))
