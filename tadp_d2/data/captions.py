"""Caption files: one per data set, keyed by image id. Making captions is not done here.

Two formats are read:

* `<dataset>.jsonl`, ours. The first line is a header with provenance,
  `{"format": "tadp_d2 captions", "version": 1, "dataset": ..., "made_by": {...}}`; each further
  line is a record `{"image_id": ..., "raw": ...}`, with `"clean"` beside `"raw"` where a cleaned
  text exists.
* `<dataset>.json`, as published with TADP: `{image id: {"captions": [text, ...]}}`. The first
  caption of an image is used.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tadp_d2.errors import UserError
from tadp_d2.files import replacing, sha256

FORMAT = "tadp_d2 captions"
VERSION = 1


@dataclass(frozen=True)
class CaptionFile:
    """The captions of one data set.

    Attributes:
        path: the file that they were read from.
        captions: image id -> caption, cleaned where a cleaned text exists.
        made_by: provenance as the file states it (model, revision, settings); empty for the
            published format, which has none.
    """

    path: Path
    captions: Mapping[str, str]
    made_by: Mapping[str, Any]

    def __getitem__(self, image_id: str) -> str:
        """The caption of an image.

        Raises:
            UserError: the file has none for this image.
        """
        try:
            return self.captions[image_id]
        except KeyError:
            raise UserError(
                f"{self.path}: no caption for image {image_id!r} (the file has "
                f"{len(self.captions)} captions); add a record for it"
            ) from None

    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return sha256(self.path)


def find_caption_file(folder: str | Path, dataset: str) -> Path:
    """The caption file of `dataset` in `folder`.

    Raises:
        UserError: there is neither `<dataset>.jsonl` nor `<dataset>.json`, or there are both.
    """
    folder = Path(folder)
    found = [p for p in (folder / f"{dataset}.jsonl", folder / f"{dataset}.json") if p.is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{found[0]} and {found[1]} both exist: remove the one that is not meant")
    raise UserError(
        f"no captions for data set {dataset!r}: expected {folder / dataset}.jsonl (our format) or "
        f"{folder / dataset}.json (the published format), as datasets/README.md describes. "
        "TEXT.CAPTION_DIR names another folder"
    )


def read_captions(path: str | Path) -> CaptionFile:
    """Reads a caption file of either format.

    Raises:
        UserError: names the file and the line or image whose content is not as described above.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    if path.suffix == ".jsonl":
        return _read_jsonl(path, text)
    return _read_published(path, text)


def write_captions(
    path: str | Path, dataset: str, captions: Mapping[str, str], made_by: Mapping[str, Any]
) -> None:
    """Writes captions in our JSONL format, whole or not at all.

    Args:
        path: ends in `.jsonl`.
        dataset: the name under which the data set is registered.
        captions: image id -> raw caption, written in this order.
        made_by: what made them, such as model, revision and settings.
    """
    header = {"format": FORMAT, "version": VERSION, "dataset": dataset, "made_by": dict(made_by)}
    records = ({"image_id": image_id, "raw": raw} for image_id, raw in captions.items())
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for line in (header, *records):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _read_jsonl(path: Path, text: str) -> CaptionFile:
    lines = [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
    rows = [(n, _parse(line, f"{path}:{n}")) for n, line in lines]
    header = rows[0][1] if rows else {}
    if (header.get("format"), header.get("version")) != (FORMAT, VERSION):
        raise UserError(
            f"{path}:1: expected the header of a caption file, "
            f'{{"format": "{FORMAT}", "version": {VERSION}, ...}}'
        )
    captions: dict[str, str] = {}
    for n, row in rows[1:]:
        image_id, caption = row.get("image_id"), row.get("clean", row.get("raw"))
        if not isinstance(image_id, str) or not isinstance(caption, str):
            raise UserError(f'{path}:{n}: expected {{"image_id": text, "raw": text}}')
        if image_id in captions:
            raise UserError(f"{path}:{n}: image {image_id!r} has a caption already")
        captions[image_id] = caption
    return CaptionFile(path, captions, header.get("made_by", {}))


def _read_published(path: Path, text: str) -> CaptionFile:
    captions = {}
    for image_id, entry in _parse(text, str(path)).items():
        texts = entry.get("captions") if isinstance(entry, dict) else None
        if not isinstance(texts, list) or not texts or not isinstance(texts[0], str):
            raise UserError(f'{path}: image {image_id!r}: expected {{"captions": [text, ...]}}')
        captions[image_id] = texts[0]
    return CaptionFile(path, captions, {})


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value
