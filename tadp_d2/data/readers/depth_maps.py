"""Depth maps: 16-bit gray PNGs, read as stored, and folders of them beside their images.

A value times the unit is a distance in meters; 0 is a hole, a pixel without a depth. Nothing is
written, and nothing is known of models.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from tadp_d2.data.images import check_each, read_size, read_stored
from tadp_d2.data.readers.label_maps import Folders, read_pairs
from tadp_d2.data.root import not_found
from tadp_d2.errors import Report, UserError, reason, reporting, stop

# The mean depth of an image, meters, beyond which the unit cannot be meant.
_LEAST_MEAN, _LARGEST_MEAN = 0.05, 500.0
# Of a folder's name, what is not the kind of its room: "kitchen_0028b", "nyu_office_0".
_SCENE = re.compile(r"(?:nyu_)?(?P<room>.+?)(?:_\d+[a-z]?)?")


Window = tuple[slice, slice]


def _shares(top: float, bottom: float, left: float, right: float) -> Callable[[int, int], Window]:
    return lambda height, width: (
        slice(int(top * height), int(bottom * height)),
        slice(int(left * width), int(right * width)),
    )


# Name -> from height and width to the part of the image that counts.
CROPS: dict[str, Callable[[int, int], Window]] = {
    "none": lambda height, width: (slice(height), slice(width)),
    # Eigen's of NYUv2: rows 45 to 470 and columns 41 to 600 of 480 x 640, in other sizes the same
    # shares.
    "eigen": lambda height, width: (
        slice(45 * height // 480, 471 * height // 480),
        slice(41 * width // 640, 601 * width // 640),
    ),
    # Garg's and Eigen's of KITTI.
    "garg": _shares(0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "eigen_kitti": _shares(0.3324324, 0.91351351, 0.0359477, 0.96405229),
}


@dataclass(frozen=True)
class SceneFolders:
    """`<root>/<scene>/rgb_<number>.jpg` beside `sync_depth_<number>.png`, as NYUv2 comes.

    Attributes:
        root: the folder of the scenes.
        listing: text file of a split, a line for each image: its path and that of its depth map
            below `root`, a leading slash allowed, perhaps more words; None for all images.
        if_no_listing: what to do about an absent list, for the message.
    """

    root: Path
    listing: Path | None = None
    if_no_listing: str = ""


@dataclass(frozen=True)
class DepthFolders:
    """Images and depth maps that are paired by their names below two folders.

    Attributes:
        images, depths: the folders.
        image_suffix, depth_suffix: how the names end.
        room_folders: whether the folder in which an image lies names its room.
    """

    images: Path
    depths: Path
    image_suffix: str = ".jpg"
    depth_suffix: str = ".png"
    room_folders: bool = False


def room_of(scene: str) -> str:
    """The kind of room in a scene's name: "study_room_0004" -> "study room"."""
    return _SCENE.fullmatch(scene)["room"].replace("_", " ")


def load_scenes(
    folders: SceneFolders, dataset: str, unit: float, report: Report = stop
) -> list[dict[str, Any]]:
    """Detectron2's dicts of a split, with "depth_file_name", "depth_unit" and "room".

    An image's id is its path below the root. Only the headers of images are read.

    Args:
        unit: meters of a depth map's value 1.
        report: gets what is wrong with single images, which are then left out.

    Raises:
        UserError: the split is absent or empty, its list is malformed, or an image is unreadable or
            without its depth map.
    """
    if not folders.root.is_dir():
        layout = f"{folders.root}/<scene>/rgb_<number>.jpg and sync_depth_<number>.png"
        raise not_found(dataset, folders.root, layout)
    pairs = _listed(folders, dataset, report) if folders.listing else _found(folders.root, dataset)
    entries = []
    for image_id, depth_id in pairs:
        with reporting(report):
            entries.append(_entry(folders.root, image_id, depth_id, unit))
    return entries


def load_depth_folders(
    folders: DepthFolders, dataset: str, unit: float, report: Report = stop
) -> list[dict[str, Any]]:
    """As `load_scenes`, for folders of one's own; "room" only where folders name it.

    Raises:
        UserError: a folder is absent or holds no image, an image is unreadable, without its depth
            map or of another size, or a depth map without its image.
    """
    pairs = read_pairs(
        Folders(
            images=folders.images,
            nesting="**",
            image_suffix=folders.image_suffix,
            labels=folders.depths,
            label_suffix=folders.depth_suffix,
            label_kind="depth map",
        ),
        dataset,
        report,
    )
    return [
        {
            "file_name": pair.image,
            "image_id": pair.image_id,
            "height": pair.height,
            "width": pair.width,
            "depth_file_name": pair.label,
            "depth_unit": unit,
            **({"room": room_of(Path(pair.image).parent.name)} if folders.room_folders else {}),
        }
        for pair in pairs
    ]


def _found(root: Path, dataset: str) -> list[tuple[str, str]]:
    images = sorted(path.relative_to(root).as_posix() for path in root.glob("*/rgb_*.jpg"))
    if not images:
        raise UserError(
            f"{root}: holds no image for data set {dataset!r}; expected <scene>/rgb_<number>.jpg"
        )
    return [(image, _depth_beside(image)) for image in images]


def _depth_beside(image_id: str) -> str:
    scene, name = image_id.rsplit("/", 1)
    return f"{scene}/{name.replace('rgb_', 'sync_depth_', 1).removesuffix('.jpg')}.png"


def _listed(folders: SceneFolders, dataset: str, report: Report) -> list[tuple[str, str]]:
    try:
        lines = folders.listing.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{folders.listing}: the list of data set {dataset!r} cannot be read "
            f"({reason(error)}); {folders.if_no_listing}"
        ) from None
    pairs: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        words = [word.lstrip("/") for word in line.split()]
        with reporting(report):
            if not words:
                continue
            if len(words) < 2 or any(not _is_below(word) for word in words[:2]):
                raise UserError(
                    f"{folders.listing}:{number}: expected the paths of an image and of its depth "
                    "map, such as /kitchen_0028b/rgb_00045.jpg /kitchen_0028b/sync_depth_00045.png"
                )
            if words[0] in pairs:
                raise UserError(f"{folders.listing}:{number}: {words[0]} stands there twice")
            pairs[words[0]] = words[1]
    if not pairs:
        raise UserError(f"{folders.listing}: lists no image for data set {dataset!r}")
    return list(pairs.items())


def _is_below(path: str) -> bool:
    parts = path.split("/")
    return len(parts) > 1 and not {"", ".", ".."} & set(parts)


def _entry(root: Path, image_id: str, depth_id: str, unit: float) -> dict[str, Any]:
    image, depth = root / image_id, root / depth_id
    width, height = read_size(image)
    if not depth.is_file():
        raise UserError(f"{image}: has no depth map, expected {depth}; complete the download")
    return {
        "file_name": str(image),
        "image_id": image_id,
        "height": height,
        "width": width,
        "depth_file_name": str(depth),
        "depth_unit": unit,
        "room": room_of(Path(image_id).parent.name),
    }


def read_depth_maps(dataset: str, report: Report = stop) -> list[dict[str, Any]]:
    """Reads a registered data set with depth strictly, all depth maps completely.

    A data set that has neither "scenes" nor "depth_folders" in its metadata is read by its own
    function, whose dicts have "depth_file_name" and no "depth_unit"; the unit is in the metadata.

    Raises:
        UserError: as `load_scenes`, or a depth map is not as `check_depth_map` wants it.
    """
    meta = MetadataCatalog.get(dataset)
    if meta.get("scenes"):
        entries = load_scenes(meta.scenes, dataset, meta.depth_unit, report)
    elif meta.get("depth_folders"):
        entries = load_depth_folders(meta.depth_folders, dataset, meta.depth_unit, report)
    else:
        entries = [{**e, "depth_unit": meta.depth_unit} for e in DatasetCatalog.get(dataset)]
    _check_all(entries, report)
    return entries


def _check_all(entries: Sequence[dict[str, Any]], report: Report) -> None:
    by_path = {Path(entry["depth_file_name"]): entry for entry in entries}

    def check(path: Path) -> None:
        entry = by_path[path]
        check_depth_map(path, (entry["height"], entry["width"]), entry["depth_unit"])

    check_each(check, list(by_path), "depth maps checked", report)


def check_depth_map(path: Path, size: tuple[int, int], unit: float) -> None:
    """
    Args:
        size: height and width of its image.

    Raises:
        UserError: it is unreadable, not of 16 bits, of another size, without any depth, or of
            depths that cannot be meant.
    """
    values = read_depth_map(path)
    if values.shape != size:
        raise UserError(
            f"{path}: {values.shape[1]} x {values.shape[0]} pixels, but its image has {size[1]} x "
            f"{size[0]}; take both from the same archive"
        )
    known = values[values > 0]
    if not known.size:
        raise UserError(f"{path}: all values are 0, so it has no depth; leave the image out")
    mean = float(known.mean()) * unit
    if not _LEAST_MEAN < mean < _LARGEST_MEAN:
        raise UserError(
            f"{path}: {mean:.4g} m deep on average, with {unit} m for the value 1; the unit is "
            "another one, or this is no depth map"
        )


def read_depth(path: str | Path, unit: float) -> np.ndarray:
    """The depth of every pixel, H x W float32 meters, 0 where it is not known.

    Raises:
        UserError: as `read_depth_map`.
    """
    return read_depth_map(path).astype(np.float32) * np.float32(unit)


def read_depth_map(path: str | Path) -> np.ndarray:
    """The values as they are stored, H x W uint16.

    Raises:
        UserError: the file is damaged, no PNG, or not gray of 16 bits.
    """
    values = read_stored(path)
    if values.dtype != np.uint16:
        raise UserError(
            f"{path}: a depth map must be a 16-bit gray PNG; this one has at most 8 bits, which "
            "cannot hold millimeters"
        )
    return values
