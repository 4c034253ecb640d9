"""Published archives: what is checked about one, and how it becomes a folder.

Nothing is written before all of an archive is known to be what is expected. A file is taken because
its path matches a pattern of the table in `published_archives.py`; no path of an archive is used as
it is.
"""

import contextlib
import hashlib
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from tadp_d2.errors import UserError, reason
from tadp_d2.files import replacing, unfinished_folder, writing
from tadp_d2.progress import progress_line

_MIB = 2**20
# Archives of more bytes than this get a line of progress while they are checked.
_LARGE = 100 * _MIB
# What systems and authors leave beside the data.
_COMPANION = re.compile(
    r"(.*/)?(__MACOSX/.*|\._[^/]*|\.DS_Store|Thumbs\.db|desktop\.ini|(readme|license)[^/]*)", re.I
)
_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError),
    # What zipfile raises for a method of compression or encryption that it does not know.
    *(NotImplementedError, RuntimeError),
)


class Archive(NamedTuple):
    """A file as it is published.

    Attributes:
        name: of the file.
        size: bytes; None where that is not known.
        digest: kind and hexadecimal digits, such as "md5:..."; None where that is not known.
    """

    name: str
    size: int | None = None
    digest: str | None = None


class Part(NamedTuple):
    """What is taken of an archive.

    Attributes:
        inside: the folder in the archive, alone or in one other folder.
        files: a regular expression for the paths below it that are taken. It says what a file may
            be called, and is therefore also what keeps files where they belong.
    """

    archive: Archive
    inside: str
    files: str


def check_archive(file: Path, archive: Archive, unverified: bool) -> str:
    """Compares a file with the published one.

    Args:
        unverified: whether another file is taken, too.

    Returns:
        A sentence on what was found, with the digest.

    Raises:
        UserError: the file is another one, or cannot be read.
    """
    kind, _, published = (archive.digest or "sha256:").partition(":")
    try:
        size = file.stat().st_size
        wrong_size = archive.size is not None and size != archive.size
        # Known without reading gigabytes.
        if wrong_size and not unverified:
            raise _other(file, f"{archive.size} bytes", f"{size}")
        found = _digest(file, kind, size)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({reason(error)})") from None
    if not published:
        return f"{file}: {kind} {found}; the published one is not known, so it is not checked"
    if found == published and not wrong_size:
        return f"{file}: {kind} {found}, as published"
    if not unverified:
        raise _other(file, f"{kind} {published}", found)
    return f"{file}: {kind} {found}; not the published file, whose {kind} is {published}"


def _other(file: Path, expected: str, found: str) -> UserError:
    return UserError(
        f"{file}: is not the published file: expected {expected}, found {found}. Download it "
        "again; --unverified takes another file, such as one that was packed again"
    )


def _digest(file: Path, kind: str, size: int) -> str:
    show = progress_line(f"MiB of {file.name} checked") if size > _LARGE else None
    total, digest = -(-size // _MIB), hashlib.new(kind)
    with open(file, "rb") as stream:
        for done, block in enumerate(iter(lambda: stream.read(_MIB), b""), start=1):
            digest.update(block)
            if show:
                show(done, total)
    return digest.hexdigest()


def unpack(
    parts: Sequence[Part], files: Mapping[Archive, Path], target: Path
) -> tuple[Path, list[str]]:
    """Unpacks parts of archives into a hidden folder beside `target`.

    Stopped, the same call goes on: files are written whole, and those that are there are skipped.

    Args:
        files: where the archives lie.
        target: what the hidden folder is to become.

    Returns:
        The hidden folder, and sentences on what stayed in the archives.

    Raises:
        UserError: an archive is damaged, or holds nothing of what is expected, a link, a path that
            leads outside, a file that does not belong there or more than the disk takes; or the
            folder was begun with other archives.
    """
    wanted, notes = [], []
    for part in parts:
        file = files[part.archive]
        taken, left = _select(file, part)
        wanted.append((file, taken))
        if left:
            notes.append(
                f"{file.name}: {len(left)} files stay in it that are not read, such as {left[0]}"
            )
    folder = unfinished_folder(
        target, {file.name: [file.stat().st_size, len(taken)] for file, taken in wanted}
    )
    absent = [
        (file, {name: entry for name, entry in taken.items() if not _is_there(folder, entry)})
        for file, taken in wanted
    ]
    _check_room(folder, sum(entry.size for _, part in absent for entry in part.values()))
    total = sum(len(taken) for _, taken in wanted)
    done = total - sum(len(taken) for _, taken in absent)
    show = progress_line(f"files of {target.name} unpacked")
    for file, taken in absent:
        for member, read in _walk(file) if taken else ():
            if member.name in taken:
                with _named(file, member.name):
                    data = read()
                with replacing(folder / taken[member.name].path) as temporary:
                    temporary.write_bytes(data)
                done += 1
                show(done, total)
    return folder, notes


def finish(folder: Path, target: Path) -> None:
    """Gives a hidden folder, of which all is there, its name."""
    with writing(target):
        folder.rename(target)


class _Taken(NamedTuple):
    """Where a file of an archive goes, below the folder that is made, and its bytes."""

    path: str
    size: int


class _Member(NamedTuple):
    """What an archive holds under a name; `kind` is "file", "folder", or something refused."""

    name: str
    size: int
    kind: str


def _select(file: Path, part: Part) -> tuple[dict[str, _Taken], list[str]]:
    """The files of a part by their names in the archive, and the names of the others."""
    pattern = re.compile(rf"(?:\./)?(?:[\w.+-]+/)?{re.escape(part.inside)}/({part.files})", re.A)
    taken: dict[str, _Taken] = {}
    others = []
    for member, _ in _walk(file):
        _check_member(member, file)
        if member.kind == "folder" or _COMPANION.fullmatch(member.name):
            continue
        found = pattern.fullmatch(member.name)
        if found is None:
            others.append(member.name)
        elif member.name in taken:
            raise UserError(f"{file}: holds {member.name} twice; nothing was unpacked")
        else:
            taken[member.name] = _Taken(found[1], member.size)
    if not taken:
        raise UserError(
            f"{file}: holds no {part.inside}/ with what is expected there, such as the published "
            f"{part.archive.name} does; nothing was unpacked"
        )
    if len({entry.path for entry in taken.values()}) < len(taken):
        raise UserError(f"{file}: holds {part.inside}/ twice; nothing was unpacked")
    folders = {PurePosixPath(name).parent for name in taken}
    strange = [name for name in others if PurePosixPath(name).parent in folders]
    if strange:
        raise UserError(
            f"{file}: holds {strange[0]!r}, which does not belong there ({len(strange)} such "
            "files); nothing was unpacked. Is it the published archive?"
        )
    return taken, others


def _check_member(member: _Member, file: Path) -> None:
    path = PurePosixPath(member.name)
    outside = path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", member.name)
    if outside or "\\" in member.name or not member.name.isprintable():
        problem = "a path that may lead out of its folder"
    elif member.kind in ("file", "folder"):
        return
    else:
        problem = member.kind
    raise UserError(
        f"{file}: holds {member.name!r}, {problem}; no published archive does, so nothing of it "
        "was unpacked"
    )


def _walk(file: Path) -> Iterator[tuple[_Member, Callable[[], bytes]]]:
    """The members of an archive in its order, each with a function that reads it."""
    with _named(file):
        if file.suffix == ".zip":
            yield from _walk_zip(file)
        else:
            yield from _walk_tar(file)


def _walk_zip(file: Path) -> Iterator[tuple[_Member, Callable[[], bytes]]]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            kind = "folder" if info.is_dir() else "file"
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "a link or a device"
            elif info.flag_bits & 1:
                kind = "an encrypted file"
            yield (
                _Member(info.filename, info.file_size, kind),
                partial(_read, archive.open, info, info.file_size),
            )


def _walk_tar(file: Path) -> Iterator[tuple[_Member, Callable[[], bytes]]]:
    with tarfile.open(file) as archive:
        for info in archive:
            kind = "file" if info.isreg() else "folder" if info.isdir() else "a link or a device"
            yield (
                _Member(info.name, info.size, kind),
                partial(_read, archive.extractfile, info, info.size),
            )


def _read(open_member: Callable[[Any], IO[bytes]], info: Any, size: int) -> bytes:
    with open_member(info) as stream:
        # One byte more than there is to be shows that it is not what the archive's list has.
        data = stream.read(size + 1)
    if len(data) != size:
        raise EOFError(f"{len(data)} bytes of {size}")
    return data


@contextlib.contextmanager
def _named(file: Path, member: str = "") -> Iterator[None]:
    """Turns what a damaged archive raises into a message."""
    try:
        yield
    except _DAMAGE as error:
        where = f"{file}: {member}" if member else f"{file}"
        raise UserError(
            f"{where}: is damaged, or was not downloaded completely ({reason(error)}); download "
            "the archive again"
        ) from None


def _is_there(folder: Path, entry: _Taken) -> bool:
    path = folder / entry.path
    return path.is_file() and path.stat().st_size == entry.size


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{folder}: {size / 1e9:.1f} GB are to be unpacked, and the disk has {free / 1e9:.1f} "
            "GB left: make room, then run the same command again"
        )
