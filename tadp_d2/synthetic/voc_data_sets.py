"""Writes the synthetic data sets for detection: four in Pascal VOC layout, with captions.

The trees have the folders, splits, ids and XML of VOC 2007, VOC 2012, Watercolor2k and Comic2k,
so that the loaders, mappers and evaluators of the real sets read them. What the pictures show and
how they look is decided in `drawing/scenes` and `drawing/styles`; that a folder appears whole or
not at all is up to the caller.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from tadp_d2.data.readers.pascal_voc import SIDES
from tadp_d2.data.texts import write_captions
from tadp_d2.synthetic.drawing.class_figures import CLASSES
from tadp_d2.synthetic.drawing.scenes import Scene, describe, sample_scene
from tadp_d2.synthetic.drawing.styles import Box, render
from tadp_d2.synthetic.parallel import in_processes
from tadp_d2.synthetic.sizes import MAX_SIZE, Sizes, check_seed

_JPEG_QUALITY = 92
# The ids of a data set's test pictures start here, whatever the number of the others.
_FIRST_TEST_ID = MAX_SIZE + 1


@dataclass(frozen=True)
class VocSizes(Sizes):
    """How many pictures the splits hold; trainval is halved into train and val.

    Raises:
        UserError: a size is not within 2 to 5000.
    """

    voc_2007_trainval: int = 300
    voc_2007_test: int = 100
    voc_2012_trainval: int = 600
    watercolor_train: int = 60
    watercolor_test: int = 100
    comic_train: int = 60
    comic_test: int = 100


@dataclass(frozen=True)
class _Tree:
    """One data set: its style, how its ids are written, and what its XML states."""

    folder: str
    style: str
    id_format: str
    has_optional_fields: bool


_VOC_2007 = _Tree("VOC2007", "photo", "{:06d}", True)
_VOC_2012 = _Tree("VOC2012", "photo", "2012_{:06d}", True)
_WATERCOLOR = _Tree("watercolor", "watercolor", "{}", False)
_COMIC = _Tree("comic", "comic", "{}", False)

# Fields of `VocSizes`. The position is part of the seed of each picture: append only.
_PARTS = {
    "voc_2007_trainval": _VOC_2007,
    "voc_2007_test": _VOC_2007,
    "voc_2012_trainval": _VOC_2012,
    "watercolor_train": _WATERCOLOR,
    "watercolor_test": _WATERCOLOR,
    "comic_train": _COMIC,
    "comic_test": _COMIC,
}


def write_voc_data_sets(
    root: Path,
    seed: int,
    sizes: VocSizes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes VOC2007, VOC2012, watercolor, comic and captions below a folder.

    Each picture depends on the seed, its split and its place in the split alone: the same seed
    gives the same bytes, and a larger split begins with the pictures of the smaller one. Every
    six pictures in a row show every class.

    Args:
        root: existing folder.
        seed: 0 or more.
        sizes: numbers of pictures; None for the defaults.
        progress: called with the number of pictures written and to be written.

    Raises:
        UserError: the seed is negative.
    """
    check_seed(seed)
    counts = asdict(sizes or VocSizes())
    for tree in _PARTS.values():
        for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (root / tree.folder / name).mkdir(parents=True, exist_ok=True)
    jobs = [(root, seed, part, index) for part in _PARTS for index in range(counts[part])]
    captions = {part: {} for part in _PARTS}
    results = in_processes(_write_scene, jobs, progress)
    for (_, _, part, _), (image_id, caption) in zip(jobs, results, strict=True):
        captions[part][image_id] = caption
    for part, tree in _PARTS.items():
        _write_splits(root, part, tree, captions[part], seed)


def _write_scene(root: Path, seed: int, part: str, index: int) -> tuple[str, str]:
    """Writes a picture with its annotation; returns its id and caption."""
    tree, number = _PARTS[part], list(_PARTS).index(part)
    first = _FIRST_TEST_ID if part.endswith("test") else 1
    image_id = tree.id_format.format(first + index)
    # Scene and style draw from the same stream, one after the other.
    rng = np.random.default_rng(np.random.SeedSequence((seed, number, index)))
    scene = sample_scene(rng, include=CLASSES[index % len(CLASSES)])
    _write_picture(root / tree.folder, image_id, tree, scene, rng)
    return image_id, describe(scene)


def _write_picture(
    folder: Path, image_id: str, tree: _Tree, scene: Scene, rng: np.random.Generator
) -> None:
    image, boxes = render(scene, tree.style, rng)
    image.save(folder / "JPEGImages" / f"{image_id}.jpg", quality=_JPEG_QUALITY)
    annotation = _annotation(tree, image_id, image, scene, boxes)
    ElementTree.indent(annotation)
    path = folder / "Annotations" / f"{image_id}.xml"
    ElementTree.ElementTree(annotation).write(path, encoding="utf-8")


def _annotation(
    tree: _Tree, image_id: str, image: Image.Image, scene: Scene, boxes: list[Box]
) -> ElementTree.Element:
    """The XML of a picture, with the fields in the order of the real sets."""
    root = ElementTree.Element("annotation")
    _add(root, "folder", tree.folder)
    _add(root, "filename", f"{image_id}.jpg")
    source = ElementTree.SubElement(root, "source")
    _add(source, "database", "tadp_d2 synthetic world")
    size = ElementTree.SubElement(root, "size")
    for name, value in (("width", image.width), ("height", image.height), ("depth", 3)):
        _add(size, name, value)
    _add(root, "segmented", 0)
    for item, box in zip(scene.objects, boxes, strict=True):
        element = ElementTree.SubElement(root, "object")
        _add(element, "name", item.name)
        if tree.has_optional_fields:
            _add(element, "pose", item.facing.capitalize())
            _add(element, "truncated", int(box.truncated))
            _add(element, "difficult", 0)
        bndbox = ElementTree.SubElement(element, "bndbox")
        for name in SIDES:
            _add(bndbox, name, getattr(box, name))
    return root


def _add(parent: ElementTree.Element, name: str, value: object) -> None:
    ElementTree.SubElement(parent, name).text = str(value)


def _write_splits(root: Path, part: str, tree: _Tree, captions: dict[str, str], seed: int) -> None:
    """Writes the list of ids and the caption file of each split that a part makes up."""
    dataset, _, split = part.rpartition("_")
    ids = list(captions)
    splits = {split: ids}
    if split == "trainval":
        half = len(ids) // 2
        splits |= {"train": ids[:half], "val": ids[half:]}
    for name, members in splits.items():
        text = "".join(f"{image_id}\n" for image_id in members)
        (root / tree.folder / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
        write_captions(
            root / "captions" / f"{dataset}_{name}.jsonl",
            f"{dataset}_{name}",
            {image_id: captions[image_id] for image_id in members},
            made_by={"tool": "tadp_d2 synthetic world", "seed": seed},
        )
