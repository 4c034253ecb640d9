"""How a command starts sooner."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Around a command's imports: no garbage is collected, and what is there then is no garbage.

    Modules are some hundred thousand objects that all stay. Collections would pass over them again
    and again, while they are imported and afterwards.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collected:
            gc.enable()
