"""Tags of an image as a line of a caption file: with a bar between them, as RAM writes them."""

from collections.abc import Iterable
from pathlib import Path

from tadp_d2.errors import UserError, reason

SEPARATOR = "|"


def split_tags(line: str) -> list[str]:
    """The tags of a line, each once, in their order; none for an empty line."""
    parts = (part.strip() for part in line.split(SEPARATOR))
    return list(dict.fromkeys(part for part in parts if part))


def join_tags(tags: Iterable[str]) -> str:
    """The line of tags; the inverse of `split_tags`."""
    return f" {SEPARATOR} ".join(tags)


def read_names(path: Path) -> list[str]:
    """A list of names, one a line, such as those that a tagger looks for.

    Raises:
        UserError: it cannot be read, is empty, or names something twice or with a bar in it.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({reason(error)})") from None
    found: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        name = " ".join(line.split())
        if name in found:
            raise UserError(f"{path}:{number}: {name!r} stands in line {found[name]} already")
        if SEPARATOR in name:
            raise UserError(f"{path}:{number}: {name!r} holds a {SEPARATOR}, which separates tags")
        if name:
            found[name] = number
    if not found:
        raise UserError(f"{path}: holds no name; expected one a line")
    return list(found)
