"""Writes the synthetic data sets for detection: four in Pascal VOC layout, with captions.

Those of VOC itself and the targets' test images also have the masks that VOC and COCO define.

The trees have the folders, splits, ids and XML of VOC 2007, VOC 2012, Watercolor2k and Comic2k,
so that the loaders, mappers and evaluators of the real sets read them. What the images show and
how they look is decided in `drawing/scenes` and `drawing/styles`; that a folder appears whole or
not at all is up to the caller.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from tadp_d2.data.datasets.voc_categories import KINDS
from tadp_d2.data.texts import write_captions
from tadp_d2.synthetic.drawing.class_figures import CLASSES
from tadp_d2.synthetic.drawing.scenes import Scene, describe, sample_scene
from tadp_d2.synthetic.drawing.styles import Box, render
from tadp_d2.synthetic.parallel import in_processes
from tadp_d2.synthetic.segmentation_files import (
    SegmentedImage,
    make_folders,
    write_annotations,
    write_label_maps,
)
from tadp_d2.synthetic.sizes import MAX_SIZE, Sizes, check_seed

_JPEG_QUALITY = 92
# The ids of a data set's test images start here, whatever the number of the others.
_FIRST_TEST_ID = MAX_SIZE + 1


@dataclass(frozen=True)
class VocSizes(Sizes):
    """How many images the splits hold; trainval is halved into train and val.

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
class _VocTree:
    """One data set.

    Attributes:
        folder: below the root.
        style: one of `styles.STYLES`.
        id_format: how its ids are written.
        is_voc: whether it is VOC itself, whose XML states more.
    """

    folder: str
    style: str
    id_format: str
    is_voc: bool


_VOC_2007 = _VocTree("VOC2007", "photo", "{:06d}", is_voc=True)
_VOC_2012 = _VocTree("VOC2012", "photo", "2012_{:06d}", is_voc=True)
_WATERCOLOR = _VocTree("watercolor", "watercolor", "{}", is_voc=False)
_COMIC = _VocTree("comic", "comic", "{}", is_voc=False)

# Fields of `VocSizes`. The position is part of the seed of each image: append only.
_PARTS = {
    "voc_2007_trainval": _VOC_2007,
    "voc_2007_test": _VOC_2007,
    "voc_2012_trainval": _VOC_2012,
    "watercolor_train": _WATERCOLOR,
    "watercolor_test": _WATERCOLOR,
    "comic_train": _COMIC,
    "comic_test": _COMIC,
}
# Those with masks: VOC's, and what is tested of the targets.
_SEGMENTED = tuple(part for part, tree in _PARTS.items() if tree.is_voc or part.endswith("_test"))


def write_voc_data_sets(
    root: Path,
    seed: int,
    sizes: VocSizes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes VOC2007, VOC2012, watercolor, comic and captions below a folder.

    The two of VOC and the targets' test images have masks (`segmentation_files`), and captions for
    each way to read them.

    Each image depends on the seed, its split and its place in the split alone: the same seed
    gives the same bytes, and a larger split begins with the images of the smaller one. Every
    six images in a row show every class.

    Args:
        root: existing folder.
        seed: 0 or more.
        sizes: numbers of images; None for the defaults.
        progress: called with the number of images written and to be written.

    Raises:
        UserError: the seed is negative.
    """
    check_seed(seed)
    counts = asdict(sizes or VocSizes())
    for tree in _PARTS.values():
        for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (root / tree.folder / name).mkdir(parents=True, exist_ok=True)
    for part in _SEGMENTED:
        make_folders(root / _PARTS[part].folder, _split(part))
    jobs = [(root, seed, part, index) for part in _PARTS for index in range(counts[part])]
    written = {part: [] for part in _PARTS}
    for (_, _, part, _), image in zip(
        jobs, in_processes(_write_scene, jobs, progress), strict=True
    ):
        written[part].append(image)
    for part, images in written.items():
        _write_splits(root, part, {image.image_id: image.caption for image in images}, seed)
    for part in _SEGMENTED:
        _write_segmentation(root, part, written[part], seed)


class _Written(NamedTuple):
    """An image whose files are written."""

    image_id: str
    caption: str
    segmented: SegmentedImage | None


def _write_scene(root: Path, seed: int, part: str, index: int) -> _Written:
    """Writes an image with its annotation."""
    tree, number = _PARTS[part], list(_PARTS).index(part)
    first = _FIRST_TEST_ID if part.endswith("test") else 1
    image_id = tree.id_format.format(first + index)
    # Scene and style draw from the same stream, one after the other.
    rng = np.random.default_rng(np.random.SeedSequence((seed, number, index)))
    scene = sample_scene(rng, include=CLASSES[index % len(CLASSES)])
    rendering = render(scene, tree.style, rng)
    folder = root / tree.folder
    rendering.image.save(folder / "JPEGImages" / f"{image_id}.jpg", quality=_JPEG_QUALITY)
    annotation = _annotation(tree, image_id, scene, rendering.boxes)
    ElementTree.indent(annotation)
    path = folder / "Annotations" / f"{image_id}.xml"
    ElementTree.ElementTree(annotation).write(path, encoding="utf-8")
    segmented = None
    if part in _SEGMENTED:
        names = [item.name for item in scene.objects]
        segmented = write_label_maps(
            folder, _split(part), image_id, names, rendering.masks, rendering.behind
        )
    return _Written(image_id, describe(scene), segmented)


def _annotation(
    tree: _VocTree, image_id: str, scene: Scene, boxes: Sequence[Box]
) -> ElementTree.Element:
    """The XML of an image, with the fields in the order of the real sets."""
    root = ElementTree.Element("annotation")
    _add(root, "folder", tree.folder)
    _add(root, "filename", f"{image_id}.jpg")
    source = ElementTree.SubElement(root, "source")
    _add(source, "database", "tadp_d2 synthetic world")
    size = ElementTree.SubElement(root, "size")
    for name, value in (("width", scene.width), ("height", scene.height), ("depth", 3)):
        _add(size, name, value)
    _add(root, "segmented", 0)
    for item, box in zip(scene.objects, boxes, strict=True):
        element = ElementTree.SubElement(root, "object")
        _add(element, "name", item.name)
        if tree.is_voc:
            _add(element, "pose", item.facing.capitalize())
            _add(element, "truncated", int(box.truncated))
            _add(element, "difficult", 0)
        bndbox = ElementTree.SubElement(element, "bndbox")
        for name in ("xmin", "ymin", "xmax", "ymax"):
            _add(bndbox, name, getattr(box, name))
    return root


def _add(parent: ElementTree.Element, name: str, value: object) -> None:
    ElementTree.SubElement(parent, name).text = str(value)


def _write_splits(root: Path, part: str, captions: dict[str, str], seed: int) -> None:
    """Writes the lists of ids and the caption file of each split that a part makes up."""
    tree, dataset = _PARTS[part], part.rpartition("_")[0]
    ids, split = list(captions), _split(part)
    splits = {split: ids}
    if split == "trainval":
        half = len(ids) // 2
        splits |= {"train": ids[:half], "val": ids[half:]}
    for name, members in splits.items():
        text = "".join(f"{image_id}\n" for image_id in members)
        for lists in ("Main", "Segmentation") if part in _SEGMENTED else ("Main",):
            (root / tree.folder / "ImageSets" / lists / f"{name}.txt").write_text(text)
        _write_captions(root, f"{dataset}_{name}", {i: captions[i] for i in members}, seed)


def _write_segmentation(root: Path, part: str, images: Sequence[_Written], seed: int) -> None:
    """Writes the JSON files of a part, and its captions by the ids that each kind has."""
    segmented = [image.segmented for image in images]
    write_annotations(root / _PARTS[part].folder, _split(part), segmented)
    by_id = {image.image_id: image.caption for image in images}
    by_number = {str(image.segmented.image["id"]): image.caption for image in images}
    for kind in KINDS:
        _write_captions(root, f"{part}_{kind}", by_id if kind == "semantic" else by_number, seed)


def _split(part: str) -> str:
    return part.rpartition("_")[2]


def _write_captions(root: Path, dataset: str, captions: dict[str, str], seed: int) -> None:
    made_by = {"tool": "tadp_d2 synthetic world", "seed": seed}
    write_captions(root / "captions" / f"{dataset}.jsonl", dataset, captions, made_by)
