"""DreamBooth changes the UNet, and the folder is one that everybody reads."""

import json
import sys

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

from tadp_d2.data.images import find_image_files
from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.diffusion.families import find_model
from tadp_d2.diffusion.stable_diffusion import load_unet
from tadp_d2.diffusion.unet_features import unet_fingerprint
from tadp_d2.errors import UserError
from tadp_d2.frozen import fingerprint
from tadp_d2.personalization.dreambooth import DreamBooth
from tadp_d2.personalization.latents import LatentSource
from tadp_d2.personalization.settings import resolve
from tadp_d2.personalization.training import TrainingState
from tadp_d2.personalization.training_images import Crops, read_pictures


def make_training(model, pictures, folder=None, **given):
    given = {"prompt": "an image in sks style", "size": 64, "rate": 1e-4, **given}
    settings = resolve("dreambooth", "paper-text", given)
    read, _ = read_pictures(list(find_image_files([pictures])), settings.size)
    objective = DreamBooth(model, LatentSource(model, Crops(read, settings.size)), settings)
    objective.prepare(folder)
    return TrainingState(objective)


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before, module):
    after = module.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_the_loss_of_one_batch_falls_and_only_the_unet_changes(model, pictures, overfit):
    training = make_training(model, pictures, batch=2, rate=1e-5)
    frozen = [(part, weights(part)) for part in (model.text_encoder, model.vae)]
    unet = weights(model.unet)
    losses = overfit(training, 6)
    assert losses[-1] < losses[3] < losses[0]
    assert changed(unet, model.unet) == set(unet)
    assert not any(changed(original, part) for part, original in frozen)


def test_everybody_reads_the_folder(run, model_folder, tmp_path):
    run("dreambooth", tmp_path, "--steps", 2, "--sample-every", 1, "--sample-steps", 1)
    folder = tmp_path / "unet"
    state = safetensors.torch.load_file(folder / "diffusion_pytorch_model.safetensors")
    base = load_unet(model_folder / "unet").state_dict()
    assert state.keys() == base.keys() and any(not torch.equal(state[k], base[k]) for k in base)
    unet = UNet2DConditionModel.from_pretrained(folder)
    for loaded in (unet, load_unet(folder)):
        assert all(torch.equal(tensor, state[k]) for k, tensor in loaded.state_dict().items())
    pipeline = StableDiffusionPipeline.from_pretrained(model_folder, unet=unet)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a dog", height=64, width=64, num_inference_steps=1).images[0].size == (64, 64)
    metadata = json.loads((tmp_path / "dreambooth.json").read_text())
    assert metadata["artifact"] == {"unet": unet_fingerprint(unet)}
    assert metadata["base"]["unet"] == unet_fingerprint(load_unet(model_folder / "unet"))
    with Image.open(tmp_path / "samples.png") as sheet:
        # Three rows of four with labels: steps 0, 1 and 2.
        assert sheet.size == (100 + 4 * 366 + 6, 26 + 3 * 276 + 6)


def test_prior_pictures_are_drawn_once_and_trained_with(model, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("tadp_d2.personalization.dreambooth._PRIOR_STEPS", 2)
    prior = {"prior_images": 2, "prior_prompt": "a painting"}
    training = make_training(model, pictures, tmp_path, **prior)
    files = sorted((tmp_path / "prior").iterdir())
    assert [file.name for file in files] == ["00000.png", "00001.png"]
    times = [file.stat().st_mtime_ns for file in files]
    first = files[0].read_bytes()
    files[1].unlink()
    again = make_training(model, pictures, tmp_path, **prior)
    assert (files[0].stat().st_mtime_ns, files[0].read_bytes()) == (times[0], first)
    assert files[1].exists()
    # The same pictures, crops and noise: the sum of both losses, the second by its weight.
    losses = {}
    for weight in (0.0, 1.0, 3.0):
        again.generator.manual_seed(0)
        for source in again.objective.sources:
            source.crops.order = []
        object.__setattr__(again.settings, "prior_weight", weight)
        losses[weight] = again.objective.loss(again.generator).item()
    assert losses[1.0] > losses[0.0] > 0
    assert losses[3.0] - losses[0.0] == pytest.approx(3 * (losses[1.0] - losses[0.0]), rel=1e-4)
    assert len(training.objective.sources) == 2


def test_a_trained_text_encoder_makes_a_whole_model(run, model_folder, tmp_path):
    run("dreambooth", tmp_path, "--steps", 2, "--train-text-encoder")
    assert find_model(str(tmp_path))[1] == tmp_path
    own = TextEncoder.from_pretrained(tmp_path).base_fingerprint
    assert own != TextEncoder.from_pretrained(model_folder).base_fingerprint
    metadata = json.loads((tmp_path / "dreambooth.json").read_text())
    assert metadata["needs"]["text_encoder"] == metadata["artifact"]["text_encoder"] == own
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path)
    assert fingerprint(pipeline.text_encoder) == own
    assert unet_fingerprint(pipeline.unet) == metadata["artifact"]["unet"]


def test_low_rank_updates_are_merged(model, pictures, tmp_path):
    pytest.importorskip("peft", reason="--lora needs peft")
    original = weights(model.unet)
    training = make_training(model, pictures, lora=2, rate=1e-2)
    assert sum(p.numel() for p in training.objective.parameters) < 0.1 * sum(
        tensor.numel() for tensor in original.values()
    )
    for _ in range(2):
        training.advance()
    # With the updates beside the weights.
    expected = training.objective.watched_loss()
    training.objective.export(tmp_path)
    merged = load_unet(tmp_path / "unet")
    assert merged.state_dict().keys() == original.keys()
    assert all("attentions" in name and ".to_" in name for name in changed(original, merged))
    model.unet = merged
    assert training.objective.watched_loss() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "package, option", [("peft", {"lora": 4}), ("bitsandbytes", {"adam_8bit": True})]
)
def test_a_missing_package_is_named(model, pictures, monkeypatch, package, option):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"not installed: pip install {package}"):
        make_training(model, pictures, **option)
