"""How a command starts sooner."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Around a command's imports: no garbage is collected meanwhile.

    Modules are some hundred thousand objects that all stay. Every collection would pass over those
    that are there already.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()
