"""Predictions as files, for each image in a folder of predictions:

* `<name>.jpg`: the image with boxes (of a score of 0.5 or more), segments or a mask drawn on it.
* `<name>.png`, of a segmentor: the class index of every pixel, 8 bits; of a model that reads
  expressions: 255 where the object is.
* `<name>.json`: the prompt, and what was found. It is written last: where it stands, the image is
  finished.

Several expressions of an image have a folder, `<name>/1.jpg` and so on. The folder's
`predictions.yaml` names their model.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
# What must be equal for an image to count as done.
_IDENTITY = ("format", "version", "sha256", "caption", "expression", "room", "prompt")


class PredictionJob(NamedTuple):
    """One prediction.

    Attributes:
        path: of the image.
        name: a path that the names of its files are made of.
        text: caption or expression, before the modifier, or the name of a room.
    """

    path: Path
    name: str
    text: str


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
        """The JSON file of an image."""
        return (self.path / name).with_suffix(".json")


def check_names(names: Iterable[tuple[Path, str]]) -> None:
    """
    Args:
        names: images with paths that the names of their files are made of.

    Raises:
        UserError: the files of two images would have the same names.
    """
    taken: dict[Path, Path] = {}
    for path, name in names:
        other = taken.setdefault(Path(name).with_suffix(""), path)
        if other != path:
            raise UserError(
                f"{other} and {path} would share one prediction, {Path(name).stem}.json: predict "
                "them into different folders with --output"
            )


def predict_pictures(
    jobs: Sequence[PredictionJob],
    predictor: Predictor,
    folder: PredictionFolder,
    origin: Mapping[str, str],
) -> dict[Path, str]:
    """Does the predictions that the folder lacks, and prints the prompt of each.

    Args:
        jobs: those of an image in a row, so that its latents are computed once.
        origin: what else the JSON files record of the model.

    Returns:
        For each image that cannot be read the reason.

    Raises:
        UserError: the folder holds a prediction of an image with another text, or of another
            image of that name. Nothing is predicted then.
    """
    records = [
        {
            "format": FORMAT,
            "version": VERSION,
            "file": str(job.path),
            predictor.reads: job.text,
            "prompt": predictor.prompt(job.text),
            **origin,
        }
        for job in jobs
    ]
    to_do = [
        (job, record)
        for job, record in zip(jobs, records, strict=True)
        if not _is_done(folder.file(job.name), record)
    ]
    if len(to_do) < len(jobs):
        print(f"{len(jobs) - len(to_do)} of {len(jobs)} images were predicted before")
    unreadable = {}
    for job, record in to_do:
        try:
            _predict(job, record, predictor, folder.file(job.name))
        except UnreadableImage as error:
            unreadable[job.path] = error.why
    return unreadable


def _predict(
    job: PredictionJob, record: Mapping[str, Any], predictor: Predictor, file: Path
) -> None:
    image, digest = read_rgb(job.path)
    remove_leftovers(file.parent)
    pixels = np.asarray(image)
    output = predictor(pixels, job.text)
    content = {
        **record,
        "sha256": digest,
        "width": image.width,
        "height": image.height,
        **_write(output, pixels, predictor, file),
    }
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{job.path}: {record['prompt']!r} -> {file.with_suffix('.jpg')}")


def _is_done(file: Path, record: Mapping[str, Any]) -> bool:
    if not file.exists():
        return False
    try:
        held = json.loads(file.read_text("utf-8-sig"))
        wanted = record | {"sha256": sha256(record["file"])}
        different = [key for key in _IDENTITY if key in wanted and held[key] != wanted[key]]
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
    """Writes the images of a prediction; returns what its JSON file records of it."""
    result = predictor.task.write(output, file)
    drawing = predictor.task.draw_large(pixels, output)
    with replacing(file.with_suffix(".jpg")) as temporary:
        drawing.save(temporary, format="JPEG", quality=90)
    return result
