"""Data sets of one's own: `datasets.yaml` in `$DETECTRON2_DATASETS` names them by their layout.

    kites_train: {layout: voc, root: kites, split: train, classes: [kite, person]}
    birds_train: {layout: coco, images: birds/images, annotations: birds/train.json}
    fields_val:
      layout: semantic
      images: fields/images/val
      labels: fields/labels/val
      classes: [soil, crop, weed]
      captions: fields/captions.jsonl

    barn_test: {layout: depth, images: barn/rgb, depths: barn/depth, unit: 0.001, range: [0.1, 20]}

Paths are relative to that folder. All that reads data sets knows them then, under their names.
`datasets/README.md` describes every key.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tadp_d2.data.root import datasets_root
from tadp_d2.errors import UserError, reason

FILE = "datasets.yaml"


@dataclass(frozen=True)
class OwnSet:
    """One entry of the file.

    Attributes:
        name: under which it is registered.
        layout: "voc", "coco", "semantic", "panoptic" or "references".
        values: its other keys; paths are absolute or relative to the current folder.
        where: the file and the name, for messages.
    """

    name: str
    layout: str
    values: Mapping[str, Any]
    where: str

    @property
    def captions(self) -> Path | None:
        """Its caption file, if it names one."""
        return self.values.get("captions")


class _Text:
    expected = "a text"

    @staticmethod
    def read(value: Any, folder: Path) -> str:
        if not isinstance(value, str) or not value:
            raise ValueError
        return value


class _Place:
    expected = "a path"

    @staticmethod
    def read(value: Any, folder: Path) -> Path:
        return folder / Path(_Text.read(value, folder)).expanduser()


class _Names:
    expected = "a list of different names"

    @staticmethod
    def read(value: Any, folder: Path) -> list[str]:
        names = value if isinstance(value, list) else []
        texts = all(isinstance(name, str) and name for name in names)
        if not names or not texts or len(set(names)) < len(names):
            raise ValueError
        return names


class _Label:
    expected = "a whole number of 0 to 255"

    @staticmethod
    def read(value: Any, folder: Path) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 255:
            raise ValueError
        return value


class _Length:
    expected = "a number above 0, in meters"

    @staticmethod
    def read(value: Any, folder: Path) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e6:
            raise ValueError
        return float(value)


class _Range:
    expected = "two numbers, the nearest and the farthest depth that count, in meters"

    @staticmethod
    def read(value: Any, folder: Path) -> tuple[float, float]:
        near, far = value
        # Both limits are left out, so 0 takes every depth.
        near, far = 0.0 if near == 0 else _Length.read(near, folder), _Length.read(far, folder)
        if not near < far:
            raise ValueError
        return near, far


class _Flag:
    expected = "true or false"

    @staticmethod
    def read(value: Any, folder: Path) -> bool:
        if not isinstance(value, bool):
            raise ValueError
        return value


class _Colors:
    expected = "a list of colors, each three whole numbers of 0 to 255"

    @staticmethod
    def read(value: Any, folder: Path) -> list[tuple[int, int, int]]:
        if not isinstance(value, list):
            raise ValueError
        colors = [tuple(_Label.read(part, folder) for part in color) for color in value]
        if any(len(color) != 3 for color in colors):
            raise ValueError
        return colors


# Layout -> key -> how its value is read, and whether it must be there.
_KEYS: dict[str, dict[str, tuple[Any, bool]]] = {
    "voc": {
        "root": (_Place, True),
        "split": (_Text, True),
        "classes": (_Names, True),
        "scored": (_Names, False),
        "captions": (_Place, False),
    },
    "coco": {
        "images": (_Place, True),
        "annotations": (_Place, True),
        "captions": (_Place, False),
    },
    "semantic": {
        "images": (_Place, True),
        "labels": (_Place, False),
        "classes": (_Names, True),
        "colors": (_Colors, False),
        "ignore_label": (_Label, False),
        "image_suffix": (_Text, False),
        "label_suffix": (_Text, False),
        "captions": (_Place, False),
    },
    "depth": {
        "images": (_Place, True),
        "depths": (_Place, True),
        "unit": (_Length, True),
        "range": (_Range, True),
        "crop": (_Text, False),
        "image_suffix": (_Text, False),
        "depth_suffix": (_Text, False),
        "room_folders": (_Flag, False),
        "captions": (_Place, False),
    },
    "panoptic": {
        "images": (_Place, True),
        "segments": (_Place, True),
        "annotations": (_Place, True),
        "captions": (_Place, False),
    },
    "references": {
        "images": (_Place, True),
        "references": (_Place, True),
        "captions": (_Place, False),
    },
}


def read_own_sets() -> dict[str, OwnSet]:
    """Name -> data set, of the file; none without a file.

    Raises:
        UserError: names the file, the data set and the key that is wrong.
    """
    return _read(datasets_root() / FILE)


# Once per process and place: a data set is looked for often.
@functools.cache
def _read(file: Path) -> dict[str, OwnSet]:
    if not file.is_file():
        return {}
    try:
        content = yaml.safe_load(file.read_text("utf-8-sig"))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{file}{line}: not a YAML file ({error.problem})") from None
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{file}: not a YAML file ({reason(error)})") from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"{file}: expected names of data sets, each with its layout")
    return {name: _own_set(file, name, values) for name, values in content.items()}


def _own_set(file: Path, name: str, values: Any) -> OwnSet:
    where = f"{file}: {name}"
    if not isinstance(values, dict) or values.get("layout") not in _KEYS:
        found = values.get("layout") if isinstance(values, dict) else values
        raise UserError(f"{where}: layout is {found!r}; expected one of {', '.join(_KEYS)}")
    if "/" in name or not name.isprintable() or name != name.strip():
        raise UserError(f"{where}: expected a name without slashes and spaces around it")
    keys = _KEYS[values["layout"]]
    unknown = sorted(map(str, values.keys() - keys.keys() - {"layout"}))
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]!r}; expected {', '.join(keys)}")
    read = {}
    for key, (kind, required) in keys.items():
        if key in values:
            try:
                read[key] = kind.read(values[key], file.parent)
            except (ValueError, TypeError):
                message = f"{where}: {key} is {values[key]!r}; expected {kind.expected}"
                raise UserError(message) from None
        elif required:
            raise UserError(f"{where}: lacks {key!r}, {kind.expected}")
    return OwnSet(name, values["layout"], read, where)


def register_own_sets() -> None:
    """Registers the data sets of the file in Detectron2's catalogs, those that are not yet.

    Raises:
        UserError: as `read_own_sets`, or a name is another data set's already.
    """
    for own in read_own_sets().values():
        _register(own)


def _register(own: OwnSet) -> None:
    # Here, because Detectron2 takes seconds to import.
    from detectron2.data import DatasetCatalog, MetadataCatalog

    if own.name in DatasetCatalog.list():
        if MetadataCatalog.get(own.name).get("own_set") != own:
            raise UserError(f"{own.where}: this name is another data set's already; rename it")
        return
    load, metadata = _LAYOUTS[own.layout](own)
    DatasetCatalog.register(own.name, load)
    MetadataCatalog.get(own.name).set(own_set=own, **metadata)


Registered = tuple[Callable[[], list[dict]], dict[str, Any]]


def _voc(own: OwnSet) -> Registered:
    from tadp_d2.data.readers.pascal_voc import load_voc

    root, split, classes = (own.values[key] for key in ("root", "split", "classes"))
    scored = own.values.get("scored", classes)
    if not set(scored) <= set(classes):
        raise UserError(f"{own.where}: scored has names that are not among the classes")
    return lambda: load_voc(root, split, own.name, classes), {
        "thing_classes": classes,
        "evaluation_classes": scored,
        "evaluator_type": "pascal_voc",
        "dirname": str(root),
        "split": split,
        # Detectron2's evaluator asks for a year to choose its metric; ours computes both.
        "year": 2007,
    }


def _references(own: OwnSet) -> Registered:
    from tadp_d2.data.readers.refer import load_refer

    images, file = own.values["images"], own.values["references"]
    return lambda: load_refer(file, images), {
        "evaluator_type": "refcoco",
        "location": file,
        "images": images,
    }


def _coco(own: OwnSet) -> Registered:
    from tadp_d2.data.readers.coco_instances import load_coco

    images, annotations = own.values["images"], own.values["annotations"]
    return lambda: load_coco(annotations, images, own.name), {
        "evaluator_type": "coco",
        "json_file": str(annotations),
        "image_root": str(images),
        "location": annotations,
    }


def _semantic(own: OwnSet) -> Registered:
    from detectron2.utils.colormap import colormap

    from tadp_d2.data.readers.label_maps import Folders, load_label_maps

    values = own.values
    folders = Folders(
        images=values["images"],
        nesting="**",
        image_suffix=values.get("image_suffix", ".jpg"),
        labels=values.get("labels"),
        label_suffix=values.get("label_suffix", ".png"),
    )
    classes = values["classes"]
    colors = values.get("colors") or colormap(rgb=True).astype(int)[: len(classes)].tolist()
    if len(colors) < len(classes):
        raise UserError(f"{own.where}: {len(classes)} classes need as many colors")
    return lambda: load_label_maps(folders, own.name), {
        "stuff_classes": classes,
        "stuff_colors": [tuple(color) for color in colors[: len(classes)]],
        "ignore_label": values.get("ignore_label", 255),
        "evaluator_type": "sem_seg",
        "folders": folders,
        "location": folders.images,
        "has_labels": folders.labels is not None,
    }


def _depth(own: OwnSet) -> Registered:
    from tadp_d2.data.readers.depth_maps import CROPS, DepthFolders, load_depth_folders

    values = own.values
    crop = values.get("crop", "none")
    if crop not in CROPS:
        raise UserError(f"{own.where}: crop is {crop!r}; expected one of {', '.join(CROPS)}")
    folders = DepthFolders(
        images=values["images"],
        depths=values["depths"],
        image_suffix=values.get("image_suffix", ".jpg"),
        depth_suffix=values.get("depth_suffix", ".png"),
        room_folders=values.get("room_folders", False),
    )
    return lambda: load_depth_folders(folders, own.name, values["unit"]), {
        "evaluator_type": "depth",
        "depth_folders": folders,
        "depth_unit": values["unit"],
        "depth_range": values["range"],
        "depth_crop": crop,
        "location": folders.images,
    }


def _panoptic(own: OwnSet) -> Registered:
    from tadp_d2.data.readers.panoptic_sets import load_panoptic, panoptic_metadata

    images, segments, file = (own.values[key] for key in ("images", "segments", "annotations"))
    return lambda: load_panoptic(file, images, segments), {
        **panoptic_metadata(file, segments),
        "evaluator_type": "coco_panoptic_seg",
        "panoptic_json": str(file),
        "panoptic_root": str(segments),
        "image_root": str(images),
        "location": file,
    }


_LAYOUTS = {
    "voc": _voc,
    "coco": _coco,
    "semantic": _semantic,
    "depth": _depth,
    "panoptic": _panoptic,
    "references": _references,
}
