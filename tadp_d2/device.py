"""The device that a command computes on, and its memory."""

import contextlib
import ctypes

import torch

from tadp_d2.errors import UserError, reason

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def find_device(name: str = "", asked: str = "--device") -> torch.device:
    """The device of a name such as cpu or cuda:1; empty for a GPU if there is one.

    Args:
        asked: the option or key that it comes from, for the message.

    Raises:
        UserError: there is no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"{asked} {name}: cannot be used ({reason(error)})") from None
    return device


def keep_freed_memory(device: str | torch.device) -> None:
    """Lets this process keep the CPU memory that it frees; for one that computes on the CPU.

    PyTorch asks for each result's memory anew, and the system clears it page by page, which takes
    up to a sixth of the time (docs/speed.md). The process then holds the most that it ever held.
    glibc can do so; with other C libraries nothing happens.
    """
    if torch.device(device).type == "cpu":
        with contextlib.suppress(AttributeError, OSError, TypeError):
            library = ctypes.CDLL(None)
            library.mallopt(_MMAP_MAX, 0)
            library.mallopt(_TRIM_THRESHOLD, -1)
