"""The one kind of error that is the user's to fix, and how a command ends on it."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator

_RELAYED = "tadp_d2.errors.UserError: "


class UserError(Exception):
    """Wrong input: the message names the culprit, what was expected and what to do."""

    def __init__(self, message: str):
        # A data-loading worker relays its exception as one of the same type whose message is a
        # whole traceback; the user needs its last part.
        super().__init__(message.rpartition(_RELAYED)[2].strip())


# What a check does with a problem: it goes on after it if this returns.
Report = Callable[[UserError], None]


def stop(error: UserError) -> None:
    """Ends a check at its first problem."""
    raise error


@contextlib.contextmanager
def reporting(report: Report) -> Iterator[None]:
    """Hands the `UserError` that ends the block to `report`."""
    try:
        yield
    except UserError as error:
        report(error)


def reason(error: BaseException) -> str:
    """The first line of a library's message, or the kind of its error if it has none."""
    said = str(error)
    # Of torch's long advice to load the file unsafely, what is in the file.
    refused = re.search(r"Unsupported global: GLOBAL (\S+)", said)
    if refused:
        return f"it holds {refused[1]}, which is no plain data and is not loaded"
    said = re.sub(r"\x1b\[[0-9;]*m", "", said)
    return next(iter(said.strip().splitlines()), type(error).__name__)


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Ends the process with the message alone and exit code 2 when a `UserError` comes through."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and str(error.name).startswith("detectron2"):
            error = UserError(
                f"{error.name} is not there: Detectron2 is not installed, or not in full; run "
                "python -m tadp_d2.install_detectron2"
            )
        # A process that this one started relays its exception as another type.
        if not isinstance(error, UserError) and _RELAYED not in str(error):
            raise
        print(f"error: {UserError(str(error))}", file=sys.stderr)
        sys.exit(2)
