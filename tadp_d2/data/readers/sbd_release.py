"""SBD's masks, files of Matlab's, joined with those of VOC 2012 for `pascal_trainaug`."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tadp_d2.data.datasets.voc_categories import COLORMAP
from tadp_d2.data.images import check_each, read_size
from tadp_d2.errors import UserError, reason
from tadp_d2.files import new_folder, replacing


def prepare_trainaug(masks: Path, voc: Path) -> int:
    """Writes `SegmentationClassAug` and `ImageSets/Segmentation/trainaug.txt`, the folder last.

    An image of VOC's own segmentation keeps VOC's mask, with its void outlines. VOC's val is no
    part of trainaug; its masks lie in the folder, too.

    Args:
        masks: folder of SBD's `<id>.mat`.
        voc: the folder `VOC2012`.

    Returns:
        The number of images of trainaug.

    Raises:
        UserError: the folder is there already, a list or mask of VOC is absent, or a mask of SBD is
            damaged, has another size than its image or another value than 0 to 20.
    """
    own = {split: _read_list(voc, split) for split in ("train", "val")}
    theirs = {path.stem: path for path in masks.glob("*.mat")}
    trainaug = sorted({*own["train"], *theirs} - {*own["val"]})
    added = [theirs[image_id] for image_id in trainaug if image_id not in own["train"]]
    loadmat = _import()
    with new_folder(voc / "SegmentationClassAug") as temporary:
        for image_id in (*own["train"], *own["val"]):
            mask = voc / "SegmentationClass" / f"{image_id}.png"
            if not mask.is_file():
                raise UserError(f"{mask}: there is no such file; is {voc} complete?")
            shutil.copyfile(mask, temporary / mask.name)
        check_each(
            lambda path: _write_mask(path, voc, temporary, loadmat), added, "masks of SBD written"
        )
        with replacing(voc / "ImageSets" / "Segmentation" / "trainaug.txt") as listing:
            listing.write_text("".join(f"{image_id}\n" for image_id in trainaug), "utf-8")
    return len(trainaug)


def _read_list(voc: Path, split: str) -> list[str]:
    path = voc / "ImageSets" / "Segmentation" / f"{split}.txt"
    try:
        return path.read_text("utf-8").split()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({reason(error)}); give VOCtrainval_11-May-2012.tar, too"
        ) from None


def _import() -> Callable[..., Mapping[str, Any]]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise UserError(
            f"SBD's masks need a package that is not installed, {error.name}: pip install scipy"
        ) from None
    return loadmat


def _write_mask(path: Path, voc: Path, folder: Path, loadmat: Callable) -> None:
    try:
        values = np.asarray(loadmat(path, variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0])
    # A damaged file ends scipy's reader in errors of many kinds.
    except Exception as error:
        raise UserError(
            f"{path}: holds no GTcls with a Segmentation ({reason(error)}); expected a mask of SBD"
        ) from None
    if values.dtype != np.uint8 or values.ndim != 2 or values.max(initial=0) > 20:
        raise UserError(
            f"{path}: its Segmentation is {values.shape} {values.dtype}, up to "
            f"{values.max(initial=0)}; expected height x width of 8 bits from 0 to 20"
        )
    size = read_size(voc / "JPEGImages" / f"{path.stem}.jpg")
    if values.shape != size[::-1]:
        raise UserError(f"{path}: {values.shape[::-1]} pixels, but its image has {tuple(size)}")
    mask = Image.fromarray(values)
    mask.putpalette(COLORMAP.astype(np.uint8).tobytes())
    mask.save(folder / f"{path.stem}.png")
