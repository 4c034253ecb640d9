"""Segmentations as files for the server that scores Dark Zurich's test set.

It takes an archive of three folders, with a file per image in each, named as the image:

* `labelTrainIds`: the classes as train ids, 8 bits; scored as IoU.
* `confidence`: the confidence in them, 16 bits for 0 to 1.
* `labelTrainIds_invalid`: as the first, with 255 where the model declares a pixel invalid. Ours
  declares none, and then the server's UIoU equals IoU.
"""

import logging
from pathlib import Path

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from PIL import Image
from torch import Tensor

from tadp_d2.files import replacing

_logger = logging.getLogger(__name__)


class SubmissionWriter(DatasetEvaluator):
    """Writes every segmentation of an evaluation at the size of its image. It measures nothing."""

    def __init__(self, folder: Path):
        self._folder = folder

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for image, output in zip(inputs, outputs, strict=True):
            name = f"{Path(image['file_name']).stem}.png"
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


def _confidence(logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """H x W confidence, uint16, and H x W class, uint8, of K x H x W logits."""
    confidence, classes = logits.float().softmax(dim=0).max(dim=0)
    levels = (confidence.cpu().numpy() * 65535).round()
    return levels.astype(np.uint16), classes.cpu().numpy().astype(np.uint8)
