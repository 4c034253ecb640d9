"""The device that a command computes on."""

import torch

from tadp_d2.errors import UserError, reason


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
