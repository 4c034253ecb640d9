"""The synthetic data sets, cut down to what a benchmark has time for."""

import shutil
from pathlib import Path

CAPTIONS = "captions"


def first_images(data: Path, folder: Path, images: int) -> None:
    """Copies the targets of synthetic data sets with the first images of their test sets.

    Args:
        data: as `tadp-d2 synth` writes it.
        folder: gets `watercolor`, `dark_zurich` and the captions.
        images: how many stay in each set.
    """
    for part in ("watercolor", "dark_zurich", CAPTIONS):
        shutil.copytree(data / part, folder / part)
    split = folder / "watercolor" / "ImageSets" / "Main" / "test.txt"
    ids = split.read_text().split()
    split.write_text("".join(f"{name}\n" for name in ids[:images]))
    night = folder / "dark_zurich" / "rgb_anon" / "val"
    for image in sorted(night.rglob("*.png"))[images:]:
        image.unlink()
        scene = image.name.removesuffix("_rgb_anon.png")
        for label in (folder / "dark_zurich" / "gt").rglob(f"{scene}_gt*"):
            label.unlink()
