"""`tadp-d2 predict` as a user runs it."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tadp_d2.cli import main
from tadp_d2.data.images import read_rgb
from tadp_d2.inference.predictor import Predictor


@pytest.fixture
def pictures(world, tmp_path):
    """A folder with two watercolours, one of them in a folder of its own."""
    source = sorted((world / "watercolor" / "JPEGImages").glob("*.jpg"))
    names = (world / "watercolor" / "ImageSets" / "Main" / "test.txt").read_text().split()
    first, second = (path for path in source if path.stem in names[:2])
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(first, folder)
    shutil.copy(second, folder / "deep")
    return folder


@pytest.fixture
def predict(detector, tmp_path, capsys):
    """predict(argument, ...) runs the command; returns its error message, empty if it succeeds."""

    def run(*arguments, weights=detector / "model_final.pth"):
        capsys.readouterr()
        try:
            words = ("predict", *arguments, "--weights", weights, "--output", tmp_path / "out")
            main([str(word) for word in words])
        except SystemExit as stop:
            err = capsys.readouterr().err
            assert stop.code == 2 and "Traceback" not in err
            return err[err.index("error: ") :]
        return ""

    return run


def contents(folder):
    """Path below a folder -> bytes of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_folder_is_predicted_by_a_data_sets_captions(
    predict, pictures, tmp_path, world, detector, trained_config
):
    assert not predict(pictures, "--captions", "watercolor_test")
    images = sorted(path.relative_to(pictures) for path in pictures.rglob("*.jpg"))
    written = {str(i.with_suffix(suffix)) for i in images for suffix in (".jpg", ".json")}
    assert set(contents(tmp_path / "out")) == written | {"predictions.yaml"}
    lines = (world / "captions" / "watercolor_test.jsonl").read_text().splitlines()[1:]
    captions = {row["image_id"]: row["raw"] for row in map(json.loads, lines)}
    predictor = Predictor(trained_config(detector))
    for image in images:
        record = json.loads((tmp_path / "out" / image.with_suffix(".json")).read_text())
        picture, digest = read_rgb(pictures / image)
        assert (record["width"], record["height"]) == picture.size
        assert record["sha256"] == digest
        caption = captions[image.stem]
        assert record["caption"] == caption
        assert record["prompt"] == f"a watercolor style painting of {caption}"
        found = predictor(np.asarray(picture), caption)["instances"]
        boxes = torch.tensor([detection["box"] for detection in record["detections"]])
        assert torch.equal(boxes, found.pred_boxes.tensor)
        names = [predictor.classes[index] for index in found.pred_classes]
        assert [detection["class"] for detection in record["detections"]] == names
        scores = [detection["score"] for detection in record["detections"]]
        assert scores == found.scores.tolist() == sorted(scores, reverse=True)


def test_a_stopped_run_continues_and_a_finished_one_is_left_alone(
    predict, pictures, tmp_path, monkeypatch
):
    calls = []
    call = Predictor.__call__
    monkeypatch.setattr(
        Predictor, "__call__", lambda self, *args: calls.append(1) or call(self, *args)
    )
    out = tmp_path / "out"
    assert not predict(pictures, "--caption", "a dog")
    whole = contents(out)
    next((out / "deep").glob("*.json")).unlink()
    next((out / "deep").glob("*.jpg")).write_bytes(b"half a drawing")
    (out / "deep" / ".1.json.x.partial").touch()
    assert not predict(pictures, "--caption", "a dog")
    assert contents(out) == whole
    assert not predict(pictures, "--caption", "a dog")
    assert len(calls) == 3


def test_nothing_is_overwritten(predict, pictures, tmp_path, segmentor):
    out = tmp_path / "out"
    assert not predict(pictures, "--caption", "a dog")
    before = contents(out)
    first = next(pictures.glob("*.jpg"))
    assert f"{first.stem}.json: was predicted with caption 'a dog', now it would be 'a cat'" in (
        predict(pictures, "--caption", "a cat")
    )
    message = predict(first, "--caption", "a dog", "--modifier", "null")
    assert "predictions.yaml differs in config; choose another folder with --output" in message
    other = predict(first, "--caption", "a dog", weights=segmentor / "model_final.pth")
    assert "predictions.yaml differs in weights_sha256" in other
    Image.new("RGB", (50, 50)).save(first)
    assert "was predicted with sha256" in predict(first, "--caption", "a dog")
    assert contents(out) == before
    drawing = next(out.glob("*.jpg"))
    assert "out: choose another folder" in predict(drawing, "--caption", "a dog")
    next(out.glob("*.json")).write_text("[1]")
    assert "cannot be compared" in predict(first, "--caption", "a dog")
    shutil.rmtree(out)
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    assert "out is not empty" in predict(first, "--caption", "a dog")
    assert contents(out) == {"thesis.txt": b"precious"}


def test_a_picture_that_cannot_be_read_is_named_and_the_rest_is_done(predict, pictures, tmp_path):
    (pictures / "a.png").write_text("no picture")
    message = predict(pictures, "--caption", "a dog")
    assert message.startswith(f"error: 1 of 3 images cannot be read: {pictures / 'a.png'} (")
    assert len(list((tmp_path / "out").rglob("*.json"))) == 2


def test_segments_are_written_as_class_indices_and_shares(
    predict, segmentor, trained_config, world, tmp_path
):
    image = next((world / "dark_zurich" / "rgb_anon" / "val").rglob("*.png"))
    weights = segmentor / "model_final.pth"
    assert not predict(image, "--captions", "dark_zurich_val", weights=weights)
    record = json.loads((tmp_path / "out" / f"{image.stem}.json").read_text())
    predictor = Predictor(trained_config(segmentor))
    output = predictor(np.asarray(Image.open(image)), record["caption"])
    classes = np.asarray(Image.open(tmp_path / "out" / record["class_map"]))
    assert classes.dtype == np.uint8
    assert np.array_equal(classes, output["sem_seg"].argmax(0))
    shares = {name: (classes == i).mean() for i, name in enumerate(record["classes"])}
    assert record["shares"] == pytest.approx({name: s for name, s in shares.items() if s})
    assert record["prompt"].startswith("a dark night photo of ")
    drawing = Image.open(tmp_path / "out" / f"{image.stem}.jpg")
    assert drawing.size == (2 * classes.shape[1], 2 * classes.shape[0])


def test_pictures_are_captioned_first(predict, pictures, tmp_path, world):
    (pictures / "a.png").write_text("no picture")
    arguments = (pictures, "--captioner", world / "blip2-tiny", "--modifier", "null")
    assert "1 of 3 images cannot be read" in predict(*arguments)
    (pictures / "a.png").unlink()
    lines = (tmp_path / "out" / "captions.jsonl").read_text().splitlines()[1:]
    cleaned = {row["image_id"]: row["clean"] for row in map(json.loads, lines) if "clean" in row}
    assert len(cleaned) == 2
    for name, text in cleaned.items():
        record = json.loads((tmp_path / "out" / name).with_suffix(".json").read_text())
        assert record["caption"] == text
    before = contents(tmp_path / "out")
    assert not predict(*arguments)
    assert contents(tmp_path / "out") == before


def test_wrong_input_is_one_message_and_leaves_no_folder(predict, pictures, tmp_path, detector):
    first = next(pictures.glob("*.jpg"))
    needed = "this model reads a caption: --caption or --captions or --captioner"
    assert needed in predict(pictures)
    assert "no such file or folder" in predict(tmp_path / "absent", "--caption", "a dog")
    message = predict(pictures, "--captions", "voc_2007_test")
    assert "voc_2007_test.jsonl: no caption for" in message and "2 such of 2" in message
    shutil.copy(first, pictures / "deep" / first.with_suffix(".png").name)
    shutil.copy(first, pictures / "deep" / first.name)
    assert f"would share one prediction, {first.stem}.json" in predict(
        pictures / "deep", "--caption", "a dog"
    )
    alone = tmp_path / "alone.pth"
    alone.touch()
    assert "has no config.yaml beside it" in predict(first, "--caption", "a", weights=alone)
    assert "no checkpoint at" in predict(
        first, "--caption", "a dog", weights=detector / "model_9.pth"
    )
    (tmp_path / "damaged").mkdir()
    shutil.copy(detector / "config.yaml", tmp_path / "damaged")
    damaged = tmp_path / "damaged" / "model_final.pth"
    damaged.write_bytes((detector / "model_final.pth").read_bytes()[:-1000])
    assert f"{damaged}: cannot be read as a checkpoint" in predict(
        first, "--caption", "a dog", weights=damaged
    )
    assert not (tmp_path / "out").exists()
