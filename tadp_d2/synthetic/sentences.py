"""Words for what captions count and list."""

from collections.abc import Sequence

_PLURALS = {"person": "people", "bus": "buses", "bookshelf": "bookshelves"}
_NUMBERS = ("no", "a", "two", "three", "four", "five", "six", "seven", "eight")


def counted(count: int, noun: str) -> str:
    """Such as "a dog" and "two people"."""
    number = "an" if count == 1 and noun[0] in "aeiou" else _NUMBERS[count]
    return f"{number} {noun if count == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """Such as "dogs" and "people"."""
    return _PLURALS.get(noun, f"{noun}s")


def listed(parts: Sequence[str]) -> str:
    """Such as "a dog, a cat and two cars"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
