"""Detectron2's dataset mapper with the paper's augmentations and errors that name the picture."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import SizeMismatchError
from PIL import Image

from tadp_d2.data.augmentation import build_augmentations
from tadp_d2.errors import UserError


class CaptionedDatasetMapper(DatasetMapper):
    """Maps a dict with "caption" to the model's input, which keeps it."""

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        options = super().from_config(cfg, is_train)
        return {**options, "augmentations": build_augmentations(cfg, is_train)}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """
        Raises:
            UserError: the picture is unreadable, or of another size than annotated.
        """
        try:
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
