"""The folder of a run: whose it is, whether it is finished, and files that appear whole.

A run that is not finished has `run.json`, which records what it makes of what, and from its first
save on `checkpoint.pt`. A finished one has the artifact and its metadata instead.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tadp_d2.errors import UserError, reason
from tadp_d2.files import remove_leftovers, replacing, saving
from tadp_d2.records.artifacts import read_metadata, write_metadata

# What must be equal for a run to be continued.
_IDENTITY = ("method", "base", "images", "settings")


class OutputFolder:
    """The folder of a run."""

    def __init__(self, path: Path, metadata_name: str):
        """
        Args:
            metadata_name: of the finished artifact, such as "learned_embeds.json".
        """
        self.path = path
        self.checkpoint = path / "checkpoint.pt"
        self.metadata = path / metadata_name
        self._run = path / "run.json"

    def check(self, resume: bool) -> None:
        """Finds out early what `open` will refuse.

        Raises:
            UserError: the folder holds something else than a run that is to be resumed.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file: --output names a folder")
        # A process that was killed at once leaves hidden files only.
        if not self.path.is_dir() or all(p.name.startswith(".") for p in self.path.iterdir()):
            return
        held = read_metadata(self.metadata)
        unfinished = read_metadata(self._run)
        if held is None and unfinished is None:
            raise UserError(f"{self.path} is not empty: choose another folder with --output")
        if not resume:
            what = "a finished artifact" if unfinished is None else "an unfinished run"
            advice = "" if unfinished is None else "--resume continues it, or "
            raise UserError(
                f"{self.path} holds {what}: {advice}choose another folder with --output"
            )

    def open(self, identity: Mapping[str, Any], resume: bool) -> bool:
        """Makes the folder that of a run, or continues the run that it is of.

        Args:
            identity: what the run makes of what: "method", "base", "images" and "settings".

        Returns:
            Whether the artifact is finished already.

        Raises:
            UserError: as `check`, or the run in the folder is another one.
        """
        self.check(resume)
        unfinished = read_metadata(self._run)
        held = unfinished or read_metadata(self.metadata)
        if held is None:
            with saving(self.path):
                write_metadata(self._run, identity)
        else:
            self._refuse_other(held, identity)
        finished = held is not None and unfinished is None
        self._remove_debris(finished)
        return finished

    def _refuse_other(self, held: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        difference = next(filter(None, (_difference(k, held, identity) for k in _IDENTITY)), "")
        if difference:
            raise UserError(
                f"{self.path} holds another run ({difference}): resume it as it was started, or "
                "choose another folder with --output"
            )

    def _remove_debris(self, finished: bool) -> None:
        """What could not be removed when the process was killed; it may be 10 GB."""
        if finished:
            self.checkpoint.unlink(missing_ok=True)
        remove_leftovers(self.path)
        for path in self.path.glob(".export.*"):
            shutil.rmtree(path)

    def save(self, state: Mapping[str, Any]) -> None:
        """Writes the checkpoint, whole or not at all.

        Raises:
            UserError: it cannot be written; the earlier one stays.
        """
        # Given a file and not a path, torch passes errors of the disk on as they are.
        with (
            saving(self.checkpoint),
            replacing(self.checkpoint) as temporary,
            open(temporary, "wb") as file,
        ):
            torch.save(dict(state), file)

    def load(self) -> dict[str, Any] | None:
        """The state in the checkpoint; None if there is none yet.

        Raises:
            UserError: it is damaged.
        """
        if not self.checkpoint.exists():
            return None
        try:
            return torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise UserError(
                f"{self.checkpoint}: cannot be read ({reason(error)}); remove it to start anew"
            ) from None

    def finish(self, metadata: Mapping[str, Any]) -> None:
        """Turns the run into a finished artifact."""
        with saving(self.metadata):
            write_metadata(self.metadata, metadata)
        self._run.unlink()
        self.checkpoint.unlink(missing_ok=True)


def _difference(key: str, held: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What differs in one part of two identities, in words; empty if nothing does."""
    mine, yours = held.get(key), wanted[key]
    if key == "images":
        # An image may have been renamed.
        same = [image["sha256"] for image in mine] == [image["sha256"] for image in yours]
        return "" if same else "of other images"
    if key == "base":
        # Runs of earlier versions do not name the tokenizer.
        yours = {part: value for part, value in yours.items() if part in mine}
    if mine == yours:
        return ""
    if key == "method":
        return f"of {mine}"
    name = next(name for name in [*mine, *yours] if mine.get(name) != yours.get(name))
    if key == "base":
        return f"with another {name.replace('_', ' ')}"
    return f"with {name} {mine.get(name)}, now {yours.get(name)}"
