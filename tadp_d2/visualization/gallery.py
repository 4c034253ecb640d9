"""Pictures with the predictions of an evaluation drawn on them, single and on a sheet."""

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer
from PIL import Image

from tadp_d2.data.catalog import model_classes
from tadp_d2.files import replacing
from tadp_d2.visualization.sheet import contact_sheet

MIN_SCORE = 0.5


class Gallery(DatasetEvaluator):
    """Draws a data set's first `TEST.GALLERY_IMAGES` images.

    It measures nothing; it sits among the evaluators because they see every output. In
    `<OUTPUT_DIR>/gallery` it leaves the sheet `<dataset>.png` and the single pictures
    `<dataset>/<image id>/{image,truth,prediction}.jpg`, the id quoted as in a URL; the truth where
    there is one.
    """

    columns: int
    # Of the pictures on the sheet.
    titles: tuple[str, ...]
    legend: tuple[tuple[str, tuple[int, int, int]], ...] = ()

    def __init__(self, cfg: CfgNode, dataset: str):
        self._folder = Path(cfg.OUTPUT_DIR, "gallery", dataset)
        self._count = cfg.TEST.GALLERY_IMAGES
        self.reset()

    @abstractmethod
    def draw(self, pixels: np.ndarray, inputs: dict, output: dict) -> dict[str, Image.Image]:
        """The pictures of one image, of H x W x 3 RGB pixels, by title."""

    def reset(self) -> None:
        self._drawn: dict[str, dict[str, Image.Image]] = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for image, output in zip(inputs, outputs, strict=True):
            if len(self._drawn) < self._count:
                pixels = read_image(image["file_name"], format="RGB")
                drawn = self.draw(pixels, image, output)
                self._drawn[str(image["image_id"])] = {"image": Image.fromarray(pixels), **drawn}

    def evaluate(self) -> None:
        first = self._first_of_all()
        if not first:
            return
        shown = [pictures[title] for pictures in first.values() for title in self.titles]
        titles = self.titles if len(self.titles) > 1 else ()
        sheet = contact_sheet(shown, self.columns, titles, self.legend)
        with replacing(self._folder.with_name(f"{self._folder.name}.png")) as temporary:
            sheet.save(temporary, format="PNG")
        for image_id, pictures in first.items():
            for title, picture in pictures.items():
                # An id may hold slashes.
                folder = self._folder / quote(image_id, safe="")
                with replacing(folder / f"{title}.jpg") as temporary:
                    picture.save(temporary, format="JPEG", quality=90)

    def _first_of_all(self) -> dict[str, dict[str, Image.Image]]:
        """The data set's first images, on the main process; each process saw a run of them."""
        before = sum(comm.all_gather(len(self._drawn))[: comm.get_rank()])
        own = dict(itertools.islice(self._drawn.items(), max(0, self._count - before)))
        return {key: value for part in comm.gather(own) for key, value in part.items()}


class DetectionGallery(Gallery):
    """The detections above a score of 0.5, four images in a row of the sheet."""

    columns = 4
    titles = ("prediction",)

    def __init__(self, cfg: CfgNode, dataset: str):
        super().__init__(cfg, dataset)
        self._classes = model_classes(cfg)
        self._truth_classes = list(MetadataCatalog.get(dataset).thing_classes)
        self._truth = {
            entry["file_name"]: entry.get("annotations", ())
            for entry in DatasetCatalog.get(dataset)
        }

    def draw(self, pixels: np.ndarray, inputs: dict, output: dict) -> dict[str, Image.Image]:
        objects = self._truth[inputs["file_name"]]
        return {
            "truth": draw_objects(pixels, objects, self._truth_classes),
            "prediction": draw_detections(pixels, output["instances"].to("cpu"), self._classes),
        }


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

    def draw(self, pixels: np.ndarray, inputs: dict, output: dict) -> dict[str, Image.Image]:
        maps = {"prediction": output["sem_seg"].argmax(dim=0).cpu().numpy()}
        if self._truth:
            maps["truth"] = np.asarray(Image.open(self._truth[inputs["file_name"]]))
        return {title: draw_segments(pixels, m, self._colors) for title, m in maps.items()}


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
    # Twice the size, because Detectron2's labels do not shrink with a small picture.
    drawn = Visualizer(pixels, scale=2).overlay_instances(
        boxes=boxes,
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


def draw_named_segments(pixels: np.ndarray, classes: np.ndarray, metadata: Metadata) -> Image.Image:
    """Segments with the names of their classes on a picture, which is drawn at twice its size.

    Args:
        pixels: H x W x 3, uint8 RGB.
        classes: H x W, class indices.
        metadata: with `stuff_classes` and `stuff_colors`.
    """
    if pixels.shape[1] == 2:  # Detectron2 takes masks of that width for something else
        pixels, classes = pixels.repeat(2, axis=1), classes.repeat(2, axis=1)
    drawn = Visualizer(pixels, metadata, scale=2).draw_sem_seg(classes, alpha=0.6)
    return Image.fromarray(drawn.get_image())
