"""Detectron2's dataset mapper with the paper's augmentations and our reading of files."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError
from pycocotools import mask as run_lengths
from torch import Tensor

from tadp_d2.data.augmentation import LargeScaleJitter, build_augmentations
from tadp_d2.data.decoded_files import as_blank, as_image, as_label_map
from tadp_d2.data.images import UnreadableImage, other_size, read_size
from tadp_d2.data.views import make_views
from tadp_d2.diffusion.latent_cache import LatentCache
from tadp_d2.errors import UserError, reason
from tadp_d2.tasks.task import Task, get_task


class _Recorded(T.AugmentationList):
    """Augmentations that keep their last transforms, which Detectron2's mapper keeps to itself.

    Where they pad an image, its label map has no class.
    """

    def __init__(self, steps: Sequence[T.Augmentation], ignored: int):
        """
        Args:
            ignored: value of a label map for no class.
        """
        super().__init__(steps)
        self._ignored = ignored
        self._pads = any(isinstance(step, LargeScaleJitter) for step in steps)

    def __call__(self, aug_input: T.AugInput) -> T.TransformList:
        size = aug_input.image.shape[:2]
        self.transforms = super().__call__(aug_input)
        if self._pads and aug_input.sem_seg is not None:
            covered = self.transforms.apply_segmentation(np.ones(size, np.uint8))
            labels = np.where(covered, aug_input.sem_seg, self._ignored)
            aug_input.sem_seg = labels.astype(aug_input.sem_seg.dtype)
        return self.transforms


class ConditionedMapper(DatasetMapper):
    """Maps a data set's dict to the model's input, which keeps what the conditioner needs.

    With a cache, the input also has "latents" (`CachedLatents`). Where the cache knows the image,
    its file is not decoded, and "image" is noise that stands in for it, of the right size.
    """

    @configurable
    def __init__(
        self,
        *,
        task: Task,
        cache: LatentCache | None,
        views: Callable[[np.ndarray], list[Tensor]] | None = None,
        ignored: int = 255,
        crops: bool = False,
        **options: Any,
    ):
        """
        Args:
            ignored: value of a label map for no class.
            crops: whether an augmentation cuts images: then polygons that end as bitmasks are
                drawn before it, since to cut them takes a package of geometry.
            views: pixels as they are read -> what the input has as "views"; None for none.
            task: adds its truth to training inputs.
            cache: for images of which nothing is decided at random but the mirroring.
        """
        super().__init__(**options)
        self.augmentations = _Recorded(self.augmentations.augs, ignored)
        self.task = task
        self.cache = cache
        self.views = views
        self.crops = crops

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        has_views = bool(cfg.TEST.VIEWS.SCALES) and not is_train
        return {
            **super().from_config(cfg, is_train),
            "augmentations": build_augmentations(cfg, is_train),
            "task": get_task(cfg),
            "ignored": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "crops": is_train and (cfg.INPUT.CROP.ENABLED or cfg.INPUT.RESIZE == "jitter"),
            "views": partial(make_views, cfg=cfg) if has_views else None,
            "cache": LatentCache.from_config(cfg) if is_cacheable(cfg, is_train) else None,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """
        Raises:
            UserError: the image is unreadable, or of another size than annotated.
        """
        try:
            return self._map(dataset_dict)
        except SizeMismatchError:
            name = dataset_dict["file_name"]
            annotated = dataset_dict.get("width"), dataset_dict.get("height")
            raise other_size(name, read_size(name), annotated) from None
        except OSError as error:  # the file is gone
            raise UserError(f"{dataset_dict['file_name']}: {reason(error)}") from None
        except UnreadableImage as error:
            # A loader's worker can only relay exceptions that are made of a message alone.
            raise UserError(str(error)) from None

    def _map(self, entry: dict[str, Any]) -> dict[str, Any]:
        if self.crops and self.use_instance_mask and self.instance_mask_format == "bitmask":
            entry = _with_bitmasks(entry)
        if "present" in entry:
            # Of the whole label map, not of a crop; here, where there are several workers.
            entry = {**entry, "present": entry["present"].read()}
        known_size = {"width", "height"} <= entry.keys()
        if self.cache is not None and known_size:
            inputs = self._map_with_cache(entry)
        else:
            inputs = self._map_decoded(entry)
        if self.is_train:
            return self._add_truth(entry, inputs)
        if self.task.at_input_size:
            inputs["height"], inputs["width"] = inputs["image"].shape[1:]
        return inputs if self.views is None else self._add_views(inputs)

    def _map_decoded(self, entry: dict[str, Any]) -> dict[str, Any]:
        """As `DatasetMapper` maps images and label maps, which are decoded by one rule for all."""
        name = entry["file_name"]
        decoded = {**entry, "file_name": as_image(name)}
        if "sem_seg_file_name" in entry:
            decoded["sem_seg_file_name"] = as_label_map(entry["sem_seg_file_name"])
        return {**super().__call__(decoded), "file_name": name}

    def _add_truth(self, entry: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
        size = tuple(inputs["image"].shape[1:])
        truth = self.task.add_truth(entry, self.augmentations.transforms, size)
        return self.task.augment({**inputs, **truth})

    def _add_views(self, inputs: dict[str, Any]) -> dict[str, Any]:
        pixels = utils.read_image(as_image(inputs["file_name"]), format=self.image_format)
        size = {"height": pixels.shape[0], "width": pixels.shape[1]}
        return {**size, **inputs, "views": self.views(pixels)}

    def _map_with_cache(self, entry: dict[str, Any]) -> dict[str, Any]:
        """As `_map_decoded`, but the image may stay closed; truth is moved as on a black one."""
        name, size = entry["file_name"], (entry["width"], entry["height"])
        blank = {**entry, "file_name": as_blank(*size)}
        labels = blank.pop("sem_seg_file_name", None)
        # In testing only evaluators read it.
        if labels is not None and self.is_train:
            blank["sem_seg_file_name"] = as_label_map(labels)
        inputs = {**super().__call__(blank), "file_name": name}
        transforms = self.augmentations.transforms
        height, width = inputs["image"].shape[1:]
        mirrored = any(isinstance(step, T.HFlipTransform) for step in transforms.transforms)
        latents = self.cache.look_up(Path(name).read_bytes(), (width, height), mirrored)
        image = latents.placeholder(height, width)
        if latents.value is None:
            image = utils.read_image(as_image(name), format=self.image_format)
            utils.check_image_size(entry, image)
            image = transforms.apply_image(image)
        inputs["image"] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        inputs["latents"] = latents.of(inputs["image"])
        return inputs


def _with_bitmasks(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with run lengths in the place of polygons."""
    if not any(isinstance(own.get("segmentation"), list) for own in entry.get("annotations", ())):
        return entry
    height, width = entry["height"], entry["width"]
    annotations = []
    for own in entry["annotations"]:
        if isinstance(own.get("segmentation"), list):
            parts = run_lengths.frPyObjects(own["segmentation"], height, width)
            own = {**own, "segmentation": run_lengths.merge(parts)}
        annotations.append(own)
    return {**entry, "annotations": annotations}


def is_cacheable(cfg: CfgNode, is_train: bool) -> bool:
    """Whether nothing is decided at random about an image but the mirroring."""
    if cfg.INPUT.RESIZE != "fixed":
        return False
    if not is_train:
        several = cfg.TEST.AUG.ENABLED or cfg.TEST.VIEWS.SCALES or cfg.TEST.MIRROR
        return not (cfg.TEST.WINDOW_SIZE or several)
    mirroring = cfg.INPUT.RANDOM_FLIP in ("none", "horizontal")
    recolored = cfg.INPUT.COLOR_AUG_SSD or cfg.INPUT.COLOR_AUG_DEPTH
    cropped = cfg.INPUT.CROP.ENABLED
    return mirroring and not (cropped or recolored or get_task(cfg).changes_images)
