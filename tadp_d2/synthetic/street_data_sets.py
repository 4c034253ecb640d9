"""Writes the synthetic data sets for segmentation: Cityscapes, Dark Zurich, Nighttime Driving.

The trees have the folders, splits and file names of the real sets, so that the loaders, mappers
and evaluators of those read them. What the images show and how they look is decided in
`drawing/streets` and `drawing/street_styles`; that a folder appears whole or not at all is up to
the caller.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tadp_d2.data.datasets.cityscapes_categories import CLASSES
from tadp_d2.data.texts import write_captions
from tadp_d2.synthetic.drawing.street_styles import render_street
from tadp_d2.synthetic.drawing.streets import Street, describe, sample_street
from tadp_d2.synthetic.parallel import in_processes
from tadp_d2.synthetic.sizes import Sizes, check_seed

# Part of the seed of each image, so that none of them shares a stream with the data sets
# for detection, whose parts count from 0.
_FIRST_PART = 100


@dataclass(frozen=True)
class StreetSizes(Sizes):
    """How many images the splits hold; the foggy ones are those of Cityscapes' val.

    Raises:
        UserError: a size is not within 2 to 5000.
    """

    cityscapes_train: int = 400
    cityscapes_val: int = 60
    dark_zurich_train: int = 40
    dark_zurich_val: int = 50
    dark_zurich_test: int = 10
    nighttime_driving_test: int = 50


@dataclass(frozen=True)
class _Version:
    """The images of a part in one style.

    Attributes:
        dataset: name of the caption file.
        style: one of `street_styles.STYLES`.
        folder: of the split, below which image ids are paths.
        ending: of the images, after their stem.
    """

    dataset: str
    style: str
    folder: str
    ending: str


@dataclass(frozen=True)
class _Part:
    """Scenes, the styles in which they are written, and where their labels go.

    Attributes:
        versions: of each scene.
        size: width and height of the images.
        groups: cities or sequences, in turn the folders of the images.
        stem: an image's path below the split's folder, from `group` and `number`.
        labels: folder of the labels; None if they are not written.
        labels_ending: of the labels, after their stem.
    """

    versions: tuple[_Version, ...]
    size: tuple[int, int]
    groups: tuple[str, ...]
    stem: str
    labels: str | None
    labels_ending: str = "_gt_labelTrainIds.png"


def _cityscapes(split: str, cities: tuple[str, ...], *more: _Version) -> _Part:
    folder = f"cityscapes/leftImg8bit/{split}"
    return _Part(
        versions=(_Version(f"cityscapes_{split}", "day", folder, "_leftImg8bit.png"), *more),
        size=(512, 256),
        groups=cities,
        stem="{group}/{group}_{number:06d}_000019",
        labels=f"cityscapes/gtFine/{split}",
        labels_ending="_gtFine_labelTrainIds.png",
    )


def _dark_zurich(split: str, sequences: tuple[str, ...]) -> _Part:
    folder = f"dark_zurich/rgb_anon/{split}"
    return _Part(
        versions=(_Version(f"dark_zurich_{split}", "night", folder, "_rgb_anon.png"),),
        size=(480, 270),
        groups=sequences,
        stem="night/{group}/{group}_frame_{number:06d}",
        labels="dark_zurich/gt/val" if split == "val" else None,
    )


_FOGGY = _Version(
    dataset="cityscapes_foggy_val",
    style="foggy",
    folder="cityscapes/leftImg8bit_foggy/val",
    ending="_leftImg8bit_foggy_beta_0.02.png",
)
_NIGHTTIME = _Part(
    versions=(
        _Version(
            "nighttime_driving_test",
            "night",
            "NighttimeDrivingTest/leftImg8bit/test",
            "_leftImg8bit.png",
        ),
    ),
    size=(480, 270),
    groups=("0", "1"),
    stem="night/{group}_frame_{number:04d}",
    labels="NighttimeDrivingTest/gtCoarse_daytime_trainvaltest/test",
    labels_ending="_gtCoarse_labelTrainIds.png",
)

# Fields of `StreetSizes`. The position is part of the seed of each image: append only.
_PARTS = {
    "cityscapes_train": _cityscapes("train", ("aachen", "bochum", "zurich")),
    "cityscapes_val": _cityscapes("val", ("frankfurt", "lindau"), _FOGGY),
    "dark_zurich_train": _dark_zurich("train", ("GOPR0345", "GOPR0351")),
    "dark_zurich_val": _dark_zurich("val", ("GOPR0356", "GOPR0376")),
    "dark_zurich_test": _dark_zurich("test", ("GOPR0364", "GOPR0371")),
    "nighttime_driving_test": _NIGHTTIME,
}


def write_street_data_sets(
    root: Path,
    seed: int,
    sizes: StreetSizes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes cityscapes, dark_zurich, NighttimeDrivingTest and captions below a folder.

    Each image depends on the seed, its part and its place in the part alone: the same seed gives
    the same bytes, and a larger split begins with the images of the smaller one. Each class is
    asked for by one of 19 images in a row.

    Args:
        root: existing folder.
        seed: 0 or more.
        sizes: numbers of images; None for the defaults.
        progress: called with the number of scenes written and to be written.

    Raises:
        UserError: the seed is negative.
    """
    check_seed(seed)
    sizes = sizes or StreetSizes()
    jobs = [(root, seed, name, index) for name in _PARTS for index in range(getattr(sizes, name))]
    captions: dict[str, dict[str, str]] = {}
    for results in in_processes(_write_scene, jobs, progress):
        for dataset, image_id, caption in results:
            captions.setdefault(dataset, {})[image_id] = caption
    for dataset, sentences in captions.items():
        write_captions(
            root / "captions" / f"{dataset}.jsonl",
            dataset,
            sentences,
            made_by={"tool": "tadp_d2 synthetic world", "seed": seed},
        )


def _write_scene(root: Path, seed: int, name: str, index: int) -> list[tuple[str, str, str]]:
    """Writes a scene in its versions with its labels; data set, image id and caption of each."""
    part, number = _PARTS[name], list(_PARTS).index(name)
    entropy = np.random.SeedSequence((seed, _FIRST_PART + number, index))
    scene_seed, *style_seeds = entropy.spawn(1 + len(part.versions))
    street = sample_street(
        np.random.default_rng(scene_seed), part.size, CLASSES[index % len(CLASSES)]
    )
    stem, captions = _stem(part, index), []
    for version, style_seed in zip(part.versions, style_seeds, strict=True):
        labels = _write_image(root, stem, version, street, style_seed)
        captions.append((version.dataset, stem + version.ending, describe(street, labels)))
    if part.labels:
        _save(Image.fromarray(labels), root / part.labels / (stem + part.labels_ending))
    return captions


def _stem(part: _Part, index: int) -> str:
    group = part.groups[index % len(part.groups)]
    return part.stem.format(group=group, number=index // len(part.groups))


def _write_image(
    root: Path, stem: str, version: _Version, street: Street, seed: np.random.SeedSequence
) -> np.ndarray:
    """Writes a scene in one style and returns its labels."""
    image, labels = render_street(street, version.style, np.random.default_rng(seed))
    _save(image, root / version.folder / (stem + version.ending))
    return labels


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Fast: noise does not compress well, whatever the effort.
    image.save(path, compress_level=1, compress_type=zlib.Z_RLE)
