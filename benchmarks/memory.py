"""What a training step holds in memory, computed in Stable Diffusion 1.5's shapes, and what fits.

No weight and no image is made: torch's fake tensors have shapes alone. At the peak there are the
frozen weights, the trained ones, AdamW's two moments, and the larger of what the backward pass
needs of the forward pass and of all gradients. What a GPU's libraries take besides is `--reserve`.
All is in fp32: what a GPU saves besides under autocast is not known without one. The VAE's pass,
proposals and losses are not counted.

    python benchmarks/memory.py
"""

import argparse
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from unittest import mock

import torch
from measure import add_write, report
from scale import GIB, Model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tadp_d2.config.load import load_config
from tadp_d2.modeling.low_rank import train_low_rank

CONFIGS = {"detection": "voc2watercolor_simple", "segmentation": "cityscapes2darkzurich_simple"}
CARDS = (12, 16, 24, 40, 80)


# Name -> MODEL.DIFFUSION.LORA_RANK.
SETTINGS = {"all weights": 0, "LORA_RANK 16": 16}


@dataclass
class Saved:
    """Bytes of the tensors that are saved for a backward pass, each storage once.

    Attributes:
        outside: storages that do not count, those of weights.
        bytes: now.
        peak: the most so far.
    """

    outside: set[int]
    bytes: int = 0
    peak: int = 0
    holders: Counter = field(default_factory=Counter)

    def pack(self, tensor: Tensor) -> "_Kept":
        return _Kept(self, tensor)

    def change(self, storage: int, size: int, holders: int) -> None:
        before = self.holders[storage]
        self.holders[storage] += holders
        if storage not in self.outside and not (before and self.holders[storage]):
            self.bytes += size if holders > 0 else -size
            self.peak = max(self.peak, self.bytes)


class _Kept:
    """A saved tensor; it counts for as long as autograd keeps it."""

    def __init__(self, saved: Saved, tensor: Tensor):
        self.tensor = tensor
        storage = tensor.untyped_storage()
        self._change = saved.change, storage._cdata, storage.nbytes()
        saved.change(storage._cdata, storage.nbytes(), 1)

    def __del__(self):
        change, storage, size = self._change
        change(storage, size, -1)


def saved_bytes(module: nn.Module, run: Callable[[], Iterable[Tensor]]) -> int:
    """The most bytes that a forward and a backward pass save at a time, without the weights.

    Args:
        run: returns what the backward pass begins with.
    """
    weights = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}
    saved = Saved(weights)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda kept: kept.tensor):
        sum(out.float().sum() for out in run()).backward()
    return saved.peak


@dataclass(frozen=True)
class Step:
    """Bytes of a training step.

    Attributes:
        frozen, trained: of the weights.
        fixed: saved for the backward pass whatever the batch, such as merged weights.
        each: saved for an image.
    """

    frozen: int
    trained: int
    fixed: int
    each: int

    def peak(self, images: int) -> int:
        saved = self.fixed + images * self.each
        # Weights and two moments; gradients grow while what is saved shrinks.
        return self.frozen + 3 * self.trained + max(saved, self.trained)

    def fitting(self, size: float) -> int:
        """Images of a batch that fit into that many bytes."""
        images = 0
        while self.peak(images + 1) <= size:
            images += 1
        return images


def step(config: str, rank: int) -> Step:
    cfg = load_config(config, overrides=["MODEL.DEVICE", "cpu"])
    # No fingerprint: there are no weights.
    unprinted = mock.patch("tadp_d2.diffusion.unet_features.unet_fingerprint", return_value="")
    with FakeTensorMode(), unprinted:
        model = Model(cfg, "cpu")
        if rank:
            train_low_rank(model.unet, rank)
        modules = nn.ModuleList([model.fpn, model.heads]).train()
        frozen = [*model.encoder.parameters(), *model.text.parameters()]
        frozen += [p for p in modules.parameters() if not p.requires_grad]
        trained = [p for p in modules.parameters() if p.requires_grad]
        proposals = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
        one, two = (
            saved_bytes(modules, functools.partial(model.outputs, n, n * proposals)) for n in (1, 2)
        )
        return Step(_bytes(frozen), _bytes(trained), 2 * one - two, two - one)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def table(steps: Mapping[tuple[str, str], Step], reserve: float) -> list[str]:
    """Images that fit, by task, setting and card."""
    heads = " | ".join(f"{card} GiB" for card in CARDS)
    lines = [f"| task | trained | 1 image, GiB | 8 images, GiB | each further one | {heads} |"]
    lines.append("| --- " * (5 + len(CARDS)) + "|")
    for (task, name), own in steps.items():
        fits = [own.fitting((card - reserve) * GIB) for card in CARDS]
        sizes = " | ".join(f"{size / GIB:.1f}" for size in (own.peak(1), own.peak(8)))
        cells = " | ".join(str(n or "-") for n in fits)
        lines.append(f"| {task} | {name} | {sizes} | {own.each / GIB:.2f} | {cells} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reserve", type=float, default=1.0, metavar="GIB", help="default: 1")
    add_write(parser)
    args = parser.parse_args()
    steps = {
        (task, name): step(config, rank)
        for task, config in CONFIGS.items()
        for name, rank in SETTINGS.items()
    }
    lines = table(steps, args.reserve)
    command = "python benchmarks/memory.py"
    report("What a training step fits into, computed", command, "cpu", lines, args.write)


if __name__ == "__main__":
    main()
