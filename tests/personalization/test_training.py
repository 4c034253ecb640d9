"""A run that was stopped, in whatever way, ends as if it had not been."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from pydoc import locate

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tadp_d2.personalization import dreambooth, textual_inversion
from tadp_d2.personalization.dreambooth import DreamBooth
from tadp_d2.personalization.model import TrainableDiffusion
from tadp_d2.personalization.output import OutputFolder
from tadp_d2.personalization.training import TrainingState
from tadp_d2.records.artifacts import read_metadata

ARTIFACT = {
    "invert": "learned_embeds.safetensors",
    "dreambooth": "unet/diffusion_pytorch_model.safetensors",
}
METADATA = {"invert": "learned_embeds.json", "dreambooth": "dreambooth.json"}
STEPS = ("--steps", 8, "--save-every", 2, "--evaluate-every", 5)
WITHOUT_DETECTRON2 = Path(__file__).with_name("without_detectron2.py")


@pytest.fixture(scope="module")
def uninterrupted(run, tmp_path_factory):
    """method -> the folder of a run that nothing happened to."""
    folders = {method: tmp_path_factory.mktemp(method) / "out" for method in ARTIFACT}
    for method, folder in folders.items():
        run(method, folder, *STEPS)
    return folders


def assert_same(method, folder, expected):
    assert (folder / ARTIFACT[method]).read_bytes() == (expected / ARTIFACT[method]).read_bytes()
    assert curves(method, folder) == curves(method, expected)
    assert not list(folder.glob("checkpoint*")) and not (folder / "run.json").exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def logged(folder):
    """The steps and losses that TensorBoard shows."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars("loss")]


def curves(method, folder):
    metadata = read_metadata(folder / METADATA[method])
    return metadata["loss"], metadata["fixed_set_loss"], metadata["artifact"]


@pytest.mark.parametrize("method", ARTIFACT)
def test_killed_and_resumed(method, command, run, uninterrupted, forked, tmp_path):
    out = tmp_path / "out"
    threads = str(torch.get_num_threads())
    arguments = command(method, out, *STEPS)
    process = forked.start((WITHOUT_DETECTRON2, *arguments), OMP_NUM_THREADS=threads)
    checkpoint, deadline = out / "checkpoint.pt", time.monotonic() + 120
    while not checkpoint.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.printed()
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.results()
    assert 2 <= torch.load(checkpoint, weights_only=True)["step"] < 8
    assert not (out / ARTIFACT[method]).exists()
    # What a process leaves that is killed while it writes.
    (out / ".checkpoint.pt.abc.partial").write_bytes(b"half")
    (out / ".export.abc").mkdir()
    # TensorBoard orders its files by the second in which they were begun.
    time.sleep(1)
    run(method, out, *STEPS, "--resume")
    assert_same(method, out, uninterrupted[method])
    assert [step for step, _ in logged(out)] == list(range(1, 9))
    assert logged(out) == logged(uninterrupted[method])


@pytest.mark.parametrize(
    "method, where, call",
    [
        ("invert", "tadp_d2.personalization.training.TrainingState.advance", 1),
        ("invert", "tadp_d2.personalization.training.TrainingState.advance", 6),
        ("invert", "torch.save", 2),
        ("invert", "tadp_d2.personalization.output.OutputFolder.finish", 1),
        *(
            pytest.param("dreambooth", *moment, marks=pytest.mark.exhaustive)
            for moment in (
                ("torch.save", 2),
                ("tadp_d2.personalization.output.OutputFolder.finish", 1),
            )
        ),
    ],
)
def test_interrupted_anywhere_and_resumed(
    method, where, call, run, uninterrupted, tmp_path, monkeypatch
):
    original, calls = locate(where), []

    def interrupted(*args, **keywords):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(where, interrupted)
        with pytest.raises(SystemExit) as stop:
            run(method, tmp_path, *STEPS)
    assert stop.value.code == 130
    run(method, tmp_path, *STEPS, "--resume")
    assert_same(method, tmp_path, uninterrupted[method])


def test_resume_without_a_run_begins_one_and_after_the_end_does_nothing(
    run, uninterrupted, tmp_path, capsys
):
    (tmp_path / ".run.json.abc.partial").write_bytes(b"half")
    run("invert", tmp_path, *STEPS, "--resume")
    assert_same("invert", tmp_path, uninterrupted["invert"])
    before = (tmp_path / ARTIFACT["invert"]).stat().st_mtime_ns
    capsys.readouterr()
    # As if it had been killed with its last breath.
    (tmp_path / "checkpoint.pt").touch()
    run("invert", tmp_path, *STEPS, "--resume")
    assert not (tmp_path / "checkpoint.pt").exists()
    assert "says that this run is finished" in capsys.readouterr().err
    assert (tmp_path / ARTIFACT["invert"]).stat().st_mtime_ns == before


def test_what_one_looks_at_does_not_change_what_is_learned(run, uninterrupted, tmp_path):
    few = ("--steps", 8, "--save-every", 0, "--evaluate-every", 0, "--sample-every", 8)
    run("invert", tmp_path, *few, "--sample-steps", 1, "--sample-prompt", "a dog")
    learned = [folder / ARTIFACT["invert"] for folder in (tmp_path, uninterrupted["invert"])]
    assert learned[0].read_bytes() == learned[1].read_bytes()
    assert len(list((tmp_path / "samples").iterdir())) == 2


def test_a_folder_that_holds_something_else(fails, run, uninterrupted, pictures, tmp_path):
    out = uninterrupted["invert"]
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert "holds a finished artifact: choose another folder" in fails("invert", out, *STEPS)
    message = fails("invert", out, *STEPS, "--rate", "1e-3", "--resume")
    assert "holds another run (with rate 0.0005, now 0.001)" in message
    message = fails("invert", out, *STEPS, "--resume", images=pictures / "1.png")
    assert "holds another run (of other images)" in message
    message = fails("dreambooth", out, *STEPS, "--resume")
    assert "is not empty: choose another folder" in message
    assert kept == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (tmp_path / "mine").write_text("precious")
    assert "is not empty" in fails("invert", tmp_path, *STEPS)
    assert "is a file" in fails("invert", tmp_path / "mine", *STEPS)


def test_an_unfinished_run_is_not_overwritten(fails, run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            TrainingState, "advance", lambda self: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(SystemExit):
            run("invert", tmp_path, *STEPS)
    message = fails("invert", tmp_path, *STEPS)
    assert "holds an unfinished run: --resume continues it" in message
    (tmp_path / "checkpoint.pt").write_bytes(b"damaged")
    message = fails("invert", tmp_path, *STEPS, "--resume")
    assert "checkpoint.pt: cannot be read" in message


def test_a_loss_that_is_no_number(fails, tmp_path, monkeypatch):
    original, calls = textual_inversion.denoising_loss, []

    def diverging(*args):
        calls.append(1)
        return original(*args) * (float("nan") if len(calls) == 5 else 1)

    monkeypatch.setattr(textual_inversion, "denoising_loss", diverging)
    message = fails("invert", tmp_path, *STEPS)
    assert "step 5: the loss is nan, on " in message and ".png; the state after step 4" in message
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == len(state["losses"]) == 4
    assert state["parameters"][0].isfinite().all()
    assert not (tmp_path / ARTIFACT["invert"]).exists()


def test_a_gradient_that_is_no_number(fails, tmp_path, monkeypatch):
    # Infinite slope at a finite loss.
    original = dreambooth.denoising_loss
    monkeypatch.setattr(
        dreambooth, "denoising_loss", lambda *args: (original(*args) * 0).sqrt() + 1
    )
    message = fails("dreambooth", tmp_path, *STEPS)
    assert "step 1: the norm of the gradient is nan" in message
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 0


@pytest.mark.parametrize("target, step", [("save", 2), ("export", 8)])
def test_a_full_disk(target, step, fails, run, uninterrupted, full_disk, tmp_path, monkeypatch):
    """From the second save on, or in the export, no large file can be written."""
    owner, method = (OutputFolder, "save") if target == "save" else (DreamBooth, "export")
    original, calls = getattr(owner, method), []

    def on_a_small_disk(*args):
        calls.append(1)
        if target == "save" and len(calls) == 1:
            return original(*args)
        with full_disk(1 << 20):
            return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, on_a_small_disk)
        message = fails("dreambooth", tmp_path, *STEPS)
    assert "cannot be written" in message and "--resume" in message
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == step
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"run.json", "checkpoint.pt", "tensorboard"}
    run("dreambooth", tmp_path, *STEPS, "--resume")
    assert_same("dreambooth", tmp_path, uninterrupted["dreambooth"])


def test_one_picture_will_do_and_is_said(run, pictures, tmp_path, capsys):
    run("invert", tmp_path, "--steps", 1, images=pictures / "1.png")
    assert "learning from one image only" in capsys.readouterr().err
    assert (tmp_path / ARTIFACT["invert"]).exists()


def test_pictures_that_cannot_be_read(fails, run, pictures, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "bad.png").write_bytes((pictures / "0.png").read_bytes()[:40])
    out = tmp_path / "out"
    message = fails("invert", out, "--steps", 1, "--skip-unreadable", images=folder)
    assert "none of 1 images can be read" in message and "bad.png" in message
    (folder / "good.png").write_bytes((pictures / "0.png").read_bytes())
    message = fails("invert", out, "--steps", 1, images=folder)
    assert "bad.png: cannot be read as an image" in message and "--skip-unreadable" in message
    assert not out.exists()
    run("invert", out, "--steps", 1, "--skip-unreadable", images=folder)
    assert "1 images cannot be read and are left out:" in capsys.readouterr().err


def test_a_run_does_not_learn_from_what_it_draws(fails, run, pictures, tmp_path, capsys):
    folder = shutil.copytree(pictures, tmp_path / "pictures")
    flags = ("--steps", 1, "--sample-every", 1, "--sample-steps", 1)
    run("invert", folder / "out", *flags, images=folder)
    assert list((folder / "out" / "samples").iterdir())
    run("invert", folder / "out", *flags, "--resume", images=folder)
    assert "says that this run is finished" in capsys.readouterr().err
    message = fails("invert", folder / "out", *flags, "--resume", images=folder / "out")
    assert "the images lie in" in message and "--output" in message


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--size", 100), "--size 100: this model takes sizes that divide by 64"),
        (("--precision", "fp16"), "--precision fp16 needs a GPU, this run is on cpu: use bf16"),
        (("--device", "quantum"), "--device quantum: cannot be used"),
        (("--save-every", -1), "--save-every -1: expected 0 or more"),
    ],
)
def test_wrong_flags(fails, tmp_path, flags, message):
    assert message in fails("invert", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_diffusion_model(fails, pictures, model_folder, tmp_path):
    assert "lacks tokenizer/" in fails("invert", tmp_path / "out", "--weights", pictures)
    copy = tmp_path / "model"
    copy.mkdir()
    for part in ("tokenizer", "text_encoder", "vae", "unet"):
        (copy / part).symlink_to(model_folder / part)
    message = fails("invert", tmp_path / "out", "--weights", copy)
    assert "lacks scheduler/scheduler_config.json of a diffusion model" in message
    (copy / "scheduler").mkdir()
    config = json.loads((model_folder / "scheduler" / "scheduler_config.json").read_text())
    config["prediction_type"] = "sample"
    (copy / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    message = fails("invert", tmp_path / "out", "--weights", copy)
    assert "prediction_type 'sample' is not supported; expected epsilon or v_prediction" in message
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    (copy / "scheduler" / "scheduler_config.json").write_text(json.dumps(flow))
    message = fails("invert", tmp_path / "out", "--weights", copy)
    assert "FlowMatchEulerDiscreteScheduler is no noise schedule of Stable Diffusion" in message


def test_another_noise_schedule_is_another_base(model_folder, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(model_folder, copy)
    file = copy / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())

    def fingerprint(**options):
        file.write_text(json.dumps(config | options))
        return TrainableDiffusion.load(str(copy)).fingerprints()["scheduler"]

    base = fingerprint()
    others = [
        fingerprint(prediction_type="v_prediction"),
        fingerprint(beta_end=0.02),
        fingerprint(beta_schedule="linear"),
        fingerprint(rescale_betas_zero_snr=True),
    ]
    assert len({base, *others}) == 5
    assert fingerprint(_class_name="PNDMScheduler", skip_prk_steps=True, steps_offset=0) == base
