"""What a caption command is about: a registered data set, or a folder of images.

Making captions is not done here, and no image is opened.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tadp_d2.data.images import find_image_files
from tadp_d2.data.own_data_sets import read_own_sets
from tadp_d2.data.present_classes import PresentClasses
from tadp_d2.data.root import data_set_guide, datasets_root
from tadp_d2.errors import UserError


@dataclass(frozen=True)
class CaptionImage:
    """An image that may get a caption.

    Attributes:
        image_id: as in Detectron2's dicts; in a folder, the path below it.
        path: its file.
        annotation: the classes that it shows; of no vocabulary in a folder.
    """

    image_id: str
    path: Path
    annotation: PresentClasses = PresentClasses()

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The names of all classes of its data set, in class order; empty for a folder."""
        return self.annotation.vocabulary

    def classes(self) -> list[str]:
        """The names of the classes that its annotation holds, in class order.

        A label map is read now.

        Raises:
            UserError: it has no annotation, or a label map is damaged.
        """
        if self.annotation.categories is None and self.annotation.label_map is None:
            raise UserError(f"{self.path}: has no annotation, so its classes are not known")
        return self.annotation.names()


def caption_path(dataset: str, folder: Path | None = None) -> Path:
    """The caption file of a data set, in our format; it need not exist.

    Args:
        dataset: a registered name, a folder of images (`pictures/` has `pictures.jsonl`), or the
            caption file itself.
        folder: of caption files; None for that of a user's own data set, for
            `$DETECTRON2_DATASETS/captions`, or for the folder in which a folder of images lies.
    """
    path = Path(dataset)
    if path.suffix == ".jsonl":
        return path
    if path.is_dir():
        # Of "." and ".." the parent is not known before they are resolved.
        beside = Path(os.path.abspath(path)).parent if path.name in ("", "..") else path.parent
        return (folder or beside) / f"{path.resolve().name}.jsonl"
    own = read_own_sets().get(dataset)
    if own and own.captions and not folder:
        return own.captions
    return (folder or datasets_root() / "captions") / f"{dataset}.jsonl"


def dataset_name(dataset: str) -> str:
    """The name that a caption file gives to a data set: a folder goes by its last part."""
    return Path(dataset).resolve().name if Path(dataset).is_dir() else dataset


def find_images(dataset: str) -> list[CaptionImage]:
    """The images of a registered data set, in its order, or those in a folder, sorted.

    Args:
        dataset: a registered name, or a folder, in which images are looked for at any depth.

    Raises:
        UserError: it is neither, it is absent or malformed, or it holds no image.
    """
    if Path(dataset).is_dir():
        return [CaptionImage(name, path) for path, name in find_image_files([dataset]).items()]
    return _registered(dataset)


def _registered(dataset: str) -> list[CaptionImage]:
    # Here, because Detectron2 takes seconds to import, and a folder does not need it.
    from detectron2.data import DatasetCatalog, MetadataCatalog

    import tadp_d2.config.registration  # noqa: F401 (registers the data sets)
    from tadp_d2.data.catalog import known_datasets, read_entries

    if dataset not in (*known_datasets(), *DatasetCatalog.list()):
        raise UserError(
            f"{dataset!r} is neither a folder of images nor a registered data set, such as "
            f"voc_2007_test, watercolor_test or dark_zurich_val ({data_set_guide()} lists them)"
        )
    entries = read_entries(dataset)
    if not entries:
        raise UserError(f"data set {dataset!r} holds no image")
    meta = MetadataCatalog.get(dataset)
    vocabulary = tuple(meta.get("thing_classes") or meta.get("stuff_classes") or ())
    ignore_label = meta.get("ignore_label", 255)
    # An image may have several expressions, and an entry for each.
    first: dict[str, dict[str, Any]] = {}
    for entry in entries:
        first.setdefault(entry["file_name"], entry)
    return [_from_dict(dataset, entry, vocabulary, ignore_label) for entry in first.values()]


def _from_dict(
    dataset: str, entry: Mapping[str, Any], vocabulary: tuple[str, ...], ignore_label: int
) -> CaptionImage:
    if "image_id" not in entry:
        raise UserError(f"data set {dataset!r}: its images have no ids, by which captions are kept")
    annotation = PresentClasses.of_entry(entry, vocabulary, ignore_label)
    return CaptionImage(str(entry["image_id"]), Path(entry["file_name"]), annotation)
