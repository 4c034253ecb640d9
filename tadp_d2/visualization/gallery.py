"""A sheet of pictures with the detections of an evaluation drawn on them."""

from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data.detection_utils import read_image
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer
from PIL import Image

from tadp_d2.data.build import model_classes
from tadp_d2.files import replacing

COLUMNS = 4
CELL = (360, 270)
MARGIN = 6
MIN_SCORE = 0.5


class DetectionGallery(DatasetEvaluator):
    """Draws the detections above a score of 0.5 on a data set's first `TEST.GALLERY_IMAGES` images.

    It measures nothing; it sits among the evaluators because they see every output. The sheet is
    `<OUTPUT_DIR>/gallery/<dataset>.png`.
    """

    def __init__(self, cfg: CfgNode, dataset: str):
        self._path = Path(cfg.OUTPUT_DIR, "gallery", f"{dataset}.png")
        self._count = cfg.TEST.GALLERY_IMAGES
        self._classes = model_classes(cfg)
        self.reset()

    def reset(self) -> None:
        self._pictures: list[Image.Image] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for image, output in zip(inputs, outputs, strict=True):
            if comm.is_main_process() and len(self._pictures) < self._count:
                instances = output["instances"].to("cpu")
                pixels = read_image(image["file_name"], format="RGB")
                self._pictures.append(draw_detections(pixels, instances, self._classes))

    def evaluate(self) -> None:
        if self._pictures:
            with replacing(self._path) as temporary:
                contact_sheet(self._pictures).save(temporary, format="PNG")


def draw_detections(
    pixels: np.ndarray, instances: Instances, class_names: list[str], min_score: float = MIN_SCORE
) -> Image.Image:
    """Boxes with class and score on a picture, which is drawn at twice its size.

    Args:
        pixels: H x W x 3, uint8 RGB.
        instances: with `pred_boxes` in pixels of that picture, `pred_classes` and `scores`.
        min_score: detections below it are not drawn.
    """
    shown = instances[instances.scores >= min_score]
    classes = shown.pred_classes.tolist()
    colors = colormap(rgb=True, maximum=1)
    labels = [
        f"{class_names[index]} {100 * score:.0f}%"
        for index, score in zip(classes, shown.scores.tolist(), strict=True)
    ]
    # Twice the size, because Detectron2's labels do not shrink with a small picture.
    drawn = Visualizer(pixels, scale=2).overlay_instances(
        boxes=shown.pred_boxes.tensor.numpy(),
        labels=labels,
        assigned_colors=[colors[index % len(colors)] for index in classes],
    )
    return Image.fromarray(drawn.get_image())


def contact_sheet(pictures: list[Image.Image]) -> Image.Image:
    """Pictures in rows of four on white, each fitted into 360 x 270 pixels."""
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    width, height = CELL[0] + MARGIN, CELL[1] + MARGIN
    sheet = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), "white")
    for index, picture in enumerate(pictures):
        scale = min(CELL[0] / picture.width, CELL[1] / picture.height)
        cell = picture.resize((round(picture.width * scale), round(picture.height * scale)))
        left = MARGIN + index % columns * width + (CELL[0] - cell.width) // 2
        top = MARGIN + index // columns * height + (CELL[1] - cell.height) // 2
        sheet.paste(cell, (left, top))
    return sheet
