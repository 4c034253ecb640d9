"""One writer of a file at a time, also on file systems without locks."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from tadp_d2.errors import UserError, reason


@contextlib.contextmanager
def locked(path: Path, advice: str) -> Iterator[None]:
    """Keeps other processes that use this function from writing to a file during the block.

    By the system's lock, which vanishes with the process. NFS, Lustre and others may have none:
    then by a file `.<name>.lock` beside it, which holds the writer's machine and process number.
    One whose process was of this machine and has ended does not count.

    Args:
        advice: besides waiting, what may be done about another writer, for the message.

    Raises:
        UserError: another process is writing.
        OSError: the file, or that of the lock, cannot be written.
    """
    contended = f"{path}: another process is writing to it; wait for it, or {advice}"
    with open(path, "r+b") as file, contextlib.ExitStack() as stack:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(contended) from None
        except OSError as error:
            why = f"this file system has no locks ({reason(error)})"
            mark = path.with_name(f".{path.name}.lock")
            _take(mark, f"{contended}. {mark} says so, because {why}")
            stack.callback(mark.unlink, missing_ok=True)
        yield


def _take(mark: Path, contended: str) -> None:
    """
    Raises:
        UserError: another process has it.
    """
    for last in (False, True):
        try:
            with open(mark, "x", encoding="utf-8") as file:
                file.write(f"{socket.gethostname()} {os.getpid()}")
            return
        except FileExistsError:
            holder = mark.read_text("utf-8", errors="replace").strip()
            if last or not _has_ended(holder):
                raise UserError(
                    f"{contended}; remove it if there is no such process ({holder!r})"
                ) from None
            mark.unlink(missing_ok=True)


def _has_ended(holder: str) -> bool:
    """Whether a process, as a mark names it, was one of this machine and is no more."""
    machine, _, number = holder.rpartition(" ")
    if machine != socket.gethostname() or not number.isdecimal():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        return False
    return False
