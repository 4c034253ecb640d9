"""Appending to a caption file: nothing is lost when the process dies, nothing is written twice."""

import contextlib
import datetime
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tadp_d2.data.texts import Caption, header, read_captions
from tadp_d2.errors import UserError
from tadp_d2.file_lock import locked
from tadp_d2.files import complete_lines, writing


class CaptionStore:
    """A caption file that is open for appending; a context manager.

    Every call of `add` is on disk when it returns. While a store is open no other process can open
    the file for appending.

    Attributes:
        records: image id -> what the file holds of it, kept up to date.
    """

    def __init__(self, path: Path, dataset: str, made_by: Mapping[str, Any]):
        """Opens a caption file, or begins it.

        Args:
            path: ends in `.jsonl`.
            dataset: the name under which the data set is registered.
            made_by: what makes the captions that are missing: model, revision, settings. None of
                it may differ from what made those that are there.

        Raises:
            UserError: the file is malformed, was made otherwise, is open in another process, or
                cannot be written.
        """
        self.path = path
        with writing(path):
            if not path.exists():
                _begin(path, json.dumps(header(dataset, made_by)))
            with contextlib.ExitStack() as stack:
                advice = "let each process make a part of its own with --shard"
                stack.enter_context(locked(path, advice))
                self._file = stack.enter_context(open(path, "r+b"))
                self._drop_cut_off_line()
                existing = read_captions(path)
                _check_same(existing.made_by, made_by, path)
                self._held = stack.pop_all()
        self.records: dict[str, Caption] = dict(existing.records)

    @classmethod
    def existing(cls, path: Path) -> "CaptionStore":
        """Opens a caption file of whatever made it, to add cleaned texts.

        Raises:
            UserError: as above.
        """
        return cls(path, path.stem, read_captions(path).made_by)

    def __enter__(self) -> "CaptionStore":
        return self

    def __exit__(self, *_: Any) -> None:
        # What could not be appended is tried once more.
        with writing(self.path):
            self._held.close()

    def add_captions(self, captions: Mapping[str, Caption]) -> None:
        """Appends captions of images that have none yet, with the present date.

        Raises:
            UserError: the disk is full.
        """
        doubles = captions.keys() & self.records.keys()
        if doubles:
            raise ValueError(f"{min(doubles)} has a caption already")
        date = _now()
        dated = {i: replace(caption, date=date) for i, caption in captions.items()}
        self._append(
            {"image_id": i, "raw": c.raw, "image_sha256": c.image_sha256, "date": c.date}
            for i, c in dated.items()
        )
        self.records |= dated

    def add_cleaned(self, cleaned: Mapping[str, tuple[str, Mapping[str, Any]]]) -> None:
        """Appends cleaned texts of images that have a caption.

        Args:
            cleaned: image id -> text and its provenance, to which the present date is added.

        Raises:
            UserError: the disk is full.
        """
        date = _now()
        done = {
            image_id: replace(self.records[image_id], clean=text, cleaned_by={**by, "date": date})
            for image_id, (text, by) in cleaned.items()
        }
        self._append(
            {"image_id": image_id, "clean": record.clean, "cleaned_by": record.cleaned_by}
            for image_id, record in done.items()
        )
        self.records |= done

    def _append(self, rows: Iterable[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        with writing(self.path):
            self._file.seek(0, os.SEEK_END)
            self._file.write(lines.encode())
            self._file.flush()
            os.fsync(self._file.fileno())

    def _drop_cut_off_line(self) -> None:
        data = self._file.read()
        complete = complete_lines(data)
        self._file.truncate(len(complete))
        self._file.seek(len(data))
        self._file.write(complete[len(data) :])
        self._file.flush()


def _begin(path: Path, first_line: str) -> None:
    """Begins a file, whole or not at all, unless another process begins it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name[:40]}.", dir=path.parent) as folder:
        begun = Path(folder, path.name)
        begun.write_text(first_line + "\n", encoding="utf-8")
        try:
            # To rename it would replace what the other process began, and has perhaps filled.
            os.link(begun, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            begun.replace(path)


def _check_same(existing: Mapping[str, Any], own: Mapping[str, Any], path: Path) -> None:
    for key in sorted({*existing, *own}):
        if existing.get(key) != own.get(key):
            raise UserError(
                f"{path}: its captions were made with {key} {existing.get(key)!r}, these would be "
                f"with {own.get(key)!r}; use the same settings, or another file"
            )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
