"""The synthetic data sets, cut down to what a benchmark has time for."""

import shutil
from pathlib import Path

CAPTIONS = "captions"


def first_pictures(world: Path, folder: Path, pictures: int) -> None:
    """Copies the targets of a world with the first images of their test sets.

    Args:
        world: as `tadp-d2 synth` writes it.
        folder: gets `watercolor`, `dark_zurich` and the captions.
        pictures: how many stay in each set.
    """
    for part in ("watercolor", "dark_zurich", CAPTIONS):
        shutil.copytree(world / part, folder / part)
    split = folder / "watercolor" / "ImageSets" / "Main" / "test.txt"
    ids = split.read_text().split()
    split.write_text("".join(f"{name}\n" for name in ids[:pictures]))
    night = folder / "dark_zurich" / "rgb_anon" / "val"
    for picture in sorted(night.rglob("*.png"))[pictures:]:
        picture.unlink()
        scene = picture.name.removesuffix("_rgb_anon.png")
        for label in (folder / "dark_zurich" / "gt").rglob(f"{scene}_gt*"):
            label.unlink()
