"""An artifact is used with the base model that it was made for."""

import shutil

import pytest
import safetensors.torch
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from tadp_d2.config import add_tadp_config
from tadp_d2.engine.checkpoint import RunCheckpointer
from tadp_d2.errors import UserError
from tadp_d2.personalization.model import DEFAULT_WEIGHTS, TrainableDiffusion
from tadp_d2.records.provenance import Provenance


@pytest.fixture(scope="module")
def token(run, tmp_path_factory):
    """A learned token's file."""
    folder = tmp_path_factory.mktemp("token") / "out"
    run("invert", folder, "--steps", 1)
    return folder / "learned_embeds.safetensors"


@pytest.fixture(scope="module")
def unet(run, tmp_path_factory):
    """A fine-tuned UNet's folder."""
    folder = tmp_path_factory.mktemp("unet") / "out"
    run("dreambooth", folder, "--steps", 1)
    return folder / "unet"


@pytest.fixture
def other_base(model_folder, tmp_path):
    """other_base(part) is the base model with one part changed."""

    def make(part):
        copy = tmp_path / f"other_{part}"
        shutil.copytree(model_folder, copy)
        (file,) = (copy / part).glob("*.safetensors")
        weights = safetensors.torch.load_file(file)
        first = next(name for name in sorted(weights) if "decoder" not in name)
        weights[first] = weights[first] + 1e-3
        safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
        return str(copy)

    return make


def provenance(cfg):
    return Provenance(cfg, build_model(cfg))


def test_both_sides_mean_the_same_by_a_fingerprint(make_config, model_folder):
    record = provenance(make_config()).record
    parts = TrainableDiffusion.load(str(model_folder)).fingerprints()
    # A detector adds no noise.
    assert parts.pop("scheduler") and "scheduler" not in record
    assert parts and all(record[part] == value for part, value in parts.items())


def test_the_default_model_is_that_of_the_configs():
    cfg = get_cfg()
    add_tadp_config(cfg)
    assert cfg.MODEL.DIFFUSION.WEIGHTS == DEFAULT_WEIGHTS


def test_artifacts_of_this_base_model_are_taken_silently(make_config, token, unet, caplog):
    for option in (("TEXT.TOKENS", (str(token),)), ("MODEL.DIFFUSION.UNET", str(unet))):
        provenance(make_config(*option))
    assert "artifact" not in caplog.text and "base model" not in caplog.text


@pytest.mark.parametrize(
    "part, meaning", [("text_encoder", "another text encoder"), ("unet", "another UNet")]
)
def test_a_token_of_another_base_model_is_an_error(make_config, token, other_base, part, meaning):
    cfg = make_config("TEXT.TOKENS", (str(token),), "MODEL.DIFFUSION.WEIGHTS", other_base(part))
    with pytest.raises(UserError, match=f"learned_embeds.safetensors was made for {meaning}"):
        provenance(cfg)


def test_a_token_may_be_used_with_a_fine_tuned_unet(make_config, token, unet):
    provenance(make_config("TEXT.TOKENS", (str(token),), "MODEL.DIFFUSION.UNET", str(unet)))


@pytest.mark.parametrize(
    "part, meaning", [("text_encoder", "another text encoder"), ("vae", "another VAE")]
)
def test_a_unet_of_another_base_model_is_an_error(make_config, unet, other_base, part, meaning):
    cfg = make_config(
        "MODEL.DIFFUSION.UNET", str(unet), "MODEL.DIFFUSION.WEIGHTS", other_base(part)
    )
    with pytest.raises(UserError, match=f"unet was made for {meaning}"):
        provenance(cfg)


def test_a_unet_does_not_need_the_one_that_it_replaces(make_config, unet, other_base):
    weights = other_base("unet")
    provenance(make_config("MODEL.DIFFUSION.UNET", str(unet), "MODEL.DIFFUSION.WEIGHTS", weights))


def test_a_text_encoder_that_was_trained_too_belongs_to_the_unet(run, make_config, tmp_path):
    run("dreambooth", tmp_path / "whole", "--steps", 1, "--train-text-encoder")
    option = ("MODEL.DIFFUSION.UNET", str(tmp_path / "whole" / "unet"))
    with pytest.raises(UserError, match="was made for another text encoder"):
        provenance(make_config(*option))
    provenance(make_config(*option, "MODEL.DIFFUSION.WEIGHTS", str(tmp_path / "whole")))


def test_artifacts_from_elsewhere_are_used_and_it_is_said(
    make_config, token, unet, tmp_path, caplog
):
    shutil.copy(token, tmp_path)
    shutil.copytree(unet, tmp_path / "unet")
    file = tmp_path / token.name
    options = ("TEXT.TOKENS", (str(file),), "MODEL.DIFFUSION.UNET", str(tmp_path / "unet"))
    provenance(make_config(*options))
    for artifact in (file, tmp_path / "unet"):
        assert f"{artifact} does not record for which base model it was made" in caplog.text
    # Metadata that was left beside another token.
    shutil.copy(token.with_suffix(".json"), tmp_path)
    width = safetensors.torch.load_file(token)["<new>"].shape[1]
    safetensors.torch.save_file({"<new>": torch.ones(1, width)}, file)
    provenance(make_config("TEXT.TOKENS", (str(file),)))
    assert f"{file} is not the one that {file.with_suffix('.json')} describes" in caplog.text
    file.with_suffix(".json").write_text("{}")
    with pytest.raises(UserError, match="expected the metadata of an artifact"):
        provenance(make_config("TEXT.TOKENS", (str(file),)))


def test_the_checkpoint_knows_the_unet_that_it_came_from(make_config, unet, tmp_path, caplog):
    """Its own weights replace those of the artifact, so another one is said and not refused."""

    def checkpointer(*options):
        cfg = make_config(*options)
        model = build_model(cfg)
        return RunCheckpointer(model, str(tmp_path), Provenance(cfg, model))

    trained = checkpointer("MODEL.DIFFUSION.UNET", str(unet))
    trained.save("model_final")
    path = str(tmp_path / "model_final.pth")
    saved = torch.load(path, weights_only=True)
    again = checkpointer("MODEL.DIFFUSION.UNET", str(unet))
    again.load(path)
    assert "another UNet" not in caplog.text
    plain = checkpointer()
    plain.load(path)
    assert f"{path} was trained from another UNet" in caplog.text
    weights = plain.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in saved["model"].items())
