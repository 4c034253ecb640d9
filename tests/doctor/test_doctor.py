"""`tadp-d2 doctor` on what is right, on nothing, and on much at once."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from tadp_d2 import cli
from tadp_d2.commands import doctor
from tadp_d2.data.texts import write_captions
from tadp_d2.doctor import environment
from tadp_d2.doctor.dataset_check import present
from tadp_d2.doctor.findings import Finding, Kind, Printout

ROOT = Path(__file__).parents[2]
QUICK = str(ROOT / "configs/quick_schedules/voc2watercolor_simple.yaml")


def run(*arguments):
    """The exit code of the command in this process."""
    try:
        cli.main(["doctor", *map(str, arguments)])
    except SystemExit as stop:
        return stop.code
    return 0


def sections(text):
    """Title -> symbols of its lines."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("  "):
            symbols = found[line] = []
        else:
            symbols.append(line[2])
    return found


def test_all_is_well_with_the_world_and_its_model(forked, model_folder, tmp_path):
    """As a user runs it, with a terminal that knows ASCII alone."""
    settings = ("MODEL.DIFFUSION.WEIGHTS", model_folder, "OUTPUT_DIR", tmp_path / "run")
    command = ("tadp-d2", "doctor", "--config-file", QUICK, "--opts", *settings)
    (process,) = forked.run(command, PYTHONIOENCODING="ascii")
    assert process.code == 0, process.stdout + process.stderr
    assert "Traceback" not in process.stderr
    assert process.stdout.splitlines()[-1] == "all is well"
    assert "watercolor_test" in sections(process.stdout)
    assert not (tmp_path / "run").exists()


def test_memory_that_caches_hold_counts_as_free(tmp_path, monkeypatch):
    def memory():
        return next(f.text for f in environment.check_environment() if "memory: " in f.text)

    monkeypatch.setattr(environment, "_MEMORY", tmp_path / "meminfo")
    assert "free" not in memory()
    (tmp_path / "meminfo").write_text("MemFree:  1048576 kB\nMemAvailable:   3145728 kB\n")
    assert memory().startswith("memory: 3.0 of ")


def test_a_line_per_finding_and_the_published_number_as_a_note(world, model_folder, capsys):
    settings = ("MODEL.DIFFUSION.WEIGHTS", model_folder)
    assert run("--config-file", QUICK, "--opts", *settings) == 0
    text = capsys.readouterr().out
    found = sections(text)
    names = ("voc_2007_trainval", "voc_2012_trainval", "voc_2007_test", "watercolor_test")
    assert set(found) == {"environment", "weights", *names, "all is well"}
    assert all(found[name] == [Kind.GOOD, Kind.NOTE] for name in names)
    assert "6 images; the published set has 1000" in text
    assert re.search(r"Detectron2 \S+ in /", text) and "torch " in text


def test_without_a_config_all_data_sets_that_are_here(world, model_folder, capsys):
    assert run("--opts", "MODEL.DIFFUSION.WEIGHTS", model_folder) == 0
    assert set(present()) < set(sections(capsys.readouterr().out))


def test_one_data_set_needs_no_weights(world, capsys):
    assert run("dark_zurich_test") == 0
    assert list(sections(capsys.readouterr().out)) == [
        *("environment", "dark_zurich_test", "all is well")
    ]


def test_captions_that_nobody_asked_for_may_be_absent(world, model_folder, tmp_path, capsys):
    """A config asks for captions; a name alone may be of a set that has just been unpacked."""
    folder = tmp_path / "captions"
    shutil.copytree(world / "captions", folder)
    (folder / "watercolor_test.jsonl").unlink()
    settings = ("MODEL.DIFFUSION.WEIGHTS", model_folder, "TEXT.CAPTION_DIR", folder)
    assert run("--opts", *settings) == 0
    assert run("watercolor_test", "--opts", *settings) == 0
    assert capsys.readouterr().out.count("no captions for data set 'watercolor_test'") == 2
    assert run("watercolor_test", "--config-file", QUICK, "--opts", *settings) == 2


def test_absent_weights_and_an_unknown_data_set(world, capsys):
    assert run("--config-file", QUICK) == 2
    assert "no diffusion model 'stable-diffusion-v1-5" in capsys.readouterr().out
    assert run("watercolour_test") == 2
    assert "unknown data set 'watercolour_test'" in capsys.readouterr().err


def test_nothing_is_downloaded(world, capsys, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("tadp_d2.diffusion.model_folder._fetch", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert run("--config-file", QUICK) == 0
    assert "stable-diffusion-v1-5: not here yet" in capsys.readouterr().out


def test_many_problems_are_counted_and_listed_on_request(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_MOST", 2)
    write_captions(tmp_path / "comic_test.jsonl", "comic_test", {}, {})
    settings = ("comic_test", "--opts", "TEXT.CAPTION_DIR", tmp_path)
    assert run(*settings) == 2
    text = capsys.readouterr().out
    assert text.count("no caption for image") == 2
    assert "and 4 more problems (--all shows them)" in text and "\n6 problems\n" in text
    assert run("--all", *settings) == 2
    assert capsys.readouterr().out.count("no caption for image") == 6


def test_empty_captions_are_noted(world, tmp_path, capsys):
    ids = [str(5001 + index) for index in range(6)]
    write_captions(tmp_path / "comic_test.jsonl", "comic_test", dict.fromkeys(ids, ""), {})
    assert run("comic_test", "--opts", "TEXT.CAPTION_DIR", tmp_path) == 0
    assert "6 captions are empty, such as that of '5001'" in capsys.readouterr().out


@pytest.mark.parametrize("adam_8bit, bytes_per_weight", [(False, 12), (True, 6)])
def test_a_full_disk_is_a_problem(make_config, monkeypatch, adam_8bit, bytes_per_weight):
    """A checkpoint has weights and Adam's moments; two are kept, one is written, one is final."""
    model = torch.nn.Linear(1000, 1000, bias=False)
    needed = 4 * bytes_per_weight * 10**6
    for free, kind in ((needed, Kind.GOOD), (needed - 1, Kind.PROBLEM)):
        monkeypatch.setattr(
            environment.shutil,
            "disk_usage",
            lambda _, free=free: shutil._ntuple_diskusage(0, 0, free),
        )
        cfg = make_config("DATALOADER.NUM_WORKERS", 0, "SOLVER.ADAM_8BIT", adam_8bit)
        assert [finding.kind for finding in environment.check_room(cfg, model)] == [
            *(Kind.GOOD, kind)
        ]


def test_too_little_shared_memory_is_a_problem(make_config, monkeypatch):
    """Two workers make two batches of 16 images each ahead, and one is in use."""
    cfg = make_config("DATALOADER.NUM_WORKERS", 2, "SOLVER.IMS_PER_BATCH", 16)
    needed = (2 * 2 + 1) * 16 * 128 * 128 * 3
    plenty = shutil._ntuple_diskusage(0, 0, 10**12)
    for free, kind in ((needed, Kind.GOOD), (needed - 1, Kind.PROBLEM)):
        usage = {environment.SHARED_MEMORY: shutil._ntuple_diskusage(0, 0, free)}
        monkeypatch.setattr(
            environment.shutil, "disk_usage", lambda path, usage=usage: usage.get(path, plenty)
        )
        _, shared, disk = environment.check_room(cfg, torch.nn.Linear(1, 1))
        assert (shared.kind, disk.kind) == (kind, Kind.GOOD)
        assert shared.text.startswith("shared memory: ")
    assert "docker run --shm-size" in shared.text


def test_findings_are_shown_as_they_come(capsys):
    def findings():
        yield Finding(Kind.GOOD, "first")
        assert "first" in capsys.readouterr().out
        yield Finding(Kind.PROBLEM, "second")

    printout = Printout(most=1)
    printout.section("title", findings())
    assert printout.problems == 1


@pytest.mark.parametrize(
    "key, name, message",
    [
        ("WEIGHTS", "v1-5.safetensors", "v1-5.safetensors: there is no such file"),
        ("LORA_FILE", "cut.bin", "cut.bin: cannot be read as low-rank updates"),
    ],
)
def test_models_that_a_run_would_refuse(world, model_folder, tmp_path, capsys, key, name, message):
    (tmp_path / "cut.bin").write_bytes(b"PK")
    base = ("MODEL.DIFFUSION.WEIGHTS", model_folder)
    own = (f"MODEL.DIFFUSION.{key}", tmp_path / name)
    assert run("--config-file", QUICK, "--opts", *base, *own) == 2
    assert message in capsys.readouterr().out
