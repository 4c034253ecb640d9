"""Checkpoints of a run, written whole or not at all, loaded safely and completely."""

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer
from torch import Tensor, nn

from tadp_d2.errors import UserError, reason
from tadp_d2.files import replacing, saving
from tadp_d2.records.provenance import Provenance

# Name of the checkpoint at the end of a run.
_FINAL = "model_final"


class DamagedCheckpoint(UserError):
    """A file is not a complete checkpoint."""


class RunCheckpointer(Checkpointer):
    """Saves and loads `.pth` files; refuses weights that do not fit, instead of skipping them.

    Detectron2's own checkpointer has the same base. What it adds is for files of other programs;
    some versions take what a path may hold for an address, or load nothing after a failed load.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str,
        provenance: Provenance,
        keep: int = 1,
        **checkpointables: Any,
    ):
        """
        Args:
            keep: numbered checkpoints that stay, the newest ones; 1 or more.
        """
        super().__init__(model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)
        self._keep = keep
        self._provenance = provenance
        self._loading = ""
        self._continued = False

    def save(self, name: str, **extra: Any) -> None:
        """Writes `<name>.pth` and points `last_checkpoint` to it.

        All processes of a run call it, because an optimizer's state may be divided among them.
        """
        states = {key: value.state_dict() for key, value in self.checkpointables.items()}
        if not self.save_to_disk:
            return
        path = self._write(name, {**states, **extra})
        self.tag_last_checkpoint(os.path.basename(path))
        others = [other for other in _numbered(self.save_dir) if other != path]
        for old in others[self._keep - (name != _FINAL) :]:
            try:
                os.remove(old)
            except OSError as error:  # it only takes room
                self.logger.warning(f"{old}: cannot be removed ({reason(error)})")

    def save_model(self, name: str) -> None:
        """Writes `<name>.pth` with the model alone, which no run is resumed from."""
        if self.save_to_disk:
            self._write(name, {})

    def _write(self, name: str, more: dict[str, Any]) -> str:
        model = {"model": self.model.state_dict(), "provenance": self._provenance.record}
        path = str(Path(self.save_dir, f"{name}.pth"))
        self.logger.info(f"Saving checkpoint to {path}")
        # Given a file and not a path, torch passes errors of the disk on as they are.
        with saving(path), replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save({**model, **more}, file)
        return path

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        path = os.path.join(self.save_dir, "last_checkpoint")
        with saving(path), replacing(path) as temporary:
            temporary.write_text(last_filename_basename)

    def has_checkpoint(self) -> bool:
        """Whether there is one to resume from."""
        return bool(find_checkpoints(self.save_dir))

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """As Detectron2's; a damaged newest checkpoint gives way to the one before it.

        Raises:
            UserError: as `load`.
        """
        candidates = find_checkpoints(self.save_dir) if resume else []
        if not candidates:
            return super().resume_or_load(path, resume=False)
        # Who loads a model alone evaluates it.
        self._continued = bool(self.checkpointables)
        *candidates, oldest = candidates
        for candidate in candidates:
            try:
                return self.load(candidate)
            except DamagedCheckpoint as error:
                self.logger.warning(f"{error}; taking the one before it")
        return self.load(oldest)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """
        Raises:
            UserError: there is no checkpoint at `path`, or it is damaged, of another architecture
                or of another base model.
        """
        check_is_there(path)
        self._loading = path
        try:
            return super().load(path, *args, **kwargs)
        # What is in a file may be of any kind, also where it is the states' own to read.
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise DamagedCheckpoint(
                f"{path}: its content is not that of a checkpoint of this config "
                f"({reason(error)}); use another one"
            ) from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        # Checksums of all parts; torch does not look at all of them.
        with _reading(filename), zipfile.ZipFile(filename) as archive:
            damaged = archive.testzip()
            if damaged:
                raise ValueError(f"{damaged} is damaged")
        # Who loads a model alone leaves the optimizer's two thirds of the file on the disk.
        return _read(filename, mmap=not self.checkpointables)

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        record = checkpoint.pop("provenance", None)
        self._provenance.check(record, self._loading, self._continued)
        _refuse_other_architecture(self.model.state_dict(), checkpoint["model"], self._loading)
        return super()._load_model(checkpoint)


def find_checkpoints(folder: str | os.PathLike) -> list[str]:
    """Those in a run's folder: the one that `last_checkpoint` names first, then the newest."""
    others = [*_numbered(folder), str(Path(folder, f"{_FINAL}.pth"))]
    return [path for path in dict.fromkeys([_last(folder), *others]) if os.path.isfile(path)]


def _last(folder: str | os.PathLike) -> str:
    try:
        name = Path(folder, "last_checkpoint").read_text("utf-8-sig").strip()
    # Where it is damaged, any may be the last.
    except (OSError, UnicodeDecodeError):
        return ""
    # The name alone: a run's checkpoints lie in its folder.
    return str(Path(folder, os.path.basename(name)))


def _numbered(folder: str | os.PathLike) -> list[str]:
    # The folder's own name is no pattern.
    return sorted(map(str, Path(folder).glob("model_[0-9]*.pth")), reverse=True)


def check_is_there(path: str) -> None:
    """
    Args:
        path: `MODEL.WEIGHTS`; empty for none.

    Raises:
        UserError: there is no file at `path`.
    """
    if path and not os.path.isfile(path):
        raise UserError(f"no checkpoint at {path}: MODEL.WEIGHTS names a .pth file of a run")


def check_checkpoint(path: str) -> None:
    """Finds out what can be found out without reading the weights.

    Args:
        path: `MODEL.WEIGHTS`; empty for none.

    Raises:
        UserError: there is no checkpoint at `path`.
    """
    check_is_there(path)
    if path:
        _read(path, mmap=True)


def _read(path: str, **options: Any) -> dict[str, Any]:
    with _reading(path):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, **options)
    weights = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise UserError(f"{path}: expected a checkpoint of train_net.py, with its weights")
    return checkpoint


def read_provenance(path: str) -> dict[str, Any] | None:
    """What the model of a checkpoint rests on; None where an earlier version did not record it.

    Raises:
        UserError: it cannot be read.
    """
    return _read(path, mmap=True).get("provenance")


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        raise DamagedCheckpoint(
            f"{path}: cannot be read as a checkpoint ({reason(error)}); use another one"
        ) from None


def _refuse_other_architecture(own: dict, loaded: dict, path: str) -> None:
    missing = [key for key in own if key not in loaded]
    unexpected = [key for key in loaded if key not in own]
    reshaped = [key for key in own if key in loaded and own[key].shape != loaded[key].shape]
    for problem, keys in (
        ("lacks", missing),
        ("has no place for", unexpected),
        ("differs in shape in", reshaped),
    ):
        if keys:
            raise UserError(
                f"{path}: a checkpoint of another architecture: it {problem} {keys[0]} "
                f"({len(keys)} such of {len(own)}); use the config that it was trained with"
            )
