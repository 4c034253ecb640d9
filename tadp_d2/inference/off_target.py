"""What names of absent classes do to a model that was trained with an oracle (TADP, figure S2).

The model sees the test images twice: under the names of what each shows, and under the names of all
classes. Scores are compared by the true class of the pixels.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import nn

from tadp_d2.conditioning.oracle import Oracle, read_present
from tadp_d2.data.images import read_label_map
from tadp_d2.data.loader import build_test_loader, load_dataset
from tadp_d2.errors import UserError
from tadp_d2.files import replacing
from tadp_d2.tasks.task import get_task
from tadp_d2.visualization.score_matrices import score_matrices

# The two prompts.
ORACLE, ALL_NAMES = "oracle", "class names"


def check_model(cfg: CfgNode) -> None:
    """
    Raises:
        UserError: it is no semantic segmentor with a true oracle, or one whose output is stretched
            or averaged.
    """
    task = get_task(cfg).name
    if task != "semantic":
        raise UserError(f"off-target is for semantic segmentation; this model's task is {task}")
    if cfg.MODEL.CONDITIONER.NAME != Oracle.__name__:
        raise UserError(
            f"MODEL.CONDITIONER.NAME is {cfg.MODEL.CONDITIONER.NAME}: expected a model that was "
            "trained with MODEL.CONDITIONER.NAME Oracle, which reads the names of what is there"
        )
    if cfg.TEST.AT_INPUT_SIZE:
        raise UserError("TEST.AT_INPUT_SIZE is True: scores are compared at the labels' size")
    if cfg.TEST.VIEWS.SCALES:
        raise UserError("TEST.VIEWS.SCALES is set: scores are those of a single pass; empty it")
    oracle = cfg.MODEL.CONDITIONER.ORACLE
    for name in ("PRECISION", "RECALL"):
        if oracle[name] != 1:
            raise UserError(
                f"MODEL.CONDITIONER.ORACLE.{name} is {oracle[name]}: both prompts would err so; "
                "expected 1.0"
            )


@torch.no_grad()
def measure_scores(
    cfg: CfgNode,
    model: nn.Module,
    dataset: str,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """The mean scores of the pixels of each class, under both prompts.

    Args:
        cfg: of which `check_model` found nothing wrong.
        model: in eval mode.
        dataset: with label maps.
        progress: called with the number of images done and to be done.

    Returns:
        "oracle" and "class names", those of all classes that an image of the data set shows ->
        K x K: of the pixels that are truly of the row's class, the mean of the softmax over the
        classes. A row that has pixels sums to 1, the others are NaN.

    Raises:
        UserError: all names do not fit into one prompt, or a label map does not have the size of
            its image.
    """
    ignore = MetadataCatalog.get(dataset).get("ignore_label", 255)
    entries = load_dataset(cfg, dataset)
    truths = {entry["file_name"]: entry["sem_seg_file_name"] for entry in entries}
    # What is nowhere is no name to be misled by.
    shown = frozenset().union(*(read_present(entry).read().categories for entry in entries))
    size = len(get_task(cfg).classes())
    sums = {prompt: np.zeros((size, size)) for prompt in (ORACLE, ALL_NAMES)}
    counts = np.zeros(size)
    for number, (own,) in enumerate(build_test_loader(cfg, dataset), start=1):
        with_all = {**own, "present": replace(read_present(own), categories=shown)}
        _check_fits(model.conditioner, with_all)
        truth = None
        for prompt, inputs in ((ORACLE, own), (ALL_NAMES, with_all)):
            scores = model([inputs])[0]["sem_seg"].double().softmax(dim=0).cpu().numpy()
            if truth is None:
                truth = _read_truth(truths[own["file_name"]], scores.shape[1:])
            known = truth != ignore
            for label in np.unique(truth[known]):
                sums[prompt][label] += scores[:, truth == label].sum(axis=1)
        counts += np.bincount(truth[known], minlength=size)
        if progress:
            progress(number, len(truths))
    with np.errstate(invalid="ignore"):
        return {prompt: total / counts[:, None] for prompt, total in sums.items()}


def _check_fits(conditioner: Oracle, inputs: Mapping[str, Any]) -> None:
    names = conditioner.caption(inputs)
    if names not in conditioner.prompt(inputs):
        raise UserError(
            f"the names of the classes do not fit into the {conditioner.text.length} tokens of a "
            f"prompt: {names}"
        )


def _read_truth(file: str, size: tuple[int, ...]) -> np.ndarray:
    truth = read_label_map(file)
    if truth.shape != size:
        raise UserError(
            f"{file}: its size is {truth.shape} and that of its image {tuple(size)} (height, width)"
        )
    return truth


def write_scores(path: Path, scores: Mapping[str, np.ndarray], classes: Sequence[str]) -> Path:
    """Writes the drawing of the matrices, and beside it their numbers.

    Args:
        scores: of `measure_scores`.

    Returns:
        The CSV file: a line for each prompt, true class and scored class, with the mean score; none
        for a class without pixels.
    """
    shown = [index for index, row in enumerate(scores[ORACLE]) if not np.isnan(row).any()]
    names = [classes[index] for index in shown]
    # Scores of classes that no pixel is truly of stay in the numbers.
    with replacing(path) as temporary:
        drawn = {prompt: own[np.ix_(shown, shown)] for prompt, own in scores.items()}
        score_matrices(drawn, names).save(temporary, format="PNG")
    numbers = path.with_suffix(".csv")
    with (
        replacing(numbers) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(("prompt", "true class", "scored class", "mean score"))
        for prompt, own in scores.items():
            for index in shown:
                for name, value in zip(classes, own[index], strict=True):
                    lines.writerow((prompt, classes[index], name, f"{value:.6f}"))
    return numbers
