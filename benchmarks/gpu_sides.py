"""The sides that a run on a GPU compares: precisions, and the released wrapper."""

import contextlib
import copy
from collections.abc import Callable, Iterator

import torch
from reference import ReferenceFeatures
from torch import Tensor, nn

from tadp_d2.diffusion.diffusion_model import Context
from tadp_d2.diffusion.unet_features import UNetFeatures
from tadp_d2.precision import autocast

# "fp32" is without TF32 anywhere; "tf32" rounds the inputs of products to 10 bits.
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")


def precisions(device: str) -> tuple[str, ...]:
    return PRECISIONS if device == "cuda" else ("fp32", "bf16")


def mixed(precision: str) -> str:
    """The precision of autocast, of one of `PRECISIONS`."""
    return "fp32" if precision == "tf32" else precision


@contextlib.contextmanager
def tf32(precision: str) -> Iterator[None]:
    """Inside it products of fp32 are TF32 for "tf32" and full for all others."""
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.allow_tf32 = value


@contextlib.contextmanager
def computing_in(device: str, precision: str) -> Iterator[None]:
    with tf32(precision), autocast(device, mixed(precision)):
        yield


class ReferenceUNet(nn.Module):
    """The released wrapper's features in the place of `UNetFeatures`, on a copy of its weights.

    The output layers that `UNetFeatures` drops are there again, with random weights: the wrapper
    computes them and uses them for nothing.
    """

    def __init__(self, ours: UNetFeatures):
        super().__init__()
        self.levels, self.strides, self.channels = ours.levels, ours.strides, ours.channels
        unet = copy.deepcopy(ours.unet)
        width, device = unet.config.block_out_channels[0], unet.device
        unet.conv_norm_out = nn.GroupNorm(unet.config.norm_num_groups, width, device=device)
        unet.conv_act = nn.SiLU()
        unet.conv_out = nn.Conv2d(width, unet.config.out_channels, 3, padding=1, device=device)
        self.features = ReferenceFeatures(unet)

    def forward(self, latents: Tensor, context: Context, timestep: float) -> dict[str, Tensor]:
        return self.features(latents, context.embeddings, timestep)


@contextlib.contextmanager
def replaced_unet(backbone: nn.Module, make: Callable[[UNetFeatures], nn.Module]) -> Iterator[None]:
    """Inside it a diffusion backbone computes with what `make` makes of its `UNetFeatures`."""
    ours = backbone.unet
    device = ours.unet.device
    backbone.unet = made = make(ours)
    if all(part is not ours for part in made.modules()):
        # Another's memory is measured.
        ours.cpu()
    try:
        yield
    finally:
        backbone.unet = ours.to(device)
