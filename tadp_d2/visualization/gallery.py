"""Images with the predictions of an evaluation drawn on them, single and on a sheet."""

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from PIL import Image

from tadp_d2.data.catalog import entry_id, read_known
from tadp_d2.data.images import read_rgb
from tadp_d2.errors import UserError
from tadp_d2.files import replacing
from tadp_d2.tasks.task import Task
from tadp_d2.visualization.sheet import contact_sheet

_logger = logging.getLogger(__name__)


class Gallery(DatasetEvaluator):
    """Draws a data set's first `TEST.GALLERY_IMAGES` entries, in the manner of a task.

    It measures nothing; it sits among the evaluators because they see every output. In
    `<OUTPUT_DIR>/gallery` it leaves the sheet `<dataset>.png` and the single images
    `<dataset>/<entry id>/{image,truth,prediction,error}.jpg`, the id quoted as in a URL; the truth
    where there is one, the error where the task draws it.
    """

    def __init__(self, task: Task, dataset: str):
        self._task, self._dataset = task, dataset
        self._folder = Path(task.cfg.OUTPUT_DIR, "gallery", dataset)
        self._count = task.cfg.TEST.GALLERY_IMAGES
        self._entries = {entry_id(entry): entry for entry in read_known(dataset)}
        self.reset()

    def reset(self) -> None:
        self._drawn: dict[str, dict[str, Image.Image]] = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for image, output in zip(inputs, outputs, strict=True):
            if len(self._drawn) < self._count:
                self._drawn[entry_id(image)] = self._draw(image, output)

    def _draw(self, inputs: Mapping[str, Any], output: Mapping[str, Any]) -> dict:
        image, _ = read_rgb(Path(inputs["file_name"]))
        pixels = np.asarray(image)
        drawn = {"image": image}
        entry = self._entries[entry_id(inputs)]
        truth = self._task.draw_truth(self._dataset, pixels, entry)
        if truth is not None:
            drawn["truth"] = truth
        drawn["prediction"] = self._task.draw_prediction(self._dataset, pixels, output)
        error = self._task.draw_error(self._dataset, entry, output)
        if error is not None:
            drawn["error"] = error
        return drawn

    def evaluate(self) -> None:
        first = self._first_of_all()
        if not first:
            return
        # An image without a truth, of a set labeled in part, leaves its place white.
        drawn = {title for images in first.values() for title in images}
        titles = [title for title in self._task.titles if title in drawn]
        shown = [
            images.get(title) or Image.new("RGB", images["image"].size, "white")
            for images in first.values()
            for title in titles
        ]
        sheet = contact_sheet(
            shown,
            len(titles) if len(titles) > 1 else self._task.columns,
            tuple(titles) if len(titles) > 1 else (),
            self._task.legend(self._dataset),
        )
        # What was measured counts more than what is drawn.
        try:
            self._write(sheet, first)
        except UserError as error:
            _logger.warning(f"The gallery of {self._dataset} is not complete: {error}")

    def _write(self, sheet: Image.Image, drawn: Mapping[str, Mapping[str, Image.Image]]) -> None:
        with replacing(self._folder.with_name(f"{self._folder.name}.png")) as temporary:
            sheet.save(temporary, format="PNG")
        for image_id, images in drawn.items():
            for title, image in images.items():
                # An id may hold slashes.
                folder = self._folder / quote(image_id, safe="")
                with replacing(folder / f"{title}.jpg") as temporary:
                    image.save(temporary, format="JPEG", quality=90)

    def _first_of_all(self) -> dict[str, dict[str, Image.Image]]:
        """The data set's first images, on the main process; each process saw a run of them."""
        before = sum(comm.all_gather(len(self._drawn))[: comm.get_rank()])
        own = dict(itertools.islice(self._drawn.items(), max(0, self._count - before)))
        return {key: value for part in comm.gather(own) for key, value in part.items()}
