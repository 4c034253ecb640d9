"""Predictions as files, for each picture in a folder of predictions:

* `<name>.jpg`: the picture with boxes (of a score of 0.5 or more) or segments drawn on it.
* `<name>.png`, of a segmentor: the class index of every pixel, 8 bits.
* `<name>.json`: the prompt, and all boxes or the classes' shares of the area. It is written last:
  where it stands, the picture is finished.

The folder's `predictions.yaml` says of which model they are.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detectron2.config import CfgNode

from tadp_d2.data.images import UnreadableImage, read_rgb
from tadp_d2.errors import UserError
from tadp_d2.files import remove_leftovers, replacing, sha256
from tadp_d2.inference.predictor import Predictor

FORMAT = "tadp_d2 prediction"
VERSION = 1
CAPTIONS = "captions.jsonl"
# What must be equal for a picture to count as done.
_IDENTITY = ("format", "version", "sha256", "caption", "prompt")


class PredictionFolder:
    """The folder that holds the predictions of one model, and nothing else."""

    def __init__(self, path: Path, cfg: CfgNode):
        """
        Args:
            cfg: with a checkpoint in MODEL.WEIGHTS.

        Raises:
            UserError: the folder holds something else than predictions of this model.
        """
        self.path = path
        self._record = path / "predictions.yaml"
        self._model = {
            "format": f"{FORMAT}s",
            "version": VERSION,
            "weights_sha256": sha256(cfg.MODEL.WEIGHTS),
            "config": yaml.safe_load(cfg.dump()),
        }
        self._check()

    def _check(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file: --output names a folder")
        if self._record.is_file():
            self._refuse_other_model()
        # Captions are made before the model is loaded, which may fail.
        elif self.path.exists() and any(
            file.name != CAPTIONS and not file.name.startswith(".") for file in self.path.iterdir()
        ):
            raise UserError(f"{self.path} is not empty: choose another folder with --output")

    def _refuse_other_model(self) -> None:
        try:
            held = yaml.safe_load(self._record.read_text("utf-8-sig"))
            different = [key for key, value in self._model.items() if held[key] != value]
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
            raise UserError(
                f"{self._record}: cannot be read ({error}); choose another folder with --output"
            ) from None
        if different:
            raise UserError(
                f"{self.path} holds predictions of another model: {self._record} differs in "
                f"{different[0]}; choose another folder with --output"
            )

    def open(self) -> None:
        """Makes the folder that of the model."""
        if not self._record.exists():
            with replacing(self._record) as temporary:
                temporary.write_text(yaml.safe_dump(self._model))

    def file(self, name: str) -> Path:
        """The JSON file of a picture."""
        return (self.path / name).with_suffix(".json")


def check_names(pictures: Mapping[Path, str]) -> None:
    """
    Args:
        pictures: picture -> its name, a path that the names of its files are made of.

    Raises:
        UserError: the files of two pictures would have the same names.
    """
    taken: dict[Path, Path] = {}
    for path, name in pictures.items():
        other = taken.setdefault(Path(name).with_suffix(""), path)
        if other != path:
            raise UserError(
                f"{other} and {path} would share one prediction, {Path(name).stem}.json: predict "
                "them into different folders with --output"
            )


def predict_pictures(
    pictures: Mapping[Path, str],
    captions: Mapping[Path, str],
    predictor: Predictor,
    folder: PredictionFolder,
    origin: Mapping[str, str],
) -> dict[Path, str]:
    """Predicts the pictures that the folder lacks, and prints the prompt of each.

    Args:
        pictures: picture -> its name, a path that the names of its files are made of.
        captions: picture -> caption, before the modifier.
        origin: what the JSON files say of the model besides.

    Returns:
        For each picture that cannot be read the reason.

    Raises:
        UserError: the folder holds a prediction of a picture with another caption, or of another
            picture of that name. Nothing is predicted then.
    """
    records = {
        path: {
            "format": FORMAT,
            "version": VERSION,
            "file": str(path),
            "caption": captions[path],
            "prompt": predictor.prompt(captions[path]),
            **origin,
        }
        for path in pictures
    }
    done = {path for path in pictures if _is_done(folder.file(pictures[path]), records[path])}
    if done:
        print(f"{len(done)} of {len(pictures)} pictures were predicted before")
    unreadable = {}
    for path in pictures:
        try:
            if path not in done:
                _predict(path, records[path], predictor, folder.file(pictures[path]))
        except UnreadableImage as error:
            unreadable[path] = error.why
    return unreadable


def _predict(path: Path, record: Mapping[str, Any], predictor: Predictor, file: Path) -> None:
    image, digest = read_rgb(path)
    remove_leftovers(file.parent)
    pixels = np.asarray(image)
    output = predictor(pixels, record["caption"])
    content = {
        **record,
        "sha256": digest,
        "width": image.width,
        "height": image.height,
        **_write(output, pixels, predictor, file),
    }
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{path}: {record['prompt']!r} -> {file.with_suffix('.jpg')}")


def _is_done(file: Path, record: Mapping[str, Any]) -> bool:
    if not file.exists():
        return False
    try:
        held = json.loads(file.read_text("utf-8-sig"))
        wanted = record | {"sha256": sha256(record["file"])}
        different = [key for key in _IDENTITY if held[key] != wanted[key]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file}: cannot be compared ({error!r}); remove it to predict it anew"
        ) from None
    if different:
        raise UserError(
            f"{file}: was predicted with {different[0]} {held[different[0]]!r}, now it would be "
            f"{wanted[different[0]]!r}: choose another folder with --output, or remove the file"
        )
    return True


def _write(
    output: Mapping[str, Any], pixels: np.ndarray, predictor: Predictor, file: Path
) -> dict[str, Any]:
    """Writes the images of a prediction; returns what its JSON file says of it."""
    result = predictor.task.write(output, file)
    drawing = predictor.task.draw_large(pixels, output)
    with replacing(file.with_suffix(".jpg")) as temporary:
        drawing.save(temporary, format="JPEG", quality=90)
    return result
