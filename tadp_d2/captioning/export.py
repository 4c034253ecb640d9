"""Captions in the format that was published with TADP."""

import json
from pathlib import Path

from tadp_d2.data.texts import CaptionFile
from tadp_d2.errors import UserError
from tadp_d2.files import replacing


def export_captions(captions: CaptionFile, path: Path) -> None:
    """Writes `{image id: {"captions": [text]}}`, whole or not at all.

    The text is the one that `captions` were read for. The format has no place for provenance.

    Raises:
        UserError: the file exists, or does not end in `.json`.
    """
    if path.suffix != ".json":
        raise UserError(f"{path}: the published format goes into a file that ends in .json")
    if path.exists():
        raise UserError(f"{path} exists already: choose another file or remove it first")
    entries = {image_id: {"captions": [text]} for image_id, text in captions.captions.items()}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
