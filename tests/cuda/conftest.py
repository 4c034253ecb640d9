"""All tests on a GPU compute fp32 in full."""

import pytest
import torch


@pytest.fixture(autouse=True)
def full_precision():
    """By default convolutions of fp32 round to TF32."""
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = False
    yield
    for flag, value in zip(flags, before, strict=True):
        flag.allow_tf32 = value
