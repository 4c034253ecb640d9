"""The one kind of error that is the user's to fix, and how a command ends on it."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(Exception):
    """Wrong input: the message names the culprit, what was expected and what to do."""


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Ends the process with the message alone and exit code 2 when a `UserError` comes through."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
