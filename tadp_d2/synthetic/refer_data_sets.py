"""Writes the synthetic data sets for referring segmentation, in the layout of RefCOCO.

`refcoco/` holds `instances.json` and `refs(unc).p`, as published, and the files that `tadp-d2
prepare` makes of them; the images are in `coco/train2014/`. Two more sets, which have no published
counterpart, show what is referred to in the styles of the targets: `refcoco_watercolor/` and
`refcoco_comic/`, with a split `test` and their images in `images/`.
"""

import json
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from tadp_d2.data.readers.refer_release import prepare_references
from tadp_d2.synthetic.drawing.class_figures import CLASSES
from tadp_d2.synthetic.drawing.scenes import Scene, sample_scene_of
from tadp_d2.synthetic.drawing.styles import STYLES
from tadp_d2.synthetic.parallel import in_processes
from tadp_d2.synthetic.sizes import Sizes, check_seed
from tadp_d2.synthetic.unambiguous import expressions

_JPEG_QUALITY = 92
# Part of the seed of each image; those of the other data sets are below.
_FIRST_PART = 200
# COCO's ids.
_CATEGORIES = {"person": 1, "bicycle": 2, "car": 3, "bird": 16, "cat": 17, "dog": 18}
_COUNT_SHARES = {3: 0.6, 4: 0.4}
# Of one class, as RefCOCO's images were chosen: there are two such objects at least in each.
_ALIKE_SHARES = {2: 0.5, 3: 0.5}
# Size of an object, pixels: what is referred to fills more of its image than what is detected.
_SMALLEST = 90
_MOST_EXPRESSIONS = 3


@dataclass(frozen=True)
class ReferSizes(Sizes):
    """How many images the splits hold.

    Raises:
        UserError: a size is not within 2 to 5000.
    """

    refcoco_train: int = 400
    refcoco_val: int = 40
    refcoco_testA: int = 20
    refcoco_testB: int = 20
    refcoco_watercolor_test: int = 40
    refcoco_comic_test: int = 40


class _ReferTree(NamedTuple):
    """One data set: its folder, its style, what its pickle is called and where its images are."""

    folder: str
    style: str
    split_by: str
    images: str


_TREES = (
    _ReferTree("refcoco", "photo", "unc", "coco/train2014"),
    _ReferTree("refcoco_watercolor", "watercolor", "synthetic", "refcoco_watercolor/images"),
    _ReferTree("refcoco_comic", "comic", "synthetic", "refcoco_comic/images"),
)


class _Referred(NamedTuple):
    """An object of an image, with its mask's polygons and up to three expressions."""

    name: str
    polygons: list[list[float]]
    area: float
    box: list[float]
    expressions: list[str]


class _Image(NamedTuple):
    file_name: str
    width: int
    height: int
    objects: list[_Referred]


def write_refer_data_sets(
    root: Path,
    seed: int,
    sizes: ReferSizes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes refcoco, refcoco_watercolor and refcoco_comic below a folder.

    Each image depends on the seed, its split and its place in the split alone.

    Args:
        root: existing folder.
        seed: 0 or more.
        sizes: numbers of images; None for the defaults.
        progress: called with the number of images written and to be written.

    Raises:
        UserError: the seed is negative.
    """
    check_seed(seed)
    counts = asdict(sizes or ReferSizes())
    for tree in _TREES:
        for folder in (tree.folder, tree.images):
            (root / folder).mkdir(parents=True, exist_ok=True)
    jobs = [(root, seed, part, index) for part in counts for index in range(counts[part])]
    images = in_processes(_write_image, jobs, progress)
    for tree in _TREES:
        splits: dict[str, list[_Image]] = {}
        for (_, _, part, _), image in zip(jobs, images, strict=True):
            folder, split = part.rsplit("_", 1)
            if folder == tree.folder:
                splits.setdefault(split, []).append(image)
        _write_annotations(root / tree.folder, tree.split_by, splits)
        prepare_references(root / tree.folder)


def _write_image(root: Path, seed: int, part: str, index: int) -> _Image:
    folder, split = part.rsplit("_", 1)
    tree = next(tree for tree in _TREES if tree.folder == folder)
    number = list(ReferSizes.__annotations__).index(part)
    rng = np.random.default_rng(np.random.SeedSequence((seed, _FIRST_PART + number, index)))
    scene, referred = _sample(rng, split)
    painting = STYLES[tree.style](scene, rng)
    image_id = number * 10_000 + index
    name = f"COCO_train2014_{image_id:012d}.jpg"
    painting.image.save(root / tree.images / name, quality=_JPEG_QUALITY)
    masks = painting.visible()
    objects = [
        _Referred(item.name, *_outline(mask >= 0.5), _some(rng, referred.get(place, [])))
        for place, (item, mask) in enumerate(zip(scene.objects, masks, strict=True))
    ]
    return _Image(name, *painting.image.size, objects)


def _sample(rng: np.random.Generator, split: str) -> tuple[Scene, dict[int, list[str]]]:
    """A scene, and the expressions of two of its objects at least.

    As in RefCOCO, testA refers to people and testB to everything else.
    """
    others = [name for name in CLASSES if name != "person"]
    while True:
        count, alike = (
            rng.choice(list(shares), p=list(shares.values()))
            for shares in (_COUNT_SHARES, _ALIKE_SHARES)
        )
        choice = others if split == "testB" else list(CLASSES)
        names = [choice[i] for i in rng.integers(len(choice), size=count)]
        if split == "testA":
            names[0] = "person"
        names[:alike] = alike * names[:1]
        scene = sample_scene_of(rng, names)
        found = expressions(scene)
        if split == "testA":
            found = {i: texts for i, texts in found.items() if scene.objects[i].name == "person"}
        large = all(one.size >= _SMALLEST for one in scene.objects)
        # Where one object alone is referred to, nobody needs to read.
        if len(scene.objects) == count and len(found) > 1 and large:
            return scene, found


def _some(rng: np.random.Generator, texts: list[str]) -> list[str]:
    return [str(text) for text in rng.permutation(texts)[:_MOST_EXPRESSIONS]]


def _outline(mask: np.ndarray) -> tuple[list[list[float]], float, list[float]]:
    """Polygons around a mask's parts, as people draw them: holes are filled. Area and box."""
    contours, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    # Through the middles of the pixels at the rim.
    polygons = [(contour[:, 0] + 0.5).ravel().tolist() for contour in contours if len(contour) > 2]
    rows, columns = np.nonzero(mask)
    left, top = float(columns.min()), float(rows.min())
    box = [left, top, float(columns.max()) + 1 - left, float(rows.max()) + 1 - top]
    return polygons, float(sum(cv2.contourArea(contour) for contour in contours)), box


def _write_annotations(folder: Path, split_by: str, splits: dict[str, list[_Image]]) -> None:
    """`instances.json` and the pickle, with the keys of the published ones."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    refs: list[dict[str, Any]] = []
    sentence_id = 0
    for split, members in splits.items():
        for image in members:
            image_id = len(images) + 1
            size = {"width": image.width, "height": image.height}
            images.append({"id": image_id, "file_name": image.file_name, **size})
            for item in image.objects:
                ann_id = len(annotations) + 1
                annotations.append(
                    {
                        "id": ann_id,
                        "image_id": image_id,
                        "category_id": _CATEGORIES[item.name],
                        "segmentation": item.polygons,
                        "area": item.area,
                        "bbox": item.box,
                        "iscrowd": 0,
                    }
                )
                if not item.expressions:
                    continue
                sentences = [
                    {
                        "sent_id": sentence_id + place,
                        "sent": text,
                        "raw": text,
                        "tokens": text.split(),
                    }
                    for place, text in enumerate(item.expressions)
                ]
                sentence_id += len(sentences)
                refs.append(
                    {
                        "ref_id": len(refs),
                        "ann_id": ann_id,
                        "category_id": _CATEGORIES[item.name],
                        "image_id": image_id,
                        "file_name": f"{Path(image.file_name).stem}_{ann_id}.jpg",
                        "split": split,
                        "sent_ids": [sentence["sent_id"] for sentence in sentences],
                        "sentences": sentences,
                    }
                )
    categories = [{"id": number, "name": name} for name, number in _CATEGORIES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, protocol=2))
