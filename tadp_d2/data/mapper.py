"""Detectron2's dataset mapper with the paper's augmentations and errors that name the picture."""

import copy
from collections.abc import Callable
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
from torch import Tensor

from tadp_d2.data.augmentation import build_augmentations
from tadp_d2.data.images import check_decodes
from tadp_d2.data.readers.label_maps import read_label_map
from tadp_d2.data.views import make_views
from tadp_d2.diffusion.latent_cache import LatentCache
from tadp_d2.errors import UserError
from tadp_d2.tasks.task import Task, get_task


class ConditionedMapper(DatasetMapper):
    """Maps a data set's dict to the model's input, which keeps what the conditioner needs.

    With a cache, the input also has "latents" (`CachedLatents`). Where the cache knows the picture,
    its file is not decoded, and "image" is noise that stands in for it, of the right size.
    """

    @configurable
    def __init__(
        self,
        *,
        task: Task,
        cache: LatentCache | None,
        views: Callable[[np.ndarray], list[Tensor]] | None = None,
        **options: Any,
    ):
        """
        Args:
            views: pixels as they are read -> what the input has as "views"; None for none.
            task: adds its truth to training inputs.
            cache: for images of which nothing is decided at random but the mirroring.
        """
        super().__init__(**options)
        self.task = task
        self.cache = cache
        self.views = views

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        has_views = bool(cfg.TEST.VIEWS.SCALES) and not is_train
        return {
            **super().from_config(cfg, is_train),
            "augmentations": build_augmentations(cfg, is_train),
            "task": get_task(cfg),
            "views": partial(make_views, cfg=cfg) if has_views else None,
            "cache": LatentCache.from_config(cfg) if is_cacheable(cfg, is_train) else None,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """
        Raises:
            UserError: the picture is unreadable, or of another size than annotated.
        """
        try:
            return self._map(dataset_dict)
        except SizeMismatchError as error:
            raise UserError(
                f"{dataset_dict['file_name']}: the picture has another size than its annotation "
                f"says ({error})"
            ) from None
        except Exception:
            # Pillow raises many kinds for damaged files: whether one is to blame shows again.
            for key in ("file_name", "sem_seg_file_name"):
                if key in dataset_dict:
                    check_decodes(dataset_dict[key])
            raise

    def _map(self, entry: dict[str, Any]) -> dict[str, Any]:
        if "present" in entry:
            # Of the whole label map, not of a crop; here, where there are several workers.
            entry = {**entry, "present": entry["present"].read()}
        known_size = {"width", "height"} <= entry.keys()
        labels_to_read = self.is_train and "sem_seg_file_name" in entry
        if self.cache is None or not known_size or labels_to_read:
            inputs = self._map_with_labels(entry)
            return inputs if self.views is None else self._add_views(inputs)
        return self._map_with_cache(copy.deepcopy(entry))

    def _add_views(self, inputs: dict[str, Any]) -> dict[str, Any]:
        pixels = utils.read_image(inputs["file_name"], format=self.image_format)
        size = {"height": pixels.shape[0], "width": pixels.shape[1]}
        return {**size, **inputs, "views": self.views(pixels)}

    def _map_with_labels(self, entry: dict[str, Any]) -> dict[str, Any]:
        """As `DatasetMapper`, but label maps are taken as they are stored.

        Detectron2 reads them as grey images: of a palette's colors it takes the brightness.
        """
        mapper, rest = copy.copy(self), dict(entry)
        file = rest.pop("sem_seg_file_name", None)
        if file:
            mapper.augmentations = T.AugmentationList([_LabelMap(file), self.augmentations])
        return super(ConditionedMapper, mapper).__call__(rest)

    def _map_with_cache(self, entry: dict[str, Any]) -> dict[str, Any]:
        """As `DatasetMapper` maps boxes, but the picture may stay closed."""
        black = T.AugInput(np.broadcast_to(np.uint8(0), (entry["height"], entry["width"], 3)))
        transforms = self.augmentations(black)
        height, width = black.image.shape[:2]
        mirrored = any(isinstance(step, T.HFlipTransform) for step in transforms.transforms)
        picture = Path(entry["file_name"]).read_bytes()
        latents = self.cache.look_up(picture, (width, height), mirrored)
        image = latents.placeholder(height, width)
        if latents.value is None:
            image = utils.read_image(entry["file_name"], format=self.image_format)
            utils.check_image_size(entry, image)
            image = transforms.apply_image(image)
        entry["image"] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        entry["latents"] = latents.of(entry["image"])
        entry.pop("sem_seg_file_name", None)
        boxes = entry.pop("annotations", None)
        if self.is_train and boxes is not None:
            moved = [
                utils.transform_instance_annotations(box, transforms, (height, width))
                for box in boxes
                if not box.get("iscrowd", 0)
            ]
            instances = utils.annotations_to_instances(moved, (height, width))
            entry["instances"] = utils.filter_empty_instances(instances)
        return entry


class _LabelMap(T.Augmentation):
    """Changes nothing, and adds the label map of a file to what is transformed."""

    def __init__(self, file: str):
        self.file = file

    def __call__(self, aug_input: T.AugInput) -> T.Transform:
        aug_input.sem_seg = read_label_map(self.file)
        return T.NoOpTransform()


def is_cacheable(cfg: CfgNode, is_train: bool) -> bool:
    """Whether nothing is decided at random about a picture but the mirroring."""
    if cfg.INPUT.RESIZE != "fixed":
        return False
    if not is_train:
        return not (cfg.TEST.WINDOW_SIZE or cfg.TEST.AUG.ENABLED or cfg.TEST.VIEWS.SCALES)
    mirroring = cfg.INPUT.RANDOM_FLIP in ("none", "horizontal")
    return mirroring and not (cfg.INPUT.CROP.ENABLED or cfg.INPUT.COLOR_AUG_SSD)
