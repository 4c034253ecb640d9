"""What tells one built-in world from another, so that no result of another world is reused."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tadp_d2.files import sha256
from tadp_d2.synthetic.data_folder import MODEL_FOLDER


def identity(world: Path) -> dict[str, str]:
    """Fingerprints of a world's captions, which tell of its pictures, and its diffusion model."""
    captions = sorted((world / "captions").iterdir())
    model = [f for part in ("unet", "vae", "text_encoder") for f in _weights(world, part)]
    return {"captions": _sha256_of_all(captions), "model": _sha256_of_all(model)}


def _weights(world: Path, part: str) -> list[Path]:
    return sorted((world / MODEL_FOLDER / part).glob("*.safetensors"))


def _sha256_of_all(files: Iterable[Path]) -> str:
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()
