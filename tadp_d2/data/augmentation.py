"""What happens to a picture and its annotation before the model sees them, from the config."""

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from torchvision.transforms.v2.functional import adjust_hue


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """In this order: resize; in training also crop, flip and photometric distortion.

    Detectron2 crops before it resizes; the TADP paper crops afterwards.
    """
    steps = build_augmentation(cfg, is_train)  # Detectron2's: resize, in training flip
    if cfg.INPUT.RESIZE == "fixed":
        width, height = cfg.INPUT.FIXED_SIZE_TRAIN if is_train else cfg.INPUT.FIXED_SIZE_TEST
        steps[0] = T.Resize((height, width))
    if is_train and cfg.INPUT.CROP.ENABLED:
        crop = T.RandomCrop_CategoryAreaConstraint(
            cfg.INPUT.CROP.TYPE,
            cfg.INPUT.CROP.SIZE,
            single_category_max_area=cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA,
            ignored_category=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        )
        steps.insert(1, crop)
    if is_train and cfg.INPUT.COLOR_AUG_SSD:
        steps += photometric_distortion()
    return steps


def photometric_distortion() -> list[T.Augmentation]:
    """Brightness, contrast, saturation and hue, each changed for half of the pictures.

    The ranges are those of SSD; a brightness of up to 32 of 256 levels is a factor here.
    """
    changes = (
        T.RandomBrightness(1 - 32 / 256, 1 + 32 / 256),
        T.RandomContrast(0.5, 1.5),
        T.RandomSaturation(0.5, 1.5),
        RandomHue(0.1),
    )
    return [T.RandomApply(change, prob=0.5) for change in changes]


class RandomHue(T.Augmentation):
    """Turns the colours of an RGB picture on the colour wheel, which Detectron2 cannot do."""

    def __init__(self, reach: float):
        """
        Args:
            reach: the largest turn in either direction, as a share of the wheel, 0 to 0.5.
        """
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        turn = float(self._rand_range(-self.reach, self.reach))
        return T.ColorTransform(lambda pixels: _turn_hue(pixels, turn))


def _turn_hue(pixels: np.ndarray, turn: float) -> np.ndarray:
    """
    Args:
        pixels: H x W x 3, uint8 RGB.
    """
    channels_first = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    return adjust_hue(channels_first, turn).permute(1, 2, 0).numpy()
