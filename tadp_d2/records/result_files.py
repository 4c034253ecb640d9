"""Reading what a run leaves, `results.json` and `metrics.json`, without torch and Detectron2.

They are written by `results.py` and by Detectron2's `JSONWriter`.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tadp_d2.errors import UserError
from tadp_d2.files import complete_lines

FORMAT = "tadp_d2 results"
VERSION = 1


def read_results(path: Path) -> dict[str, Any]:
    """The content of a `results.json`.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    found = (content.get("format"), content.get("version")) if isinstance(content, dict) else None
    if found != (FORMAT, VERSION):
        raise UserError(
            f"{path}: expected the results of a run, a JSON object with "
            f'"format": "{FORMAT}", "version": {VERSION}'
        )
    return content


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.json`, without one that was cut off when the run was killed.

    Returns:
        One object per line, each with its "iteration"; none if there is no such file.

    Raises:
        UserError: names the line that is damaged.
    """
    if not path.exists():
        return []
    lines = complete_lines(path.read_bytes()).splitlines()
    return [_metrics_line(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def _metrics_line(line: bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from None
    if not isinstance(content, dict) or not isinstance(content.get("iteration"), int):
        raise UserError(f'{where}: expected a JSON object with "iteration"')
    return content


def image_ids_fingerprint(image_ids: Iterable[str]) -> str:
    """SHA-256 of the ids of a data set's images, in whatever order."""
    return hashlib.sha256("\n".join(sorted(image_ids)).encode()).hexdigest()
