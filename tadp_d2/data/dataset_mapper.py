"""Detectron2's dataset mapper with the paper's augmentations and errors that name the picture."""

import contextlib
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import SizeMismatchError
from PIL import Image

from tadp_d2.data.augmentation import build_augmentations
from tadp_d2.errors import UserError
from tadp_d2.randomness import seeded


class CaptionedDatasetMapper(DatasetMapper):
    """Maps a dict with "caption" to the model's input, which keeps it.

    A dict of a `TrainingStream` is augmented by its draw: equally whenever it is mapped.
    """

    @configurable
    def __init__(self, is_train: bool, *, seed: int, **options: Any):
        super().__init__(is_train, **options)
        self._seed = seed

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        options = super().from_config(cfg, is_train)
        augmentations = build_augmentations(cfg, is_train)
        return {**options, "augmentations": augmentations, "seed": cfg.SEED}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """
        Raises:
            UserError: the picture is unreadable, or of another size than annotated.
        """
        draw = dataset_dict.get("draw")
        try:
            with contextlib.nullcontext() if draw is None else seeded(self._seed, draw):
                return super().__call__(dataset_dict)
        except SizeMismatchError as error:
            raise UserError(
                f"{dataset_dict['file_name']}: the picture has another size than its annotation "
                f"says ({error})"
            ) from None
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(
                f"{dataset_dict['file_name']}: cannot be read as a picture ({error}); replace it "
                "or take it out of the split"
            ) from None
