"""What happens to an image and its annotation before the model sees them, from the config."""

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from PIL import Image
from torchvision.transforms.v2.functional import adjust_hue


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """In this order: resize; in training also crop, flip and changes of color.

    Detectron2 crops before it resizes; the TADP paper crops afterwards.
    """
    steps = build_augmentation(cfg, is_train)  # Detectron2's: resize, in training flip
    if cfg.INPUT.RESIZE == "fixed":
        width, height = cfg.INPUT.FIXED_SIZE_TRAIN if is_train else cfg.INPUT.FIXED_SIZE_TEST
        steps[0] = T.Resize((height, width))
    if cfg.INPUT.RESIZE == "jitter" and is_train:
        width, height = cfg.INPUT.FIXED_SIZE_TRAIN
        steps[0] = LargeScaleJitter(
            (height, width),
            *cfg.INPUT.JITTER,
            pad_value=round(sum(cfg.MODEL.PIXEL_MEAN) / 3),
        )
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
    if is_train and cfg.INPUT.COLOR_AUG_DEPTH:
        steps += depth_color_changes()
    return steps


class LargeScaleJitter(T.Augmentation):
    """Resizes by a random factor, and cuts or pads to a size (Copy-Paste, section 3.1).

    To the right and below the image is padded with gray, and masks and label maps with 0.
    """

    def __init__(self, size: tuple[int, int], least: float, most: float, pad_value: int):
        """
        Args:
            size: height and width of the result.
            least, most: of the scale, at 1 of which the image just fits into `size`.
            pad_value: the gray, 0 to 255.
        """
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        scale = float(self._rand_range(self.least, self.most))
        factor = scale * min(side / own for side, own in zip(self.size, image.shape, strict=False))
        height, width = (max(round(factor * own), 1) for own in image.shape[:2])
        rows, columns = (
            min(side, own) for side, own in zip(self.size, (height, width), strict=True)
        )
        top, left = (
            round(float(self._rand_range(0, whole - part)))
            for whole, part in ((height, rows), (width, columns))
        )
        padding = (self.size[1] - columns, self.size[0] - rows)
        return T.TransformList(
            [
                T.ResizeTransform(*image.shape[:2], height, width),
                T.CropTransform(left, top, columns, rows, width, height),
                T.PadTransform(0, 0, *padding, columns, rows, pad_value=self.pad_value),
            ]
        )


def photometric_distortion() -> list[T.Augmentation]:
    """Brightness, contrast, saturation and hue, each changed for half of the images.

    The ranges are those of SSD; a brightness of up to 32 of 256 levels is a factor here.
    """
    changes = (
        T.RandomBrightness(1 - 32 / 256, 1 + 32 / 256),
        T.RandomContrast(0.5, 1.5),
        T.RandomSaturation(0.5, 1.5),
        RandomHue(0.1),
    )
    return [T.RandomApply(change, prob=0.5) for change in changes]


def depth_color_changes() -> list[T.Augmentation]:
    """Brightness and contrast, gamma, and color, each changed for half of the images (VPD).

    The ranges are those of the library that VPD takes the changes from.
    """
    changes = (RandomLight(0.2, 0.2), RandomGamma(0.8, 1.2), RandomHSV(20 / 180, 30, 20))
    return [T.RandomApply(change, prob=0.5) for change in changes]


class RandomLight(T.Augmentation):
    """Multiplies all values by a contrast and adds a brightness."""

    def __init__(self, brightness: float, contrast: float):
        """
        Args:
            brightness: the largest that is added or taken, as a share of 255.
            contrast: the largest difference of the factor from 1.
        """
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        factor = 1 + self._rand_range(-self.contrast, self.contrast)
        added = 255 * self._rand_range(-self.brightness, self.brightness)
        return _by_table(np.arange(256) * factor + added)


class RandomGamma(T.Augmentation):
    """Raises all values, as shares of 255, to a power."""

    def __init__(self, least: float, most: float):
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        power = self._rand_range(self.least, self.most)
        return _by_table(255 * (np.arange(256) / 255) ** power)


def _by_table(values: np.ndarray) -> T.Transform:
    """
    Args:
        values: what each of the values 0 to 255 becomes.
    """
    table = values.round().clip(0, 255).astype(np.uint8)
    return T.ColorTransform(lambda pixels: table[pixels])


class RandomHSV(T.Augmentation):
    """Turns the hue and adds to saturation and value, of an RGB image."""

    def __init__(self, hue: float, saturation: float, value: float):
        """
        Args:
            hue: the largest turn in either direction, as a share of the wheel.
            saturation, value: the largest that is added or taken, of 255.
        """
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        reach = (256 * self.hue, self.saturation, self.value)
        shift = [round(float(self._rand_range(-most, most))) for most in reach]
        return T.ColorTransform(lambda pixels: _shift_hsv(pixels, shift))


def _shift_hsv(pixels: np.ndarray, shift: list[int]) -> np.ndarray:
    """
    Args:
        pixels: H x W x 3, uint8 RGB.
        shift: of hue, saturation and value, in 256 steps.
    """
    moved = np.asarray(Image.fromarray(pixels).convert("HSV"), np.int16) + np.int16(shift)
    # The hue is a wheel.
    moved[..., 0] %= 256
    moved = moved.clip(0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(moved, "HSV").convert("RGB"))


class RandomHue(T.Augmentation):
    """Turns the colors of an RGB image on the color wheel, which Detectron2 cannot do."""

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
    channels_first = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
    return adjust_hue(channels_first, turn).permute(1, 2, 0).numpy()
