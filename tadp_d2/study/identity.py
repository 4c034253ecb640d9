"""What distinguishes folders of synthetic data sets, so that no result of another one is reused."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tadp_d2.errors import UserError
from tadp_d2.files import sha256
from tadp_d2.synthetic.data_folder import MODEL_FOLDER

# They cover all images. Further caption files, such as those of masks, repeat them.
_CAPTIONED = (
    *("cityscapes_foggy_val", "cityscapes_train", "cityscapes_val", "comic_test", "comic_train"),
    *("dark_zurich_test", "dark_zurich_train", "dark_zurich_val", "nighttime_driving_test"),
    *("voc_2007_test", "voc_2007_train", "voc_2007_trainval", "voc_2007_val"),
    *("voc_2012_train", "voc_2012_trainval", "voc_2012_val"),
    *("watercolor_test", "watercolor_train"),
)


def identity(world: Path, datasets: Iterable[str] = _CAPTIONED) -> dict[str, str]:
    """Fingerprints of captions, which stand for the images, and of the diffusion model.

    Args:
        datasets: those that count, by their names.

    Raises:
        UserError: the folder lacks one, as one that holds the data sets of a single task.
    """
    captions = [world / "captions" / f"{name}.jsonl" for name in datasets]
    for file in captions:
        if not file.is_file():
            raise UserError(
                f"no file {file}: tadp-d2 synth {world} draws the data sets that are missing there"
            )
    model = [f for part in ("unet", "vae", "text_encoder") for f in _weights(world, part)]
    return {"captions": _sha256_of_all(captions), "model": _sha256_of_all(model)}


def _weights(world: Path, part: str) -> list[Path]:
    return sorted((world / MODEL_FOLDER / part).glob("*.safetensors"))


def _sha256_of_all(files: Iterable[Path]) -> str:
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()
