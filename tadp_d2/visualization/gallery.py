"""A sheet of pictures with the predictions of an evaluation drawn on them."""

from abc import abstractmethod
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer
from PIL import Image

from tadp_d2.data.build import model_classes
from tadp_d2.files import replacing
from tadp_d2.visualization.sheet import contact_sheet

MIN_SCORE = 0.5


class Gallery(DatasetEvaluator):
    """Draws a data set's first `TEST.GALLERY_IMAGES` images onto one sheet.

    It measures nothing; it sits among the evaluators because they see every output. The sheet is
    `<OUTPUT_DIR>/gallery/<dataset>.png`.
    """

    columns: int
    titles: tuple[str, ...] = ()
    legend: tuple[tuple[str, tuple[int, int, int]], ...] = ()

    def __init__(self, cfg: CfgNode, dataset: str):
        self._path = Path(cfg.OUTPUT_DIR, "gallery", f"{dataset}.png")
        self._count = cfg.TEST.GALLERY_IMAGES
        self.reset()

    @abstractmethod
    def draw(self, pixels: np.ndarray, inputs: dict, output: dict) -> list[Image.Image]:
        """The pictures of one image, of H x W x 3 RGB pixels."""

    def reset(self) -> None:
        self._drawn: list[list[Image.Image]] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for image, output in zip(inputs, outputs, strict=True):
            if comm.is_main_process() and len(self._drawn) < self._count:
                pixels = read_image(image["file_name"], format="RGB")
                self._drawn.append(self.draw(pixels, image, output))

    def evaluate(self) -> None:
        if self._drawn:
            pictures = [picture for drawn in self._drawn for picture in drawn]
            sheet = contact_sheet(pictures, self.columns, self.titles, self.legend)
            with replacing(self._path) as temporary:
                sheet.save(temporary, format="PNG")


class DetectionGallery(Gallery):
    """The detections above a score of 0.5, four images in a row."""

    columns = 4

    def __init__(self, cfg: CfgNode, dataset: str):
        super().__init__(cfg, dataset)
        self._classes = model_classes(cfg)

    def draw(self, pixels: np.ndarray, inputs: dict, output: dict) -> list[Image.Image]:
        return [draw_detections(pixels, output["instances"].to("cpu"), self._classes)]


class SegmentationGallery(Gallery):
    """Image, truth and prediction side by side; the truth is left out where there is none."""

    def __init__(self, cfg: CfgNode, dataset: str):
        super().__init__(cfg, dataset)
        meta = MetadataCatalog.get(dataset)
        self._colors = np.array(meta.stuff_colors, np.uint8)
        self._truth = {
            entry["file_name"]: entry["sem_seg_file_name"]
            for entry in DatasetCatalog.get(dataset)
            if "sem_seg_file_name" in entry
        }
        self.titles = ("image", "truth", "prediction") if self._truth else ("image", "prediction")
        self.columns = len(self.titles)
        self.legend = tuple(zip(meta.stuff_classes, meta.stuff_colors, strict=True))

    def draw(self, pixels: np.ndarray, inputs: dict, output: dict) -> list[Image.Image]:
        maps = [output["sem_seg"].argmax(dim=0).cpu().numpy()]
        if self._truth:
            maps.insert(0, np.asarray(Image.open(self._truth[inputs["file_name"]])))
        drawn = [draw_segments(pixels, classes, self._colors) for classes in maps]
        return [Image.fromarray(pixels), *drawn]


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


def draw_segments(
    pixels: np.ndarray, classes: np.ndarray, colors: np.ndarray, opacity: float = 0.75
) -> Image.Image:
    """The classes' colours over a picture; pixels of no class are black.

    Args:
        pixels: H x W x 3, uint8 RGB.
        classes: H x W, indices of `colors`; any other value is no class.
        colors: K x 3, uint8 RGB.
        opacity: of the colours, 0 to 1.
    """
    known = classes < len(colors)
    painted = colors[np.where(known, classes, 0)] * opacity + pixels * (1 - opacity)
    return Image.fromarray((painted * known[..., None]).round().astype(np.uint8))
