"""What was found in files that were read strictly, kept between runs until the files change.

A file counts as unchanged while its size and its times of change are those of when it was read.
What is wrong with a file is not kept. Nothing is written beside the data sets, but to
`$TADP_D2_CACHE`, by default `~/.cache/tadp_d2`.
"""

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tadp_d2.errors import UserError
from tadp_d2.files import replacing

_logger = logging.getLogger(__name__)
_Value = TypeVar("_Value")
# Of the form of what is kept and of what "strictly" means: another one forgets all.
_VERSION = 1
# A file may change again within the resolution of its times.
_SETTLED_AFTER = 2.0
_read_anew = False


@contextlib.contextmanager
def forgotten() -> Iterator[None]:
    """Within the block, all files are read anew."""
    global _read_anew
    before, _read_anew = _read_anew, True
    try:
        yield
    finally:
        _read_anew = before


class Remembered:
    """Values of the files of a folder, in terms of JSON: a context manager, for several threads.

    What several processes keep at once is kept by the last one, whole.
    """

    def __init__(self, folder: Path, kind: str):
        """
        Args:
            folder: of the files.
            kind: what is kept of them, such as "sizes".
        """
        key = json.dumps([_VERSION, kind, os.path.abspath(folder)])
        name = f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        self._file = cache_folder() / name
        self._kept: dict[str, list[Any]] = {} if _read_anew else _read(self._file)
        self._found: dict[str, list[Any]] = {}
        self._start = time.time()

    def get(self, path: str | Path, read: Callable[[Any], _Value]) -> _Value:
        """What `read` returns for a file, which is not called for one that is unchanged."""
        kept = self.find(path)
        if kept is not None:
            return kept
        before = _status(path)
        value = read(path)
        if before and self._start - max(before.st_mtime, before.st_ctime) > _SETTLED_AFTER:
            self._found[str(path)] = [_stamp(before), value]
        return value

    def find(self, path: str | Path) -> Any:
        """What is kept of a file, if it is unchanged; None where there is nothing."""
        name = str(path)
        kept = self._kept.get(name)
        status = _status(name) if isinstance(kept, list) else None
        if status is None or kept[:-1] != [_stamp(status)]:
            return None
        self._found[name] = kept
        return kept[1]

    def __enter__(self) -> "Remembered":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """Keeps the values for later runs; of a block that failed also those not asked for yet."""
        found = self._found if kind is None else {**self._kept, **self._found}
        if found == self._kept or _read_anew:
            return
        try:
            with replacing(self._file) as temporary:
                temporary.write_text(json.dumps(found, separators=(",", ":")), "utf-8")
        except UserError as error:
            _logger.warning(f"The next run reads all files again: {error}")


def _status(path: str | Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _stamp(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def cache_folder() -> Path:
    """Where files are kept between runs that can be made again."""
    own = os.environ.get("TADP_D2_CACHE")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(own or Path(cache, "tadp_d2")).expanduser()


def _read(file: Path) -> dict[str, list[Any]]:
    """What was kept; nothing where there is none, or it is damaged: it is made again."""
    try:
        kept = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return kept if isinstance(kept, dict) else {}
