"""Depth: meters for every pixel; RMSE and its companions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.transforms import TransformList
from detectron2.evaluation import DatasetEvaluator
from PIL import Image

from tadp_d2.data.readers.depth_maps import read_depth, read_depth_map
from tadp_d2.errors import UserError
from tadp_d2.evaluation.depth_metrics import DepthEvaluator
from tadp_d2.files import replacing
from tadp_d2.tasks.metrics import DEPTH
from tadp_d2.tasks.task import TASK_REGISTRY, Task
from tadp_d2.visualization.depth_colors import ERROR_COLORS, draw_depth, draw_error, with_scale

# Of a strip of CutDepth, the largest share of what is to the right of its left edge (VPD).
_WIDEST_STRIP = 0.75
_MILLIMETER = 0.001
# Of the depth at the end of the colors, the error at the end of theirs.
_LARGE_ERROR = 0.1


@TASK_REGISTRY.register()
class Depth(Task):
    """Images -> "depth", H x W in meters."""

    name = "depth"
    architectures: ClassVar[frozenset[str]] = frozenset({"DepthEstimator"})
    needs = "depth"
    metric_sets = (DEPTH,)
    titles = ("image", "truth", "prediction", "error")
    own_keys: ClassVar[frozenset[str]] = frozenset({"INPUT.CUT_DEPTH", "TEST.MIRROR"})

    @property
    def changes_images(self) -> bool:
        """By CutDepth."""
        return self.cfg.INPUT.CUT_DEPTH > 0

    @property
    def max_depth(self) -> float:
        """Meters, the largest that the model can return."""
        return self.cfg.MODEL.DEPTH_HEAD.MAX_DEPTH

    def check_config(self) -> None:
        for key, wanted, kind in (
            ("COCO_METRICS", not self.cfg.TEST.COCO_METRICS, "a detector"),
            ("SUBMISSION", not self.cfg.TEST.SUBMISSION, "a segmentor"),
        ):
            if not wanted:
                raise UserError(f"TEST.{key} is for {kind}")

    def add_truth(
        self, entry: Mapping[str, Any], transforms: TransformList, image_size: tuple[int, int]
    ) -> dict[str, Any]:
        """ "depth": H x W float32 meters, 0 where it is not known. Depths are never mixed."""
        stored = read_depth_map(entry["depth_file_name"])
        # As two bytes: of one number Detectron2 would resize by rules other than the image's.
        pairs = stored.view(np.uint8).reshape(*stored.shape, 2)
        moved = np.ascontiguousarray(transforms.apply_segmentation(pairs))
        depth = moved.view(np.uint16)[..., 0].astype(np.float32) * np.float32(entry["depth_unit"])
        return {"depth": torch.from_numpy(depth)}

    def augment(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """CutDepth (VPD): in a share of the images an upright strip shows the depth instead.

        It is shown in gray, black at 0 m and white at the largest depth of the model. The released
        code pastes millimeters into 8 bits.
        """
        if np.random.uniform() >= self.cfg.INPUT.CUT_DEPTH:
            return inputs
        width = inputs["image"].shape[-1]
        left, share = int(np.random.uniform() * width), np.random.uniform() * _WIDEST_STRIP
        strip = slice(left, left + max(1, int((width - left) * share)))
        gray = (inputs["depth"][:, strip] / self.max_depth).clamp(max=1) * 255
        image = inputs["image"].clone()
        image[:, :, strip] = gray.round().to(image.dtype)
        return {**inputs, "image": image}

    def evaluators(self, dataset: str) -> list[DatasetEvaluator]:
        return [DepthEvaluator(dataset)]

    def draw_truth(
        self, dataset: str, pixels: np.ndarray, entry: Mapping[str, Any]
    ) -> Image.Image | None:
        depth = read_depth(entry["depth_file_name"], entry["depth_unit"])
        return with_scale(draw_depth(depth, self._scale(dataset)), self._scale(dataset))

    def draw_prediction(
        self, dataset: str, pixels: np.ndarray, output: Mapping[str, Any]
    ) -> Image.Image:
        return with_scale(draw_depth(_to_array(output), self._scale(dataset)), self._scale(dataset))

    def draw_error(
        self, dataset: str, entry: Mapping[str, Any], output: Mapping[str, Any]
    ) -> Image.Image | None:
        """Absolute, from 0 to a tenth of the depth at the end of the colors."""
        truth = read_depth(entry["depth_file_name"], entry["depth_unit"])
        largest = _LARGE_ERROR * self._scale(dataset)
        return with_scale(draw_error(_to_array(output), truth, largest), largest, ERROR_COLORS)

    def _scale(self, dataset: str) -> float:
        """The depth at the end of the colors, the same for truth and prediction."""
        return min(self.max_depth, MetadataCatalog.get(dataset).depth_range[1])

    def draw_large(self, pixels: np.ndarray, output: Mapping[str, Any]) -> Image.Image:
        """The colors reach from 0 to the largest depth of the image."""
        depth = _to_array(output)
        return with_scale(draw_depth(depth, float(depth.max())), float(depth.max()))

    def write(self, output: Mapping[str, Any], file: Path) -> dict[str, Any]:
        """`<name>.png` holds the depth in millimeters, 16 bits; beyond 65 m in 1/256 m."""
        depth, png = _to_array(output), file.with_suffix(".png")
        unit = _MILLIMETER if self.max_depth / _MILLIMETER < 2**16 else 1 / 256
        with replacing(png) as temporary:
            values = (depth / unit).round().astype(np.uint16)
            Image.fromarray(values).save(temporary, format="PNG")
        return {
            "depth_map": png.name,
            "meters_per_value": unit,
            "nearest": float(depth.min()),
            "median": float(np.median(depth)),
            "farthest": float(depth.max()),
        }

    def summary(self, output: Mapping[str, Any]) -> dict[str, str]:
        depth = _to_array(output)
        found = {"nearest": depth.min(), "median": np.median(depth), "farthest": depth.max()}
        return {name: f"{meters:.2f} m" for name, meters in found.items()}


def _to_array(output: Mapping[str, Any]) -> np.ndarray:
    return output["depth"].float().cpu().numpy()
