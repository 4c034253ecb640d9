"""The images that runs left of a data set, with what the model read of each."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from tadp_d2.data.images import read_rgb
from tadp_d2.data.root import datasets_root
from tadp_d2.data.texts import Caption, read_captions
from tadp_d2.files import sha256
from tadp_d2.reports.comparison import Comparison, Group
from tadp_d2.reports.runs import Run

# Images of a data set that a page shows, and the longer side of an image in pixels: six modifiers
# on four data sets then take about ten megabytes.
MAX_IMAGES = 8
MAX_SIDE = 640
# They are the same for every model.
_SHARED = ("image", "truth")


@dataclass(frozen=True)
class Drawn:
    """An image file, and what it shows: "image", "truth", "prediction"."""

    title: str
    file: Path


@dataclass(frozen=True)
class Prediction:
    """What a group made of an image.

    Attributes:
        pictures: that it drew.
        caption: what its caption file holds of the image; None where that file is not here.
    """

    group: Group
    pictures: list[Drawn]
    caption: Caption | None


@dataclass(frozen=True)
class Shown:
    """An image of a data set: its id, the images that no model made, and the predictions."""

    image_id: str
    shared: list[Drawn]
    predictions: list[Prediction]


def find_shown(comparison: Comparison) -> list[Shown]:
    """The images of a data set that any model drew; of each group's seeds the first is taken."""
    images: dict[str, Shown] = {}
    for group in comparison.groups:
        run = next(iter(group.runs.values()))
        captions = find_captions(run, comparison.dataset)
        for image_id, drawn in _drawn(run.folder / "gallery" / comparison.dataset).items():
            shared = [picture for picture in drawn if picture.title in _SHARED]
            own = [picture for picture in drawn if picture.title not in _SHARED]
            shown = images.setdefault(image_id, Shown(image_id, shared, []))
            shown.predictions.append(Prediction(group, own, captions.get(image_id)))
    return list(images.values())[:MAX_IMAGES]


def _drawn(gallery: Path) -> dict[str, list[Drawn]]:
    """Image id -> its images."""
    folders = sorted(gallery.iterdir()) if gallery.is_dir() else []
    return {
        unquote(folder.name): [Drawn(file.stem, file) for file in sorted(folder.glob("[!.]*.jpg"))]
        for folder in folders
        if folder.is_dir()
    }


def find_captions(run: Run, dataset: str) -> Mapping[str, Caption]:
    """What the caption file that a run read holds of its images; nothing if that is not here.

    It is looked for where it was and in `$DETECTRON2_DATASETS/captions`.
    """
    provenance = run.record["provenance"]
    file = Path(str(provenance["caption_files"].get(dataset, dataset)))
    for candidate in (file, datasets_root() / "captions" / file.name):
        if candidate.is_file() and sha256(candidate) == provenance["captions"].get(dataset):
            return read_captions(candidate).records
    return {}


def data_uri(file: Path, max_side: int = MAX_SIDE) -> str:
    """An image file as WebP within a page.

    Args:
        max_side: of the longer side, pixels; a larger image is reduced.

    Raises:
        UserError: it is damaged.
    """
    image, _ = read_rgb(file)
    image.thumbnail((max_side, max_side))
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
