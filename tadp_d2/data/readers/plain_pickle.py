"""Pickles of plain data, read without running what is in them.

A pickle is a program for a small machine; Python's own reader imports and calls what it names. This
one knows the instructions that make lists, tuples, dicts, numbers and text, and no others. It takes
memory in proportion to the file only, and does not recurse.
"""

import pickletools
from pathlib import Path
from typing import Any

from tadp_d2.errors import UserError, reason

_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_UNICODE = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
# Text of Python 2, of which pickletools makes a character of each byte.
_BYTE_TEXT = {"BINSTRING", "SHORT_BINSTRING"}
_VALUES = _NUMBERS | _UNICODE | {"STRING"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUT = {"PUT", "BINPUT", "LONG_BINPUT"}
_GET = {"GET", "BINGET", "LONG_BINGET"}
_NOTHING = {"PROTO", "FRAME", "STOP"}


class _Forbidden(Exception):
    """Something else than plain data; the message names it."""


def read_plain_pickle(path: Path) -> Any:
    """What a pickle holds: lists, tuples, dicts with keys of text or numbers, numbers, text.

    Raises:
        UserError: the file is absent or damaged, or holds anything else; nothing of it was run.
    """
    try:
        return _load(path.read_bytes())
    except _Forbidden as error:
        raise UserError(
            f"{path}: holds {error}; expected lists, tuples, dicts, numbers and text only. Nothing "
            "of it was run; take the file from where its authors publish it"
        ) from None
    except MemoryError:
        raise
    # The machine meets an empty stack, a value of the wrong kind, an unknown place in its memory.
    except (OSError, ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read as a pickle ({reason(error)})") from None


def _load(data: bytes) -> Any:
    machine = _Machine()
    # genops reads no further than the file, whatever length an instruction states.
    for opcode, argument, _ in pickletools.genops(data):
        machine.run(opcode.name, argument)
    return machine.result()


class _Machine:
    """Pickle's stack machine, for plain data."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        # Lengths of the stack at the marks.
        self._marks: list[int] = []
        self._memory: dict[int, Any] = {}

    def result(self) -> Any:
        (value,) = self._stack
        return value

    def run(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _PUT:
            self._memory[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memory[len(self._memory)] = stack[-1]
        elif name in _VALUES:
            stack.append(argument)
        elif name in _BYTE_TEXT:
            stack.append(argument.encode("latin-1").decode())
        elif name in _GET:
            stack.append(self._memory[argument])
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in ("SETITEM", "SETITEMS"):
            pairs = self._since_mark() if name == "SETITEMS" else self._pop(2)
            stack[-1].update(_dict(pairs))
        elif name in ("APPEND", "APPENDS"):
            items = self._since_mark() if name == "APPENDS" else self._pop(1)
            list.extend(stack[-1], items)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            stack.append(tuple(self._pop(_TUPLES[name])))
        elif name == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif name == "LIST":
            stack.append(self._since_mark())
        elif name == "DICT":
            stack.append(_dict(self._since_mark()))
        elif name not in _NOTHING:
            raise _Forbidden(self._name(name, argument))

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise IndexError("an instruction finds too little")
        place = len(self._stack) - count
        items = self._stack[place:]
        del self._stack[place:]
        return items

    def _since_mark(self) -> list[Any]:
        return self._pop(len(self._stack) - self._marks.pop())

    def _name(self, name: str, argument: Any) -> str:
        """What a forbidden instruction would make."""
        if name in ("GLOBAL", "INST"):
            return f"the object {str(argument).replace(' ', '.')}"
        if name == "STACK_GLOBAL":
            return "the object " + ".".join(str(part)[:80] for part in self._stack[-2:])
        if "BYTES" in name or "BUFFER" in name:
            return "bytes"
        return "a set" if "SET" in name or name == "ADDITEMS" else f"the instruction {name}"


def _dict(items: list[Any]) -> dict[Any, Any]:
    """A dict of keys and values in turn."""
    keys, values = items[::2], items[1::2]
    # To hash a deep tuple would recurse.
    if len(keys) != len(values) or not all(isinstance(key, str | int | float) for key in keys):
        raise TypeError("a dict's keys are text or numbers")
    return dict(zip(keys, values, strict=True))
