"""Caption files: one per data set, keyed by image id. Making and cleaning them is not done here.

Two formats are read:

* `<dataset>.jsonl`, ours, to which lines are only ever appended. The first line is a header with
  provenance, `{"format": "tadp_d2 captions", "version": 1, "dataset": ..., "made_by": {...}}`. Each
  further line is about one image: `{"image_id": ..., "raw": ...}` its caption, once, and
  `{"image_id": ..., "clean": ..., "cleaned_by": {...}}` its cleaned text, on the same line or a
  later one; the last cleaned text counts. `"image_sha256"` and `"date"` may stand beside a caption.
* `<dataset>.json`, as published with TADP: `{image id: {"captions": [text, ...]}}`. The first
  caption of an image is used. A leading slash of an id, as in TADP's file of NYUv2, is dropped.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tadp_d2.data.root import data_set_guide
from tadp_d2.errors import Report, UserError, reporting, stop
from tadp_d2.files import complete_lines, replacing, sha256

FORMAT = "tadp_d2 captions"
VERSION = 1

Kind = Literal["clean", "raw"]


class NoCaptions(UserError):
    """A data set has no caption file."""


@dataclass(frozen=True)
class Caption:
    """What a file holds of one image.

    Attributes:
        raw: the caption as it was made.
        clean: the caption without the target domain's words; None where it was not cleaned.
        cleaned_by: provenance of `clean`.
        image_sha256: fingerprint of the image's file when it was captioned; empty if not stated.
        date: when it was made, ISO 8601; empty if not stated.
    """

    raw: str
    clean: str | None = None
    cleaned_by: Mapping[str, Any] = field(default_factory=dict)
    image_sha256: str = ""
    date: str = ""

    def text(self, kind: Kind) -> str:
        """The raw caption, or the cleaned one where there is one."""
        return self.raw if kind == "raw" or self.clean is None else self.clean


@dataclass(frozen=True)
class CaptionFile:
    """The captions of one data set.

    Attributes:
        path: the file that they were read from.
        records: image id -> what the file holds of it.
        made_by: provenance as the file states it (model, revision, settings); empty for the
            published format, which has none.
        kind: which text of a record counts as its caption.
    """

    path: Path
    records: Mapping[str, Caption]
    made_by: Mapping[str, Any]
    kind: Kind = "clean"

    @property
    def captions(self) -> dict[str, str]:
        """Image id -> caption."""
        return {image_id: record.text(self.kind) for image_id, record in self.records.items()}

    def __getitem__(self, image_id: str) -> str:
        """The caption of an image.

        Raises:
            UserError: the file has none for this image.
        """
        try:
            return self.records[image_id].text(self.kind)
        except KeyError:
            raise UserError(
                f"{self.path}: no caption for image {image_id!r} (the file has "
                f"{len(self.records)} captions); tadp-d2 caption {self.path.stem} makes those that "
                "are missing"
            ) from None

    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return sha256(self.path)


def find_caption_file(folder: str | Path, dataset: str) -> Path:
    """The caption file of `dataset` in `folder`.

    Raises:
        NoCaptions: there is neither `<dataset>.jsonl` nor `<dataset>.json`.
        UserError: there are both.
    """
    folder = Path(folder)
    found = [p for p in (folder / f"{dataset}.jsonl", folder / f"{dataset}.json") if p.is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{found[0]} and {found[1]} both exist: remove the one that is not meant")
    raise NoCaptions(
        f"no captions for data set {dataset!r}: expected {folder / dataset}.jsonl (our format) or "
        f"{folder / dataset}.json (the published format), as {data_set_guide()} describes. "
        "TEXT.CAPTION_DIR names another folder"
    )


def read_captions(path: str | Path, kind: Kind = "clean", report: Report = stop) -> CaptionFile:
    """Reads a caption file of either format.

    Args:
        kind: "clean" for cleaned texts where there are some, "raw" for captions as they were made.
        report: gets what is wrong with single lines or images, which are then left out.

    Raises:
        UserError: names the file and the line or image whose content is not as described above.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        # Some editors put a byte-order mark in front.
        text = (complete_lines(data) if path.suffix == ".jsonl" else data).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    if path.suffix == ".jsonl":
        return _read_jsonl(path, text, kind, report)
    return _read_published(path, text, kind, report)


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
    lines = [header(dataset, made_by)]
    lines += [{"image_id": image_id, "raw": raw} for image_id, raw in captions.items()]
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")


def header(dataset: str, made_by: Mapping[str, Any]) -> dict[str, Any]:
    """The first line of a file in our format."""
    return {"format": FORMAT, "version": VERSION, "dataset": dataset, "made_by": dict(made_by)}


def _read_jsonl(path: Path, text: str, kind: Kind, report: Report) -> CaptionFile:
    lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    first = _parse(lines[0][1], f"{path}:1") if lines else {}
    if (first.get("format"), first.get("version")) != (FORMAT, VERSION):
        raise UserError(
            f"{path}:1: expected the header of a caption file, "
            f'{{"format": "{FORMAT}", "version": {VERSION}, ...}}'
        )
    records: dict[str, Caption] = {}
    for n, line in lines[1:]:
        with reporting(report):
            _add(records, _parse(line, f"{path}:{n}"), f"{path}:{n}")
    made_by = first.get("made_by", {})
    if not isinstance(made_by, dict):
        raise UserError(f'{path}:1: expected an object in "made_by"')
    return CaptionFile(path, records, made_by, kind)


def _add(records: dict[str, Caption], row: dict[str, Any], where: str) -> None:
    """Adds what a line holds to the records, in place."""
    image_id = row.get("image_id")
    texts = {key: row[key] for key in ("raw", "clean", "image_sha256", "date") if key in row}
    known = all(_is_text(text) for text in (image_id, *texts.values()))
    if not known or not {"raw", "clean"} & texts.keys():
        raise UserError(f'{where}: expected {{"image_id": text, "raw": text}}')
    if not isinstance(row.get("cleaned_by", {}), dict):
        raise UserError(f'{where}: expected an object in "cleaned_by"')
    if "cleaned_by" in row:
        texts["cleaned_by"] = row["cleaned_by"]
    if "raw" in texts:
        if image_id in records:
            raise UserError(f"{where}: image {image_id!r} has a caption already")
        records[image_id] = Caption(**texts)
    elif image_id in records:
        records[image_id] = replace(records[image_id], **texts)
    else:
        raise UserError(f"{where}: a cleaned text for image {image_id!r}, which has no caption yet")


def _read_published(path: Path, text: str, kind: Kind, report: Report) -> CaptionFile:
    records = {}
    for image_id, entry in _parse(text, str(path)).items():
        texts = entry.get("captions") if isinstance(entry, dict) else None
        if isinstance(texts, list) and texts and _is_text(image_id) and _is_text(texts[0]):
            records[image_id.removeprefix("/")] = Caption(texts[0])
        else:
            expected = 'expected {"captions": [text, ...]}'
            report(UserError(f"{path}: image {image_id!r}: {expected}"))
    return CaptionFile(path, records, {}, kind)


def _is_text(value: Any) -> bool:
    """Whether it is text that can be written; JSON can hold halves of characters."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    # Deep nesting and numbers of thousands of digits are refused by Python.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which a key that stands twice would hide the first one's value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"{key!r} stands there twice")
    return found
