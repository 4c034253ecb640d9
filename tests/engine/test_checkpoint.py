"""Checkpoints: whole, complete, safe, and only on the ground that they were trained on."""

import json
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from fvcore.common.checkpoint import Checkpointer

from tadp_d2.conditioning.class_embeddings import embed_classes, sentences_fingerprint
from tadp_d2.conditioning.conditioner import open_model_of
from tadp_d2.engine.checkpoint import RunCheckpointer, find_checkpoints
from tadp_d2.errors import UserError
from tadp_d2.records.provenance import Provenance

from ..tiny_model import TEXT_WIDTH


def checkpointer(cfg, folder):
    torch.manual_seed(0)
    model = build_model(cfg)
    return RunCheckpointer(model, str(folder), Provenance(cfg, model))


@pytest.fixture
def saved(make_config, tmp_path):
    """A checkpoint with weights unlike those of a new model."""
    run = checkpointer(make_config(), tmp_path)
    with torch.no_grad():
        for parameter in run.model.parameters():
            if parameter.requires_grad:
                parameter += 1
    run.save("model_final")
    return run.model, str(tmp_path / "model_final.pth")


def test_what_is_saved_is_loaded(make_config, saved, tmp_path):
    model, path = saved
    run = checkpointer(make_config(), tmp_path)
    assert run.get_checkpoint_file() == path
    run.load(path)
    expected = model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in run.model.state_dict().items())


def test_frozen_parts_are_not_in_the_file(saved):
    weights = torch.load(saved[1], weights_only=True)["model"]
    assert not [k for k in weights if "vae" in k or "text_encoder" in k or "latent" in k]
    assert [k for k in weights if k.startswith("backbone.bottom_up.unet.")]


def test_a_full_disk_leaves_the_earlier_checkpoint(saved, make_config, tmp_path, full_disk):
    before = (tmp_path / "model_final.pth").read_bytes()

    run = checkpointer(make_config(), tmp_path)
    match = "model_final.pth: cannot be written .*too large.*--resume"
    with full_disk(1 << 20), pytest.raises(UserError, match=match):
        run.save("model_final")
    assert (tmp_path / "model_final.pth").read_bytes() == before
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == [
        "last_checkpoint",
        "model_final.pth",
    ]


@pytest.mark.parametrize("name", ["run", "run [1]", "./a//run/"])
def test_old_checkpoints_go_and_the_new_one_stays(make_config, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    run = checkpointer(make_config(), name)
    run.save_to_disk = True
    os.makedirs(name)
    for iteration in range(3):
        run.save(f"model_{iteration:07d}")
        assert [Path(path).name for path in find_checkpoints(name)] == [
            f"model_{iteration:07d}.pth"
        ]


def test_another_architecture_is_an_error(make_config, saved, tmp_path):
    other = checkpointer(make_config("MODEL.FPN.OUT_CHANNELS", 32), tmp_path)
    with pytest.raises(UserError, match="another architecture: it differs in shape in"):
        other.load(saved[1])
    more = checkpointer(make_config("MODEL.ROI_BOX_HEAD.NUM_FC", 3), tmp_path)
    with pytest.raises(UserError, match="another architecture: it lacks roi_heads"):
        more.load(saved[1])
    fewer = checkpointer(make_config("MODEL.ROI_BOX_HEAD.NUM_FC", 1), tmp_path)
    with pytest.raises(UserError, match="another architecture: it has no place for roi_heads"):
        fewer.load(saved[1])


@pytest.mark.parametrize("part, other", [("vae", "another VAE"), ("text_encoder", "another text")])
def test_another_base_model_is_an_error(make_config, model_folder, saved, tmp_path, part, other):
    copy = tmp_path / "other_model"
    shutil.copytree(model_folder, copy)
    (file,) = (copy / part).glob("*.safetensors")
    weights = safetensors.torch.load_file(file)
    changed = next(name for name in sorted(weights) if "decoder" not in name)
    weights[changed] = weights[changed] + 1e-3
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    run = checkpointer(make_config("MODEL.DIFFUSION.WEIGHTS", str(copy)), tmp_path)
    with pytest.raises(UserError, match=f"was trained with {other}"):
        run.load(saved[1])


@pytest.mark.parametrize(
    "part, file, options, message",
    [
        ("tokenizer", "tokenizer_config.json", {"pad_token": "!"}, "another tokenizer"),
        (
            "unet",
            "config.json",
            {"attention_head_dim": 4},
            r"other options of the UNet \(attention_head_dim 2 and not 4\)",
        ),
        ("vae", "config.json", {"scaling_factor": 0.18215}, "other options of the VAE .*scaling"),
        ("text_encoder", "config.json", {"hidden_act": "gelu"}, "other options of the text enco"),
    ],
)
def test_a_part_that_computes_otherwise_with_the_same_weights_is_an_error(
    make_config, model_folder, saved, tmp_path, part, file, options, message, caplog
):
    copy = shutil.copytree(model_folder, tmp_path / "other_model")
    content = json.loads((copy / part / file).read_text())
    (copy / part / file).write_text(json.dumps(content | options))
    run = checkpointer(make_config("MODEL.DIFFUSION.WEIGHTS", str(copy)), tmp_path)
    with pytest.raises(UserError, match=f"was trained with {message}"):
        run.load(saved[1])
    # Of an earlier version, which did not say.
    old = torch.load(saved[1], weights_only=True)
    for key in ("tokenizer", "text_options", "vae_options", "unet_options"):
        del old["provenance"][key]
    torch.save(old, tmp_path / "old.pth")
    run.load(str(tmp_path / "old.pth"))
    assert "does not record with which tokenizer, text_options, vae_options, unet_" in caplog.text


def test_another_pixel_normalisation_is_an_error(make_config, saved, tmp_path):
    run = checkpointer(make_config("MODEL.PIXEL_MEAN", [0.0, 0.0, 0.0]), tmp_path)
    with pytest.raises(UserError, match="another pixel normalisation"):
        run.load(saved[1])


def test_other_features_are_an_error(make_config, saved, tmp_path):
    run = checkpointer(make_config("MODEL.DIFFUSION.TIMESTEP", 1), tmp_path)
    with pytest.raises(UserError, match="with other features .*TIMESTEP"):
        run.load(saved[1])


def test_a_missing_token_is_said(make_config, tmp_path, caplog):
    token = tmp_path / "learned_embeds.safetensors"
    safetensors.torch.save_file({"<a>": torch.ones(TEXT_WIDTH)}, token)
    checkpointer(make_config("TEXT.TOKENS", (str(token),)), tmp_path).save("model_final")
    checkpointer(make_config(), tmp_path).load(str(tmp_path / "model_final.pth"))
    assert "trained with another or a further token <a>" in caplog.text


def test_captions_that_were_normalized_otherwise_are_said(make_config, saved, tmp_path, caplog):
    checkpoint = torch.load(saved[1], weights_only=True)
    assert checkpoint["provenance"]["normalization"] == "none"
    checkpoint["provenance"]["normalization"] = "openai (ftfy 6.3)"
    torch.save(checkpoint, tmp_path / "other.pth")
    checkpointer(make_config(), tmp_path).load(str(tmp_path / "other.pth"))
    assert "normalized by 'openai (ftfy 6.3)' (TEXT.NORMALIZATION), and not as now" in caplog.text


def test_other_captions_are_said(make_config, world, saved, tmp_path, caplog):
    captions = tmp_path / "captions"
    shutil.copytree(world / "captions", captions)
    with open(captions / "watercolor_test.jsonl", "a") as file:
        file.write('{"image_id": "more", "raw": "a dog"}\n')
    cfg = make_config("TEXT.CAPTION_DIR", str(captions))
    checkpointer(cfg, tmp_path).load(saved[1])
    assert "trained with other captions for 'watercolor_test'" in caplog.text


def continued(cfg, folder):
    """As a training that is resumed loads its last checkpoint."""
    run = checkpointer(cfg, folder)
    state = torch.optim.SGD(run.model.parameters(), lr=1.0)
    run.add_checkpointable("trainer", state)
    return run


def test_a_training_goes_on_with_its_own_captions_only(make_config, world, tmp_path, caplog):
    captions = tmp_path / "captions"
    shutil.copytree(world / "captions", captions)
    cfg = make_config("TEXT.CAPTION_DIR", str(captions))
    continued(cfg, tmp_path).save("model_final")
    # Those of a test set may change, and the folder.
    with open(captions / "watercolor_test.jsonl", "a") as file:
        file.write('{"image_id": "more", "raw": "a dog"}\n')
    moved = captions.rename(tmp_path / "moved")
    cfg = make_config("TEXT.CAPTION_DIR", str(moved))
    continued(cfg, tmp_path).resume_or_load("")
    assert "trained with other captions for 'watercolor_test'" in caplog.text
    with open(moved / "voc_2007_trainval.jsonl", "a") as file:
        file.write('{"image_id": "more", "raw": "a dog"}\n')
    with pytest.raises(UserError, match="other captions for 'voc_2007_trainval'; a run is contin"):
        continued(cfg, tmp_path).resume_or_load("")
    checkpointer(cfg, tmp_path).resume_or_load("")  # an evaluation


def test_a_training_goes_on_with_its_own_tokens_only(make_config, tmp_path):
    token = tmp_path / "learned_embeds.safetensors"
    cfg = make_config("TEXT.TOKENS", (str(token),))
    safetensors.torch.save_file({"<a>": torch.ones(TEXT_WIDTH)}, token)
    continued(cfg, tmp_path).save("model_final")
    continued(cfg, tmp_path).resume_or_load("")
    safetensors.torch.save_file({"<a>": torch.zeros(TEXT_WIDTH)}, token)
    with pytest.raises(UserError, match="another or a further token <a>; a run is continued with"):
        continued(cfg, tmp_path).resume_or_load("")


@pytest.mark.parametrize("name", ["ClassEmbeddings", "TaggingAdapter"])
def test_class_embeddings_may_differ_by_rounding_and_by_nothing_else(
    make_config, image_encoder_folder, tmp_path, monkeypatch, name
):
    """Another number of threads, machine or PyTorch moves the last bits of what is computed."""
    prefix = "MODEL.CONDITIONER."
    encoder = (f"{prefix}IMAGE_ENCODER", str(image_encoder_folder))
    tiny = (f"{prefix}TAGGING.WIDTH", 16, f"{prefix}TAGGING.HEADS", 2)

    def config(*options):
        return make_config(f"{prefix}NAME", name, *encoder, *tiny, *options)

    begun = continued(config(), tmp_path)
    begun.save("model_final")
    path = str(tmp_path / "model_final.pth")
    old = torch.load(path, weights_only=True)
    assert old["provenance"].pop("class_sentences")
    torch.save(old, tmp_path / "old.pth")
    conditioner = begun.model.conditioner
    values = getattr(conditioner, "embeddings", getattr(conditioner, "class_embeddings", None))
    file = tmp_path / "class_embeddings.pth"
    # The same values from a file: the order of sums is no part of them.
    torch.save(values, file)
    of_file = (f"{prefix}CLASS_EMBEDDINGS", str(file))
    checkpointer(config(*of_file), tmp_path).load(path)
    checkpointer(config(), tmp_path).load(str(tmp_path / "old.pth"))

    def round_otherwise(*arguments):
        return embed_classes(*arguments).nextafter(torch.tensor(torch.inf))

    with monkeypatch.context() as patch:
        patch.setattr("tadp_d2.conditioning.class_embeddings.embed_classes", round_otherwise)
        other = continued(config(), tmp_path)
        other.resume_or_load("")
        match = r"old\.pth .*other class embeddings .*earlier version.*OMP_NUM_THREADS"
        with pytest.raises(UserError, match=match):
            other.load(str(tmp_path / "old.pth"))
    names = tuple(conditioner.names)
    for option in (
        (f"{prefix}TEMPLATES", "own"),
        (f"{prefix}CLASS_NAMES", (*names[:-2], names[-1], names[-2])),
    ):
        with pytest.raises(UserError, match="model_final.pth .*other class embeddings") as raised:
            checkpointer(config(*option), tmp_path).load(path)
        assert "earlier version" not in str(raised.value)
    # Of a file, every bit counts.
    torch.save(values.nextafter(torch.tensor(torch.inf)), file)
    with pytest.raises(UserError, match="other class embeddings"):
        checkpointer(config(*of_file), tmp_path).load(path)


@pytest.mark.parametrize("part", ["tokenizer", "text_options", "tokens"])
def test_class_embeddings_of_another_reader_are_an_error(make_config, tmp_path, part):
    """What the text encoder's own fingerprint does not tell."""
    token = tmp_path / "learned_embeds.safetensors"
    safetensors.torch.save_file({"<a>": torch.ones(TEXT_WIDTH)}, token)
    text = open_model_of(make_config()).load_text_encoder((token,))

    def found(*names):
        return sentences_fingerprint(names, ("a {}",), text)

    before = found("dog", "<a>"), found("dog", "cat")
    assert before == (found("dog", "<a>"), found("dog", "cat"))
    if part == "tokenizer":
        text.tokenizer_fingerprint = "other"
    elif part == "text_options":
        text.options = text.options | {"hidden_act": "other"}
    else:
        text.token_fingerprints = {"<a>": "other"}
    assert found("dog", "<a>") != before[0]
    # A token that no sentence has does not matter.
    assert (found("dog", "cat") == before[1]) == (part == "tokens")


class _Payload:
    def __reduce__(self):
        return print, ("executed",)


def test_files_that_are_no_checkpoints(make_config, tmp_path, capsys):
    run = checkpointer(make_config(), tmp_path)
    with pytest.raises(UserError, match="no checkpoint at"):
        run.load(str(tmp_path / "absent.pth"))
    (tmp_path / "damaged.pth").write_bytes(b"PK\3\4 half of a file")
    with pytest.raises(UserError, match="damaged.pth: cannot be read as a checkpoint"):
        run.load(str(tmp_path / "damaged.pth"))
    for name in ("attack.pth", "attack.pkl"):
        torch.save({"model": _Payload()}, tmp_path / name)
        with pytest.raises(UserError, match="cannot be read as a checkpoint"):
            run.load(str(tmp_path / name))
    assert "executed" not in capsys.readouterr().out
    torch.save({"weights": {}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="expected a checkpoint of train_net.py"):
        run.load(str(tmp_path / "other.pth"))


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    make_config, tmp_path, monkeypatch, caplog
):
    """Also where Detectron2's own checkpointer remembers a failed load, as on its main."""

    def load(self, path, *args, **kwargs):
        assert getattr(self, "being_loaded", None) is None
        self.being_loaded = path
        result = Checkpointer.load(self, path, *args, **kwargs)
        self.being_loaded = None
        return result

    monkeypatch.setattr(DetectionCheckpointer, "load", load)
    cfg = make_config()
    model = build_model(cfg)
    run = RunCheckpointer(model, str(tmp_path), Provenance(cfg, model), keep=2)
    for iteration in (1, 3):
        run.save(f"model_{iteration:07d}", iteration=iteration)
    newest = tmp_path / "model_0000003.pth"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    assert run.resume_or_load("")["iteration"] == 1
    assert "model_0000003.pth: cannot be read" in caplog.text and "one before it" in caplog.text


@pytest.mark.parametrize("name", ["[a]", "100%d", "a b", "-x", "what?#now", "ü'\"$*{caption}"])
def test_the_name_of_a_folder_is_no_pattern(make_config, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    run = checkpointer(make_config(), folder)
    for iteration in (1, 3):
        run.save(f"model_{iteration:07d}", iteration=iteration)
    assert {path.name for path in folder.iterdir()} == {"last_checkpoint", "model_0000003.pth"}
    assert run.resume_or_load("")["iteration"] == 3


def test_an_old_checkpoint_that_cannot_be_removed_stays(make_config, tmp_path, monkeypatch, caplog):
    def refuse(path):
        raise PermissionError(1, "Operation not permitted")

    run = checkpointer(make_config(), tmp_path)
    run.save("model_0000001", iteration=1)
    monkeypatch.setattr(os, "remove", refuse)
    run.save("model_0000003", iteration=3)
    assert "model_0000001.pth: cannot be removed (" in caplog.text
    assert run.resume_or_load("")["iteration"] == 3
