"""Maps of several strides of a network that has maps of fewer."""

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class Pyramid(nn.Module):
    """Maps of some strides -> maps of all strides that are wanted, after ViTDet's simple pyramid.

    Finer ones than there are come from the finest by transposed convolutions, each of which doubles
    the size and halves the channels; coarser ones come from the coarsest by pooling (Li et al.,
    2022, section 3).
    """

    def __init__(self, given: dict[int, int], wanted: Sequence[int]):
        """
        Args:
            given: stride -> channels, powers of two.
            wanted: strides.
        """
        super().__init__()
        finest, coarsest = min(given), max(given)
        self.channels: dict[int, int] = {}
        self.sources: dict[int, int] = {}
        self.layers = nn.ModuleDict()
        for stride in wanted:
            source = stride if stride in given else finest if stride < finest else coarsest
            steps = round(math.log2(source / stride))
            self.sources[stride] = source
            self.channels[stride] = given[source] // 2 ** max(steps, 0)
            if steps > 0:
                self.layers[f"s{int(math.log2(stride))}"] = _enlarge(given[source], steps)

    def forward(self, maps: dict[int, Tensor]) -> dict[int, Tensor]:
        """
        Args:
            maps: stride -> B x C x h x w.
        """
        return {stride: self.make(stride, maps[own]) for stride, own in self.sources.items()}

    def make(self, stride: int, source: Tensor) -> Tensor:
        """The map of one stride of that of its source, `sources[stride]`."""
        name = f"s{int(math.log2(stride))}"
        if name in self.layers:
            return self.layers[name](source)
        factor = stride // self.sources[stride]
        return F.max_pool2d(source, factor) if factor > 1 else source


def _enlarge(channels: int, steps: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for step in range(steps):
        own = channels // 2**step
        if step:
            # Over all channels of a pixel in the paper; over the image, too, here.
            layers += [nn.GroupNorm(1, own), nn.GELU()]
        layers.append(nn.ConvTranspose2d(own, own // 2, kernel_size=2, stride=2))
    return nn.Sequential(*layers)
