"""What a command shows while it works."""

import sys
import time
from collections.abc import Callable


def hide_library_bars() -> None:
    """Switches off the bars that diffusers and transformers draw for every file they load."""
    # Imported here: a command that only counts should not wait for them.
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def progress_line(what: str) -> Callable[[int, int], None]:
    """A callback (done, total) that keeps a line with an estimate of the time left on stderr.

    On a terminal the line is rewritten; in a log it appears ten times.
    """
    start = time.monotonic()
    terminal = sys.stderr.isatty()

    def show(done: int, total: int) -> None:
        if done % max(1, total // (100 if terminal else 10)) and done != total:
            return
        left = (time.monotonic() - start) / done * (total - done)
        end = "\r" if terminal and done != total else "\n"
        print(f"{done}/{total} {what}, {left:.0f} s left  ", end=end, file=sys.stderr)

    return show
