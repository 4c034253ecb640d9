"""Segmentations as files for the server that scores Dark Zurich's test set.

It takes an archive of three folders, with a file per image in each, named as the image:

* `labelTrainIds`: the classes as train ids, 8 bits; scored as IoU.
* `confidence`: the confidence in them, 16 bits for 0 to 1.
* `labelTrainIds_invalid`: as the first, with 255 where the model declares a pixel invalid. Ours
  declares none, and then the server's UIoU equals IoU.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from PIL import Image
from torch import Tensor

from tadp_d2.errors import UserError
from tadp_d2.files import replacing

_logger = logging.getLogger(__name__)


class SubmissionWriter(DatasetEvaluator):
    """Writes every segmentation of an evaluation at the size of its image. It measures nothing."""

    def __init__(self, folder: Path, files: Iterable[str]):
        """
        Args:
            files: of all images of the data set.

        Raises:
            UserError: two of them have one name, so that one's segmentation would replace the
                other's.
        """
        self._folder = folder
        names: dict[str, str] = {}
        for file in files:
            other = names.setdefault(_name(file), file)
            if other != file:
                raise UserError(
                    f"{file} and {other}: the benchmark server takes one file of each name, "
                    f"{_name(file)}; rename one of the two, or evaluate them as two data sets"
                )

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for image, output in zip(inputs, outputs, strict=True):
            name = _name(image["file_name"])
            confidence, classes = _confidence(output["sem_seg"])
            for folder, pixels in (
                ("labelTrainIds", classes),
                ("labelTrainIds_invalid", classes),
                ("confidence", confidence),
            ):
                with replacing(self._folder / folder / name) as temporary:
                    Image.fromarray(pixels).save(temporary, format="PNG")

    def evaluate(self) -> None:
        comm.synchronize()  # all processes have written theirs
        _logger.info(
            f"Segmentations for the benchmark server in {self._folder}; to hand them in: "
            f"cd {self._folder} && zip -r submission.zip confidence labelTrainIds*"
        )


def _name(file: str) -> str:
    return f"{Path(file).stem}.png"


def _confidence(logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """H x W confidence, uint16, and H x W class, uint8, of K x H x W logits."""
    confidence, classes = logits.float().softmax(dim=0).max(dim=0)
    levels = (confidence.cpu().numpy() * 65535).round()
    return levels.astype(np.uint16), classes.cpu().numpy().astype(np.uint8)
