"""Boxes drawn on an image: what a detector found, and the truth."""

from collections.abc import Sequence

import numpy as np
from detectron2.structures import BoxMode, Instances
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer
from PIL import Image

MIN_SCORE = 0.5


def draw_detections(
    pixels: np.ndarray, instances: Instances, class_names: list[str], min_score: float = MIN_SCORE
) -> Image.Image:
    """Boxes with class and score on an image, which is drawn at twice its size.

    Args:
        pixels: H x W x 3, uint8 RGB.
        instances: with `pred_boxes` in pixels of that image, `pred_classes` and `scores`.
        min_score: detections below it are not drawn.
    """
    shown = instances[instances.scores >= min_score]
    classes = shown.pred_classes.tolist()
    labels = [
        f"{class_names[index]} {100 * score:.0f}%"
        for index, score in zip(classes, shown.scores.tolist(), strict=True)
    ]
    return _draw_boxes(pixels, shown.pred_boxes.tensor.numpy(), classes, labels)


def draw_objects(
    pixels: np.ndarray, objects: Sequence[dict], class_names: list[str]
) -> Image.Image:
    """The boxes of a data set's truth, in the manner of `draw_detections`.

    Args:
        objects: Detectron2's annotations, with "bbox", "bbox_mode" and "category_id".
    """
    boxes = [BoxMode.convert(o["bbox"], o["bbox_mode"], BoxMode.XYXY_ABS) for o in objects]
    classes = [o["category_id"] for o in objects]
    labels = [class_names[index] for index in classes]
    return _draw_boxes(pixels, np.array(boxes, float).reshape(-1, 4), classes, labels)


def _draw_boxes(
    pixels: np.ndarray, boxes: np.ndarray, classes: list[int], labels: list[str]
) -> Image.Image:
    colors = colormap(rgb=True, maximum=1)
    # Twice the size, because Detectron2's labels do not shrink with a small image.
    drawn = Visualizer(pixels, scale=2).overlay_instances(
        boxes=boxes,
        labels=labels,
        assigned_colors=[colors[index % len(colors)] for index in classes],
    )
    return Image.fromarray(drawn.get_image())
