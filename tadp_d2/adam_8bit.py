"""AdamW whose two moments take a byte for each weight instead of four (optional package).

Dettmers et al., "8-bit Optimizers via Block-wise Quantization", section 2. Tensors of less than
4096 weights keep moments in 32 bits.
"""

import torch
from torch import nn
from torch.optim import Optimizer

from tadp_d2.errors import UserError, reason

# Weights of a tensor that is large enough for 8 bits.
_LARGE = 4096


def adam_8bit(device: torch.device, asked: str) -> type[Optimizer]:
    """The class, which has taken a step on the device.

    Args:
        asked: the key or option that asks for it, for messages.

    Raises:
        UserError: the package is not installed, or cannot work on the device.
    """
    try:
        import bitsandbytes
    except ImportError:
        raise UserError(
            f"{asked} needs a package that is not installed: pip install bitsandbytes"
        ) from None
    weight = nn.Parameter(torch.zeros(_LARGE, device=device))
    weight.grad = torch.ones_like(weight)
    try:
        kind = bitsandbytes.optim.AdamW8bit
        kind([weight], lr=1.0).step()
        works = bool((weight < 0).all())
        why = "a step changes nothing"
    except Exception as error:  # which of many kinds depends on its version and the device
        works, why = False, reason(error)
    if not works:
        raise UserError(
            f"{asked}: the installed bitsandbytes cannot do it on {device.type} ({why}); install "
            "a newer one, choose another device, or do without"
        )
    return kind
