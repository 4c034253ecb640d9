"""What an experiment predicts: the first seam. A task has a file of its own.

A task defines what its data sets must offer, what the model's input has besides the image, which
evaluators score a data set, what is drawn and written of a prediction, and what in a config is
wrong for it. Trainer, checks, prediction, gallery, results and reports ask the task.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.transforms import TransformList
from detectron2.evaluation import DatasetEvaluator
from fvcore.common.registry import Registry
from PIL import Image
from torch import nn

from tadp_d2.conditioning.conditioner import get_conditioner_class
from tadp_d2.config.keys import KEYS
from tadp_d2.data.catalog import is_labelled, offers, read_known
from tadp_d2.errors import UserError
from tadp_d2.tasks.metrics import TAGS, MetricSet

TASK_REGISTRY = Registry("TASK")


class Task(ABC):
    """A task under a config.

    Attributes:
        name: as `MODEL.TASK` names it.
        architectures: names of meta-architectures whose task it is, also of the conditioned ones.
        needs: what a data set must offer: "instances", "semantic" (`catalog.offers`).
        metric_sets: that its evaluators return, the most important first.
        columns: images in a row of the gallery's sheet.
        titles: of the images on the sheet: "image", "truth", "prediction", "error".
        own_keys: of the config, which other tasks do not act on.
        at_input_size: whether outputs have the size of the model's input, and not the image's.
        changes_images: whether `augment` does.
    """

    name: ClassVar[str]
    architectures: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[str]
    metric_sets: ClassVar[tuple[MetricSet, ...]]
    columns: int = 3
    titles: tuple[str, ...] = ("image", "truth", "prediction")
    own_keys: ClassVar[frozenset[str]] = frozenset()
    at_input_size: bool = False
    changes_images: bool = False

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg

    def classes(self) -> list[str]:
        """The names of the model's class indices: those of the data it is trained on."""
        return []

    def check_config(self) -> None:  # noqa: B027 (there may be nothing to check)
        """
        Raises:
            UserError: a key is wrong for this task; what needs no data set is checked.
        """

    def check_dataset(self, dataset: str, training: bool) -> None:
        """
        Raises:
            UserError: a registered data set is not of the kind that the task needs.
        """
        if self.needs not in offers(dataset):
            raise UserError(
                f"data set {dataset!r} offers {', '.join(sorted(offers(dataset))) or 'images only'}"
                f"; the task {self.name!r} needs {self.needs}"
            )
        if not is_labelled(dataset) and (training or not self.cfg.TEST.SUBMISSION):
            raise UserError(
                f"data set {dataset!r} has no labels: it can be evaluated with TEST.SUBMISSION "
                "True, which writes files for its benchmark server, and not be trained on"
            )

    def select_for_training(
        self, dataset: str, entries: Sequence[dict[str, Any]]
    ) -> Sequence[dict[str, Any]]:
        """The entries of a data set that the model can be trained on.

        Raises:
            UserError: there is none.
        """
        return entries

    def add_truth(
        self, entry: Mapping[str, Any], transforms: TransformList, image_size: tuple[int, int]
    ) -> dict[str, Any]:
        """What a training input has besides Detectron2's "instances" and "sem_seg".

        Args:
            entry: of the data set.
            transforms: that were applied to the image.
            image_size: height and width of the transformed image.
        """
        return {}

    def augment(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A training input, with its truth, after what is changed at random and needs both."""
        return inputs

    @abstractmethod
    def evaluators(self, dataset: str) -> list[DatasetEvaluator]:
        """Those that judge a test set."""

    def augmentation(self) -> Callable[[CfgNode, nn.Module], nn.Module] | None:
        """Makes of a config and its model one under test-time augmentation (`TEST.AUG`).

        None where there is no such augmentation for the config.
        """
        return None

    def measured(self) -> tuple[MetricSet, ...]:
        """The metric sets of the results: with `TEST.AUG` also those under augmentation.

        A conditioner that predicts tags has one of its own.
        """
        augmented = self.metric_sets if self.cfg.TEST.AUG.ENABLED else ()
        tags = (TAGS,) if get_conditioner_class(self.cfg).predicted_tags(self.cfg) else ()
        return (*self.metric_sets, *(metric_set.augmented for metric_set in augmented), *tags)

    def legend(self, dataset: str) -> tuple[tuple[str, tuple[int, int, int]], ...]:
        """Names and colors (RGB), shown below the gallery's sheet."""
        return ()

    def draw_truth(
        self, dataset: str, pixels: np.ndarray, entry: Mapping[str, Any]
    ) -> Image.Image | None:
        """The truth of an image, H x W x 3 RGB; None where there is none."""
        return None

    @abstractmethod
    def draw_prediction(
        self, dataset: str, pixels: np.ndarray, output: Mapping[str, Any]
    ) -> Image.Image:
        """What the model returned for an image, H x W x 3 RGB, as a gallery shows it."""

    def draw_error(
        self, dataset: str, entry: Mapping[str, Any], output: Mapping[str, Any]
    ) -> Image.Image | None:
        """Where the model is wrong about an image, and how much; None for a task without it."""
        return None

    def draw_large(self, pixels: np.ndarray, output: Mapping[str, Any]) -> Image.Image:
        """The same for an image that is looked at alone; classes are named in it."""
        return self.draw_prediction(self.cfg.DATASETS.TRAIN[0], pixels, output)

    @abstractmethod
    def write(self, output: Mapping[str, Any], file: Path) -> dict[str, Any]:
        """Writes what JSON cannot hold beside `file`; returns what the JSON file is to hold."""

    def summary(self, output: Mapping[str, Any]) -> dict[str, str]:
        """What was found -> how much of it, in words, so that two outputs can be compared."""
        return {}


def get_task(cfg: CfgNode) -> Task:
    """The task of a config.

    Raises:
        UserError: `MODEL.TASK` is not registered, or is empty and no task claims the architecture.
    """
    known = dict(TASK_REGISTRY)
    name, architecture = cfg.MODEL.TASK, cfg.MODEL.META_ARCHITECTURE.removeprefix("Conditioned")
    if name:
        found = [task for task in known.values() if task.name == name]
    else:
        found = [task for task in known.values() if architecture in task.architectures]
    if len(found) == 1:
        return found[0](cfg)
    names = ", ".join(task.name for task in known.values())
    if name:
        raise UserError(f"MODEL.TASK is {name!r}: expected one of {names}")
    raise UserError(
        f"no task is known for MODEL.META_ARCHITECTURE {architecture!r}: set MODEL.TASK to one of "
        f"{names}"
    )


def check_own_keys(cfg: CfgNode) -> None:
    """
    Raises:
        UserError: a key is set that only another task acts on.
    """
    task = get_task(cfg)
    for _, other in TASK_REGISTRY:
        for key in sorted(other.own_keys - task.own_keys):
            value = functools.reduce(getattr, key.split("."), cfg)
            if value != KEYS[key].default:
                raise UserError(f"{key} is {value}: it is for {other.name}, not for {task.name}")


def class_names(dataset: str, kind: str) -> list[str]:
    """The names of a data set's classes.

    Args:
        kind: "thing" or "stuff", as in Detectron2's metadata.

    Raises:
        UserError: it declares none.
    """
    meta = MetadataCatalog.get(dataset)
    in_file = meta.get("json_file") or meta.get("panoptic_json")
    if not meta.get(f"{kind}_classes") and in_file:
        read_known(dataset)  # which takes the classes from COCO's file
    names = meta.get(f"{kind}_classes")
    if not names:
        raise UserError(f"data set {dataset!r} declares no {kind}_classes in its metadata")
    return list(names)
