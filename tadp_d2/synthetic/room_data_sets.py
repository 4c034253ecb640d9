"""Writes the synthetic data sets for depth: NYU Depth V2, and its test rooms in other looks.

The trees have the folders, lists and file names of the real set, so that its reader, mapper and
evaluator read them. What is in a room and how it looks is decided in `drawing/rooms` and
`drawing/room_views`; that a folder appears whole or not at all is up to the caller.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tadp_d2.data.datasets.nyu_categories import UNIT
from tadp_d2.data.texts import write_captions
from tadp_d2.synthetic.drawing.room_views import render_room
from tadp_d2.synthetic.drawing.rooms import KINDS, describe, sample_room
from tadp_d2.synthetic.parallel import in_processes
from tadp_d2.synthetic.sizes import Sizes, check_seed

# Part of the seed of each image, so that none shares a stream with the other data sets.
_FIRST_PART = 200
_JPEG_QUALITY = 92
# Images of a scene of the training set.
_IN_SCENE = 4


@dataclass(frozen=True)
class RoomSizes(Sizes):
    """How many images the splits hold.

    Raises:
        UserError: a size is not within 2 to 5000.
    """

    rooms_train: int = 240
    rooms_test: int = 48
    rooms_labeled_train: int = 12


# Data set -> style and folder, of each part; the test rooms are there in three.
_VERSIONS = {
    "rooms_train": {"nyu_depth_v2_train": ("day", "nyu_depth_v2/sync")},
    "rooms_test": {
        "nyu_depth_v2_test": ("day", "nyu_depth_v2/official_splits/test"),
        "rooms_night_test": ("night", "rooms_night/test"),
        "rooms_watercolor_test": ("watercolor", "rooms_watercolor/test"),
    },
    "rooms_labeled_train": {
        "nyu_depth_v2_labeled_train": ("day", "nyu_depth_v2/official_splits/train")
    },
}
# Fields of `RoomSizes`. The position is part of the seed of each image: append only.
_PARTS = list(_VERSIONS)


def write_room_data_sets(
    root: Path,
    seed: int,
    sizes: RoomSizes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes nyu_depth_v2, rooms_night, rooms_watercolor and captions below a folder.

    Each image depends on the seed, its part and its place in the part alone: the same seed gives
    the same bytes, and a larger split begins with the images of the smaller one. Twelve images in
    a row show every kind of room.

    Args:
        root: existing folder.
        seed: 0 or more.
        sizes: numbers of images; None for the defaults.
        progress: called with the number of rooms written and to be written.

    Raises:
        UserError: the seed is negative.
    """
    check_seed(seed)
    sizes = sizes or RoomSizes()
    jobs = [(root, seed, part, index) for part in _PARTS for index in range(getattr(sizes, part))]
    captions: dict[str, dict[str, str]] = {}
    for results in in_processes(_write_room, jobs, progress):
        for dataset, image_id, caption in results:
            captions.setdefault(dataset, {})[image_id] = caption
    for dataset, sentences in captions.items():
        write_captions(
            root / "captions" / f"{dataset}.jsonl",
            dataset,
            sentences,
            made_by={"tool": "tadp_d2 synthetic rooms", "seed": seed},
        )
    listed = (f"/{image} /{_depth_of(image)}\n" for image in captions["nyu_depth_v2_train"])
    (root / "nyu_depth_v2" / "train_list.txt").write_text("".join(listed))


def _write_room(root: Path, seed: int, part: str, index: int) -> list[tuple[str, str, str]]:
    """Writes a room in its versions; data set, image id and caption of each."""
    entropy = np.random.SeedSequence((seed, _FIRST_PART + _PARTS.index(part), index))
    versions = _VERSIONS[part]
    room_seed, *style_seeds = entropy.spawn(1 + len(versions))
    kinds = list(KINDS)
    kind, turn = kinds[index % len(kinds)], index // len(kinds)
    room = sample_room(np.random.default_rng(room_seed), kind)
    image_id = _image_id(part, kind, index, turn)
    written = []
    for (dataset, (style, folder)), style_seed in zip(versions.items(), style_seeds, strict=True):
        seen = render_room(room, style, np.random.default_rng(style_seed))
        path = root / folder / image_id
        path.parent.mkdir(parents=True, exist_ok=True)
        seen.image.save(path, quality=_JPEG_QUALITY)
        values = (seen.depth / UNIT).round().astype(np.uint16)
        Image.fromarray(values).save(root / folder / _depth_of(image_id))
        written.append((dataset, image_id, describe(room, seen.shares)))
    return written


def _image_id(part: str, kind: str, index: int, turn: int) -> str:
    """As NYUv2's: scenes of a training set are numbered, the test set has a folder for a kind."""
    folder = kind.replace(" ", "_")
    if part == "rooms_train":
        return f"{folder}_{turn // _IN_SCENE + 1:04d}/rgb_{turn % _IN_SCENE:05d}.jpg"
    return f"{folder}/rgb_{index:05d}.jpg"


def _depth_of(image_id: str) -> str:
    return image_id.replace("/rgb_", "/sync_depth_").replace(".jpg", ".png")
