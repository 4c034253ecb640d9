"""Stable Diffusion 3: latents, contexts and features are those of diffusers' pipeline."""

import json
import shutil

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from torch.nn import functional as F

from tadp_d2.diffusion.diffusion_model import MapOptions
from tadp_d2.diffusion.families import open_diffusion_model
from tadp_d2.diffusion.stable_diffusion_3 import StableDiffusion3
from tadp_d2.errors import UserError

PROMPTS = ["a watercolor style painting of a dog", ""]
NO_MAPS = MapOptions(levels=())


@pytest.fixture(scope="module")
def pipeline(sd3_folder):
    return StableDiffusion3Pipeline.from_pretrained(sd3_folder)


@pytest.fixture(scope="module")
def model(sd3_folder):
    model = open_diffusion_model(str(sd3_folder))
    assert isinstance(model, StableDiffusion3)
    return model


def encode(pipeline):
    expected, _, pooled, _ = pipeline.encode_prompt(
        PROMPTS, PROMPTS, PROMPTS, do_classifier_free_guidance=False
    )
    return expected, pooled


def check_contexts(pipeline, folder):
    expected, pooled = encode(pipeline)
    model = open_diffusion_model(str(folder))
    context = model.load_text_encoder()(PROMPTS)
    assert context.embeddings.shape == (2, model.text_length + 256, model.context_width)
    torch.testing.assert_close(context.embeddings, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(context.pooled, pooled, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_contexts_and_latents_are_those_of_the_pipeline(pipeline, model, sd3_folder, tmp_path):
    check_contexts(pipeline, sd3_folder)
    without = StableDiffusion3Pipeline.from_pretrained(
        sd3_folder, text_encoder_3=None, tokenizer_3=None
    )
    without.save_pretrained(tmp_path)
    assert not (tmp_path / "text_encoder_3").exists()
    check_contexts(without, tmp_path)
    images = torch.rand(1, 3, 64, 32) * 2 - 1
    mean, vae = pipeline.vae.encode(images).latent_dist.mean, pipeline.vae.config
    found = model.load_latent_encoder()(images)
    torch.testing.assert_close(found, (mean - vae.shift_factor) * vae.scaling_factor)
    assert torch.equal(model.load_latent_encoder(scaled=False)(images), mean)
    assert found.shape == (1, model.latents.channels, 8, 4)


@torch.no_grad()
def test_features_are_those_of_the_pipelines_transformer(pipeline, model):
    torch.manual_seed(0)
    latents = torch.randn(2, 8, 16, 24)
    expected = {}
    hooks = [
        block.register_forward_hook(
            lambda _, __, out, index=index: expected.update({index: out[1]})
        )
        for index, block in enumerate(pipeline.transformer.transformer_blocks)
    ]
    embeddings, pooled = encode(pipeline)
    pipeline.transformer(latents, embeddings, pooled, torch.full((2,), 3.0))
    for hook in hooks:
        hook.remove()
    context = model.load_text_encoder()(PROMPTS)
    encoder = model.load_latent_encoder()
    for blocks in ((), [3], [0, 1, 2, 3]):
        features = model.load_features(encoder, NO_MAPS, taps=blocks).eval()
        found = features(latents, context, 3)
        chosen = (list(blocks) or [1]) * (4 if len(blocks) < 4 else 1)
        maps = [expected[b].transpose(1, 2).unflatten(-1, (8, 12)) for b in chosen]
        torch.testing.assert_close(found["s4"], maps[1], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found["s5"], F.max_pool2d(maps[2], 2), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found["s6"], F.max_pool2d(maps[3], 4), rtol=1e-5, atol=1e-5)
        enlarged = features.pyramid.layers["s3"](maps[0])
        torch.testing.assert_close(found["s3"], enlarged, rtol=1e-5, atol=1e-5)
        assert features.strides == model.strides == {"s3": 8, "s4": 16, "s5": 32, "s6": 64}
        assert {level: m.shape[1] for level, m in found.items()} == features.channels


@pytest.mark.parametrize("blocks", [[1], [3]])
def test_every_trained_parameter_gets_a_gradient(model, blocks):
    features = model.load_features(model.load_latent_encoder(), NO_MAPS, True, blocks).train()
    found = features(torch.randn(1, 8, 8, 8), model.load_text_encoder()(["a dog"]), 0)
    sum(maps.sum() for maps in found.values()).backward()
    trained = [(name, p) for name, p in features.named_parameters() if p.requires_grad]
    assert [name for name, p in trained if p.grad is None] == []


def test_what_does_not_fit_is_refused(model, sd3_folder, tmp_path):
    encoder = model.load_latent_encoder()
    with pytest.raises(UserError, match="LEVELS is s4, s5: .* has joint attention"):
        model.load_features(encoder, MapOptions())
    with pytest.raises(UserError, match=r"TAPS is \[4\]: .* blocks, 0 to 3"):
        model.load_features(encoder, NO_MAPS, taps=[4])
    with pytest.raises(UserError, match="TEXT.TOKENS is x.bin"):
        model.load_text_encoder(["x.bin"])
    features = model.load_features(encoder, NO_MAPS)
    with pytest.raises(UserError, match="17 x 4 patches .* at most 256 pixels"):
        features(torch.zeros(1, 8, 34, 8), model.load_text_encoder()([""]), 0)
    folder = shutil.copytree(sd3_folder, tmp_path / "model")
    shutil.rmtree(folder / "text_encoder_3")
    with pytest.raises(UserError, match="lacks text_encoder_3/, T5, which model_index.json names"):
        open_diffusion_model(str(folder))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"text_encoder_3": [None, None]}))
    path = folder / "transformer" / "config.json"
    config = json.loads(path.read_text())
    for option, value, message in (
        ("in_channels", 4, "latents of channels 4, but there are 8"),
        ("pooled_projection_dim", 20, "pooled embedding of width 20, but there are 28"),
        ("joint_attention_dim", 24, "contexts of width 24, but the text encoders write 28"),
    ):
        path.write_text(json.dumps(config | {option: value}))
        with pytest.raises(UserError, match=message):
            open_diffusion_model(str(folder))
