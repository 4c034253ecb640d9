"""Files that are written whole or not at all, and their fingerprints."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tadp_d2.errors import UserError, reason

# How the temporary files end that stand for a file that is being written.
_PARTIAL = ".partial"
# What to do about the system's errors.
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "make it writable, or write elsewhere"
    ),
    errno.ENAMETOOLONG: "choose a shorter name",
}


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turns what the disk refuses into a message.

    Args:
        path: the file or folder that the block writes, or keeps as it is if it fails.

    Raises:
        UserError: the block could not write; the cause is the system's error.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch's own writer raises a RuntimeError after the system's.
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, OSError | SafetensorError):
            raise
        advice = _ADVICE.get(getattr(cause, "errno", None), "remove the cause")
        raise UserError(
            f"{path}: cannot be written ({reason(cause)}); what stood there is intact: {advice}"
        ) from cause


@contextlib.contextmanager
def saving(path: str | os.PathLike) -> Iterator[None]:
    """As `writing`, for what continues with --resume; the message adds that.

    Raises:
        UserError: the block could not write.
    """
    try:
        with writing(path):
            yield
    except UserError as error:
        if error.__cause__ is None:
            raise
        raise UserError(f"{error}, then run the same command with --resume") from None


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path` and renames it to `path` if the block succeeds.

    A block that fails, or a process that dies, leaves what stood at `path` as it was.

    Raises:
        UserError: it cannot be written.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path, _PARTIAL)
        # As readable as any other file of the user.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield temporary
            temporary.replace(path)
        finally:
            # An error here would take the place of the one before it.
            with contextlib.suppress(OSError):
                temporary.unlink()


def _beside(path: Path, ending: str = "") -> Path:
    """A hidden name beside a path that nobody has; a long one is cut to what systems take."""
    return path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex[:12]}{ending}")


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Removes what processes that were killed while they wrote left in a folder.

    For a folder in which no other process is writing.
    """
    for path in Path(folder).glob(f".*{_PARTIAL}"):
        with contextlib.suppress(OSError):  # they are in nobody's way
            path.unlink()


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary folder that becomes `path` if the block succeeds, and vanishes if not.

    Raises:
        UserError: `path` exists and is not an empty folder, or it cannot be written.
    """
    path = Path(path)
    with writing(path):
        check_is_free(path)
    with growing_folder(path) as temporary:
        yield temporary


def check_is_free(path: Path) -> None:
    """
    Raises:
        UserError: something is there that is not an empty folder.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists already: choose another folder or remove it first")


@contextlib.contextmanager
def growing_folder(path: str | os.PathLike, last: str = "") -> Iterator[Path]:
    """Yields a temporary folder whose content goes into `path` if the block succeeds.

    Where there is no such folder the temporary one becomes it. Otherwise its files are moved one
    by one, and take the places of files of the same names.

    Args:
        last: what is moved after all else, to tell that all is there.

    Raises:
        UserError: it cannot be written.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path)
        temporary.mkdir()
        try:
            yield temporary
            _move(temporary, path, last)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _move(source: Path, target: Path, last: str = "") -> None:
    if source.is_dir() and target.is_dir() and any(target.iterdir()):
        for child in sorted(source.iterdir(), key=lambda child: (child.name == last, child.name)):
            _move(child, target / child.name)
        return
    if target.is_dir():
        target.rmdir()
    source.replace(target)


def check_new_sheet(path: Path, beside: str = "") -> None:
    """
    Args:
        path: of a drawing that is to be made.
        beside: suffix of a file of its numbers, if there is to be one.

    Raises:
        UserError: one of them is there already, or the drawing is no PNG.
    """
    if path.suffix != ".png":
        raise UserError(f"{path}: the sheet goes into a file that ends in .png")
    for file in (path, path.with_suffix(beside)) if beside else (path,):
        if file.exists():
            raise UserError(f"{file} exists already: choose another --output or remove it first")


def unfinished_folder(target: Path, made_of: Mapping[str, Any]) -> Path:
    """The hidden folder in which what becomes `target` is made, now or by an earlier process.

    Its `made_of.json` holds what it is made of, and stays in it.

    Args:
        made_of: what tells the sources from others.

    Raises:
        UserError: it was begun with other sources, or cannot be written.
    """
    folder = target.with_name(f".{target.name}.unfinished")
    record, content = folder / "made_of.json", json.dumps(made_of, indent=1) + "\n"
    if not record.exists():
        with replacing(record) as temporary:
            temporary.write_text(content, "utf-8")
    elif record.read_text("utf-8") != content:
        raise UserError(f"{folder}: was begun with other files; remove it")
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        remove_leftovers(path)
    return folder


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def complete_lines(data: bytes) -> bytes:
    """The lines of a JSONL file, without a last one that a crash cut off while it was written."""
    end = data.rfind(b"\n") + 1
    try:
        json.loads(data[end:])
    except (ValueError, RecursionError):
        return data[:end]
    return data + b"\n"
