"""The script as a user runs it: real files, exit codes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from .forked import Result

ROOT = Path(__file__).parents[1]
QUICK = "configs/quick_schedules/voc2watercolor_simple.yaml"
QUICK_NIGHT = "configs/quick_schedules/cityscapes2darkzurich_simple.yaml"


@pytest.fixture(scope="module")
def run_script(model_folder, forked):
    """run_script(argument, ...) runs train_net.py on the world with small settings.

    In a fork of a process that has imported everything; from the start where `datasets` is a text,
    the root of the data sets as Detectron2 reads it when it is imported.
    """

    def run(*arguments, config=QUICK, datasets=None, weights=model_folder):
        options = [argument for argument in arguments if argument.startswith("--")]
        overrides = [argument for argument in arguments if not argument.startswith("--")]
        settings = {
            "INPUT.FIXED_SIZE_TRAIN": (128, 128),
            "INPUT.FIXED_SIZE_TEST": (128, 128),
            "SOLVER.IMS_PER_BATCH": 2,
            "TEST.GALLERY_IMAGES": 1,
        }
        if weights:
            settings["MODEL.DIFFUSION.WEIGHTS"] = weights
        pairs = [str(item) for pair in settings.items() for item in pair]
        command = ["train_net.py", "--config-file", config, *options, *pairs, *overrides]
        if not isinstance(datasets, str):
            return forked.run(command, datasets=datasets)[0]
        process = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, "DETECTRON2_DATASETS": datasets},
            capture_output=True,
            text=True,
            timeout=300,
        )
        return Result(process.returncode, process.stdout, process.stderr)

    return run


def metrics(folder):
    return json.loads((folder / "results.json").read_text())["metrics"]


def contents(folder):
    """Path -> bytes of every file below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def error(process):
    """The last line of a run that must have ended as wrong input does."""
    assert process.code == 2, process.stdout + process.stderr
    assert "Traceback" not in process.stdout + process.stderr
    return process.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def trained(run_script, tmp_path_factory):
    """The output folder of a run of four iterations."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    process = run_script(
        *("SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "OUTPUT_DIR", str(folder)),
        *("TEST.COCO_METRICS", "True", "TEST.EVAL_PERIOD", "2"),
    )
    assert process.code == 0, process.stdout + process.stderr
    return folder


def test_a_run_leaves_checkpoints_results_and_pictures(trained):
    assert (trained / "last_checkpoint").read_text() == "model_final.pth"
    assert {"model_0000001.pth", "config.yaml", "metrics.json"} <= set(os.listdir(trained))
    for dataset in ("voc_2007_test", "watercolor_test"):
        assert (trained / "gallery" / f"{dataset}.png").stat().st_size > 10_000
        assert set(metrics(trained)[dataset]) == {"voc07", "voc_area", "coco"}


def test_source_and_target_are_evaluated_during_training_and_after(trained):
    lines = [json.loads(line) for line in (trained / "metrics.json").read_text().splitlines()]
    for dataset in ("voc_2007_test", "watercolor_test"):
        scored = [line["iteration"] for line in lines if f"{dataset}/voc07/AP50" in line]
        assert scored == [1, 4]


def test_results_have_a_history(trained):
    results = json.loads((trained / "results.json").read_text())
    assert results["iteration"] == 4
    assert results["seed"] == 1
    assert results["config"]["TEXT"]["MODIFIER"] == "simple"
    assert set(results["versions"]) >= {"torch", "detectron2", "diffusers", "transformers"}
    captions = results["provenance"]["captions"]
    assert set(captions) >= {"voc_2007_trainval", "voc_2012_trainval", "watercolor_test"}
    assert all(len(value) == 64 for value in captions.values())
    assert set(results["provenance"]["caption_files"]) == set(captions)


def test_evaluation_gives_the_metrics_that_training_ended_with(run_script, trained, tmp_path):
    process = run_script(
        "--eval-only",
        *("MODEL.WEIGHTS", str(trained / "model_final.pth"), "OUTPUT_DIR", str(tmp_path)),
        *("TEST.COCO_METRICS", "True"),
    )
    assert process.code == 0, process.stdout + process.stderr
    assert metrics(tmp_path / "evaluation") == metrics(trained)
    assert "watercolor_test voc07 |" in process.stdout


def test_an_evaluation_in_the_runs_folder_changes_nothing_else_there(run_script, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = contents(run)
    process = run_script("--eval-only", "--resume", "OUTPUT_DIR", str(run))
    assert process.code == 0, process.stdout + process.stderr
    evaluation = metrics(run / "evaluation")
    for dataset, expected in metrics(trained).items():
        assert evaluation[dataset]["voc07"] == expected["voc07"]
    shutil.rmtree(run / "evaluation")
    assert contents(run) == before


def test_an_untrained_model_scores_near_zero(run_script, tmp_path):
    process = run_script("SOLVER.MAX_ITER", "0", "OUTPUT_DIR", str(tmp_path))
    assert process.code == 0, process.stdout + process.stderr
    for dataset in metrics(tmp_path).values():
        assert dataset["voc07"]["AP50"] < 5


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def test_the_same_seed_gives_the_same_weights_however_often_it_is_evaluated(
    run_script, trained, tmp_path
):
    process = run_script(
        *("SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "OUTPUT_DIR", str(tmp_path)),
        *("DATASETS.TEST", "('voc_2007_test',)"),
    )
    assert process.code == 0, process.stdout + process.stderr
    again, first = weights(tmp_path / "model_final.pth"), weights(trained / "model_final.pth")
    assert all(torch.equal(again[key], first[key]) for key in first)


def test_resuming_continues_where_the_run_stopped_to_the_same_weights(
    run_script, trained, tmp_path
):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "model_final.pth").unlink()
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000001.pth")
    process = run_script("--resume", "SOLVER.MAX_ITER", "4", "OUTPUT_DIR", str(tmp_path / "run"))
    assert process.code == 0, process.stdout + process.stderr
    assert "Starting training from iteration 2" in process.stdout
    resumed, whole = (weights(folder / "model_final.pth") for folder in (tmp_path / "run", trained))
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    state = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)
    steps = [s["step"].item() for s in state["trainer"]["_trainer"]["optimizer"]["state"].values()]
    assert set(steps) == {4.0}


def test_a_run_is_not_resumed_to_fewer_iterations(run_script, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    process = run_script("--resume", "SOLVER.MAX_ITER", "2", "OUTPUT_DIR", str(run))
    assert "has done 4 iterations" in error(process)
    for name in ("model_final.pth", "results.json", "metrics.json"):
        assert (run / name).read_bytes() == (trained / name).read_bytes()


def test_what_cannot_be_continued_is_left_as_it_is(run_script, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = contents(run)
    process = run_script("--resume", "SOLVER.BASE_LR", "0.5", "OUTPUT_DIR", str(run))
    assert "another config: SOLVER.BASE_LR is 0.5 and was" in error(process)
    assert contents(run) == before
    for checkpoint in run.glob("*.pth"):
        checkpoint.unlink()
    before = contents(run)
    message = error(run_script("--resume", "SOLVER.MAX_ITER", "4", "OUTPUT_DIR", str(run)))
    assert f"{run}/last_checkpoint: the checkpoint that it names is gone" in message
    message = error(run_script("--eval-only", "--resume", "OUTPUT_DIR", str(run)))
    assert f"{run} holds no checkpoint that --resume could evaluate" in message
    assert contents(run) == before


def test_accumulation_and_bf16_on_the_cpu(run_script, tmp_path):
    process = run_script(
        *("SOLVER.MAX_ITER", "2", "SOLVER.GRADIENT_ACCUMULATION", "2", "TEST.GALLERY_IMAGES", "0"),
        *("SOLVER.AMP.ENABLED", "True", "OUTPUT_DIR", str(tmp_path)),
        *("DATASETS.TEST", "('voc_2007_test',)"),
    )
    assert process.code == 0, process.stdout + process.stderr
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert all(line["total_loss"] < 100 for line in lines if "total_loss" in line)


def test_a_run_is_not_overwritten(run_script, trained):
    before = contents(trained)
    message = error(run_script("OUTPUT_DIR", str(trained)))
    assert "holds a run already: continue it with --resume" in message
    assert contents(trained) == before


def test_a_root_that_is_not_normalized_and_a_split_of_one_image(
    run_script, world, tmp_path, monkeypatch
):
    shutil.copytree(world, tmp_path / "home" / "world")
    split = tmp_path / "home" / "world" / "VOC2007" / "ImageSets" / "Main" / "test.txt"
    first = split.read_text().split()[0]
    split.write_text(f"{first}\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    process = run_script(
        *("SOLVER.MAX_ITER", "0", "TEST.COCO_METRICS", "True", "OUTPUT_DIR", str(tmp_path / "run")),
        datasets="~//world/./",
    )
    assert process.code == 0, process.stdout + process.stderr
    sets = metrics(tmp_path / "run")
    assert all(set(sets[name]) == {"voc07", "voc_area", "coco"} for name in sets)
    images = (tmp_path / "run" / "gallery" / "voc_2007_test").iterdir()
    assert [image.name for image in images] == [first]


def test_no_data_sets(run_script, tmp_path):
    message = error(
        run_script(
            "OUTPUT_DIR",
            str(tmp_path),
            config="configs/voc2watercolor_simple.yaml",
            datasets=tmp_path / "nowhere",
            weights=None,
        )
    )
    assert "data set 'voc_2007_test' not found" in message
    for hint in ("Annotations", "ImageSets/Main/test.txt", "DETECTRON2_DATASETS", "tadp-d2 synth"):
        assert hint in message


def test_no_weights(run_script, tmp_path):
    message = error(run_script("OUTPUT_DIR", str(tmp_path), weights=None))
    assert "no diffusion model 'stable-diffusion-v1-5/stable-diffusion-v1-5'" in message
    message = error(run_script("OUTPUT_DIR", str(tmp_path), weights=tmp_path))
    assert "lacks tokenizer/vocab.json or tokenizer/tokenizer.json" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (("TEXT.MODIFIER", "watercolour"), "unknown modifier 'watercolour'"),
        (("TEXT.MODIFER", "simple"), "did you mean TEXT.MODIFIER?"),
        (("DATASETS.TEST", "('watercolour_test',)"), "unknown data set 'watercolour_test'"),
        (("TEXT.CAPTION_DIR", "nowhere"), "no captions for data set 'voc_2007_test'"),
        (("TEXT.MODIFIER", "ti", "TEXT.TOKENS", "('a.safetensors',)"), "no learned token at a.saf"),
        (("TEXT.MODIFIER", "dreambooth", "MODEL.DIFFUSION.UNET", "a"), "a: lacks config.json"),
    ],
)
def test_wrong_settings(run_script, tmp_path, overrides, expected):
    assert expected in error(run_script("OUTPUT_DIR", str(tmp_path), *overrides))


def test_an_unreadable_picture_in_a_loader_worker(run_script, world, tmp_path):
    shutil.copytree(world, tmp_path / "world")
    for path in (tmp_path / "world" / "VOC2012" / "JPEGImages").iterdir():
        path.write_bytes(path.read_bytes()[:3000])
    for path in (tmp_path / "world" / "VOC2007" / "JPEGImages").glob("00000*"):
        path.write_bytes(path.read_bytes()[:3000])
    message = error(
        run_script(
            *("OUTPUT_DIR", str(tmp_path / "run"), "DATALOADER.NUM_WORKERS", "1"),
            datasets=tmp_path / "world",
        )
    )
    assert ".jpg: cannot be read as an image" in message


def test_evaluation_of_a_checkpoint_of_another_base_model(
    run_script, trained, model_folder, tmp_path
):
    other = tmp_path / "other"
    shutil.copytree(model_folder, other)
    file = other / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    next(t for name, t in tensors.items() if name.endswith("final_layer_norm.weight")).add_(0.1)
    save_file(tensors, file, metadata={"format": "pt"})
    message = error(
        run_script(
            "--eval-only",
            *("MODEL.WEIGHTS", str(trained / "model_final.pth"), "OUTPUT_DIR", str(tmp_path)),
            weights=other,
        )
    )
    assert "was trained with another text encoder" in message
    assert not list(tmp_path.rglob("results.json"))


@pytest.fixture(scope="module")
def segmented(run_script, tmp_path_factory):
    """The output folder of a segmentation run of two iterations."""
    folder = tmp_path_factory.mktemp("runs") / "segmented"
    process = run_script("SOLVER.MAX_ITER", "2", "OUTPUT_DIR", str(folder), config=QUICK_NIGHT)
    assert process.code == 0, process.stdout + process.stderr
    assert "dark_zurich_val sem_seg |" in process.stdout
    return folder


def test_a_segmentation_run_leaves_results_and_pictures(segmented):
    for dataset, values in metrics(segmented).items():
        assert 0 <= values["sem_seg"]["mIoU"] <= 100
        assert {"pACC", "IoU-road", "IoU-bicycle"} <= set(values["sem_seg"])
        assert (segmented / "gallery" / f"{dataset}.png").stat().st_size > 10_000
    assert set(metrics(segmented)) == {"cityscapes_val", "dark_zurich_val"}
    captions = json.loads((segmented / "results.json").read_text())["provenance"]["captions"]
    assert set(captions) == {"cityscapes_train", "cityscapes_val", "dark_zurich_val"}


def test_evaluation_of_a_segmentor_elsewhere_and_files_for_the_server(
    run_script, segmented, world, tmp_path
):
    """In one run: digit for digit on the sets of training, another set, one without labels."""
    sets = ("cityscapes_val", "dark_zurich_val", "nighttime_driving_test", "dark_zurich_test")
    process = run_script(
        "--eval-only",
        *("MODEL.WEIGHTS", str(segmented / "model_final.pth"), "OUTPUT_DIR", str(tmp_path)),
        *("DATASETS.TEST", str(sets), "TEST.SUBMISSION", "True"),
        config=QUICK_NIGHT,
    )
    assert process.code == 0, process.stdout + process.stderr
    found = metrics(tmp_path / "evaluation")
    assert {name: found[name] for name in sets[:2]} == metrics(segmented)
    assert "mIoU" in found["nighttime_driving_test"]["sem_seg"]
    assert found["dark_zurich_test"] == {}
    written = tmp_path / "evaluation" / "submission" / "dark_zurich_test"
    pictures = sorted((world / "dark_zurich" / "rgb_anon" / "test").rglob("*.png"))
    for folder in ("labelTrainIds", "labelTrainIds_invalid", "confidence"):
        files = sorted((written / folder).iterdir())
        assert [file.name for file in files] == [picture.name for picture in pictures]
        for file, picture in zip(files, pictures, strict=True):
            assert Image.open(file).size == Image.open(picture).size


def test_a_set_without_labels_is_neither_scored_nor_trained_on(run_script, tmp_path):
    for key in ("TEST", "TRAIN"):
        message = error(
            run_script(
                *("OUTPUT_DIR", str(tmp_path / "run"), f"DATASETS.{key}", "('dark_zurich_test',)"),
                config=QUICK_NIGHT,
            )
        )
        assert "'dark_zurich_test' has no labels" in message and "TEST.SUBMISSION" in message
    assert not (tmp_path / "run").exists()


def test_a_wrong_label_is_found_before_training(run_script, world, tmp_path):
    shutil.copytree(world, tmp_path / "world")
    label = next((tmp_path / "world" / "cityscapes" / "gtFine" / "train").rglob("*.png"))
    pixels = np.array(Image.open(label))
    pixels[3, 5] = 33
    Image.fromarray(pixels).save(label)
    run = ("SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path / "run"))
    message = error(run_script(*run, config=QUICK_NIGHT, datasets=tmp_path / "world"))
    assert f"{label.relative_to(tmp_path / 'world')}: has the value 33 in 1 pixels" in message
    label.unlink()
    message = error(run_script(*run, config=QUICK_NIGHT, datasets=tmp_path / "world"))
    assert "has no label map" in message and "csCreateTrainIdLabelImgs" in message
    assert not (tmp_path / "run").exists()


def test_a_segmentor_is_not_scored_on_paintings(run_script, segmented, tmp_path):
    message = error(
        run_script(
            "--eval-only",
            *("MODEL.WEIGHTS", str(segmented / "model_final.pth"), "OUTPUT_DIR", str(tmp_path)),
            *("DATASETS.TEST", "('watercolor_test',)"),
            config=QUICK_NIGHT,
        )
    )
    assert "watercolor_test" in message
