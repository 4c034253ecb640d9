"""The metadata beside an artifact: what it was made of, and what it can be used with."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tadp_d2.errors import UserError
from tadp_d2.files import replacing

FORMAT = "tadp_d2 personalization"
VERSION = 1
DREAMBOOTH_FILE = "dreambooth.json"
_logger = logging.getLogger(__name__)

_PARTS = {
    "text_encoder": "text encoder",
    "tokenizer": "tokenizer",
    "unet": "UNet",
    "vae": "VAE",
}


def token_metadata_path(file: str | Path) -> Path:
    """`learned_embeds.safetensors` -> `learned_embeds.json`."""
    return Path(file).with_suffix(".json")


def unet_metadata_path(folder: str | Path) -> Path:
    """`somewhere/unet` -> `somewhere/dreambooth.json`."""
    return Path(folder).absolute().parent / DREAMBOOTH_FILE


def write_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes a metadata file, whole or not at all."""
    data = {"format": FORMAT, "version": VERSION, **metadata}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read_metadata(path: Path) -> dict[str, Any] | None:
    """The content of a metadata file; None if there is none.

    Raises:
        UserError: it is damaged, or another kind of file.
    """
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as metadata of an artifact ({error})") from None
    if not isinstance(data, dict) or (data.get("format"), data.get("version")) != (FORMAT, VERSION):
        raise UserError(
            f'{path}: expected the metadata of an artifact, {{"format": "{FORMAT}", "version": '
            f"{VERSION}, ...}}; move it away if it belongs to something else"
        )
    return data


def check_base(
    artifact: str | Path, metadata_path: Path, fingerprints: Mapping[str, str], own: Mapping
) -> None:
    """Compares what an artifact needs with the model that is to use it.

    An artifact from elsewhere has no metadata: that is a warning, and no more.

    Args:
        artifact: its file or folder, for messages.
        fingerprints: part of the base model -> fingerprint of the one in use; a part that is not
            named is not compared.
        own: fingerprints of the artifact as it was loaded.

    Raises:
        UserError: it was made for another base model.
    """
    metadata = read_metadata(metadata_path)
    if metadata is None:
        _logger.warning(f"{artifact} does not record for which base model it was made")
        return
    if any(metadata["artifact"].get(name) != value for name, value in own.items()):
        _logger.warning(
            f"{artifact} is not the one that {metadata_path} describes, and does not record for "
            "which base model it was made"
        )
        return
    for part, value in metadata["needs"].items():
        if fingerprints.get(part, value) != value:
            raise UserError(
                f"{artifact} was made for another {_PARTS[part]} than that of "
                f"MODEL.DIFFUSION.WEIGHTS: name there what it was made for "
                f"({metadata['model']['weights']!r}, see {metadata_path}), or make it anew for this"
            )
