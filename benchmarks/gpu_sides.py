"""The sides that a run on a GPU compares: precisions, the released wrapper, what PyTorch offers."""

import contextlib
import copy
from collections.abc import Callable, Iterator

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from reference import ReferenceFeatures
from torch import Tensor, nn

from tadp_d2.diffusion.attention import RecordedAttention
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


class GraphedUNet(nn.Module):
    """`UNetFeatures` as two CUDA graphs, forward and backward, for one shape of inputs."""

    def __init__(self, ours: UNetFeatures, latents: Tensor, context: Tensor, timestep: float):
        super().__init__()
        self.strides, self.channels, self.levels = ours.strides, ours.channels, ours.levels
        tensors = _Tensors(ours, timestep)
        self._run = torch.cuda.make_graphed_callables(tensors, (latents, context))

    def forward(self, latents: Tensor, context: Context, timestep: float) -> dict[str, Tensor]:
        found = self._run(latents, context.embeddings)
        return dict(zip(self.levels, found, strict=True))


class _Tensors(nn.Module):
    """The same with tensors only, as graphs want it."""

    def __init__(self, ours: UNetFeatures, timestep: float):
        super().__init__()
        self.ours = ours
        self.timestep = timestep

    def forward(self, latents: Tensor, embeddings: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.ours(latents, Context(embeddings), self.timestep).values())


class CompiledUNet(nn.Module):
    """`UNetFeatures` compiled as a whole."""

    def __init__(self, ours: UNetFeatures, mode: str | None = None):
        super().__init__()
        self.strides, self.channels, self.levels = ours.strides, ours.channels, ours.levels
        self.ours = ours
        self._run = torch.compile(ours, fullgraph=True, dynamic=False, mode=mode)

    def forward(self, latents: Tensor, context: Context, timestep: float) -> dict[str, Tensor]:
        # The results of a graph are overwritten by its next run.
        return {
            level: maps.clone() for level, maps in self._run(latents, context, timestep).items()
        }


def repeated_blocks(features: UNetFeatures) -> list[nn.Module]:
    """The parts that occur many times, without what records maps: that is another each time."""
    parts: list[nn.Module] = []
    for module in features.unet.modules():
        if isinstance(module, ResnetBlock2D):
            parts.append(module)
        elif isinstance(module, BasicTransformerBlock):
            recorded = isinstance(module.attn2.processor, RecordedAttention)
            parts += [module.attn1, module.ff] if recorded else [module]
    return parts


@contextlib.contextmanager
def compiled_blocks(features: UNetFeatures) -> Iterator[None]:
    """Inside it the repeated blocks are compiled, one graph for each shape."""
    torch._dynamo.reset()
    parts = repeated_blocks(features)
    with torch._dynamo.config.patch(recompile_limit=64):
        for part in parts:
            part.compile(dynamic=False)
        try:
            yield
        finally:
            for part in parts:
                part._compiled_call_impl = None
            torch._dynamo.reset()


@contextlib.contextmanager
def channels_last(module: nn.Module) -> Iterator[None]:
    module.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        module.to(memory_format=torch.contiguous_format)


@contextlib.contextmanager
def cudnn_benchmark() -> Iterator[None]:
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


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
