"""Precisions of floating-point numbers, by their names in configs and commands."""

from contextlib import AbstractContextManager

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: str, precision: str) -> AbstractContextManager:
    """Inside it PyTorch computes in mixed precision; "fp32" switches an outer one off.

    Args:
        device: its type, "cpu" or "cuda".
        precision: a key of `DTYPES`; fp16 needs a GPU.
    """
    dtype = None if precision == "fp32" else DTYPES[precision]
    return torch.autocast(device, dtype=dtype, enabled=dtype is not None)
