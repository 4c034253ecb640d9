"""What a training step holds in memory, computed in Stable Diffusion 1.5's shapes, and what fits.

No weight and no image is made: torch's fake tensors have shapes alone, and the types that a GPU
gives them, whose rules of autocast torch applies without one. At the peak there are the frozen
weights, the trained ones, AdamW's two moments, and the larger of what the backward pass needs of
the forward pass (in bf16 also the weights' copies) and of all gradients. What a GPU's libraries
take besides is `--reserve`. The VAE's pass, proposals and losses are not counted.

    python benchmarks/memory.py
"""

import argparse
import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from unittest import mock

import torch
from measure import add_write, report
from scale import GIB, Model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from tadp_d2.config.load import load_config
from tadp_d2.modeling.low_rank import train_low_rank

CONFIGS = {"detection": "voc2watercolor_simple", "segmentation": "cityscapes2darkzurich_simple"}
CARDS = (12, 16, 24, 40, 80)


GPUS = 8


@dataclass(frozen=True)
class Setting:
    """What is trained, and how.

    Attributes:
        rank: MODEL.DIFFUSION.LORA_RANK.
        moments: bytes of AdamW's two moments for each weight, in each process.
        exchanged: whether there are several processes: torch copies gradients to exchange them.
        precisions: of the forward pass, for which it is counted.
    """

    rank: int = 0
    moments: float = 8
    exchanged: bool = False
    precisions: tuple[str, ...] = ("bf16",)


SETTINGS = {
    "all weights": Setting(precisions=("fp32", "bf16")),
    "ADAM_8BIT": Setting(moments=2),
    "LORA_RANK 16": Setting(rank=16, precisions=("fp32", "bf16")),
    f"all weights, {GPUS} GPUs": Setting(exchanged=True),
    f"SHARD_OPTIMIZER, {GPUS} GPUs": Setting(moments=8 / GPUS, exchanged=True),
}


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
    """The bytes that a forward pass saves for the backward pass, without the weights."""
    weights = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}
    saved = Saved(weights)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda kept: kept.tensor):
        outputs = run()  # which keep what is saved
    del outputs
    return saved.peak


@contextlib.contextmanager
def passes(precision: str) -> Iterator[None]:
    """In which passes of fake tensors are those of a GPU, in "fp32" or under autocast in "bf16"."""
    torch.set_autocast_enabled("cuda", precision == "bf16")
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        with mock.patch.object(F, "scaled_dot_product_attention", _fused_attention):
            yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()


class _Fused(torch.autograd.Function):
    """What fused attention saves: its inputs, its output and a number in fp32 for each query."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums)
        return out


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Tensor:
    """Without a GPU torch has no kernel for it and would count one that saves all products."""
    inputs = (query, key, value)
    if torch.is_autocast_enabled("cuda"):
        inputs = [tensor.to(torch.get_autocast_dtype("cuda")) for tensor in inputs]
    return _Fused.apply(*inputs)


@dataclass(frozen=True)
class Step:
    """Bytes of a training step.

    Attributes:
        frozen, trained: of the weights.
        optimizer: AdamW's moments, and the gradients' copies of several processes.
        fixed: saved for the backward pass whatever the batch, such as merged weights.
        each: saved for an image.
    """

    frozen: int
    trained: int
    optimizer: int
    fixed: int
    each: int

    def peak(self, images: int) -> int:
        saved = self.fixed + images * self.each
        # Gradients grow while what is saved shrinks.
        return self.frozen + self.trained + self.optimizer + max(saved, self.trained)

    def fitting(self, size: float) -> int:
        """Images of a batch that fit into that many bytes."""
        images = 0
        while self.peak(images + 1) <= size:
            images += 1
        return images


def step(config: str, setting: Setting, precision: str) -> Step:
    cfg = load_config(config, overrides=["MODEL.DEVICE", "cpu"])
    # No fingerprint: there are no weights.
    unprinted = mock.patch("tadp_d2.diffusion.unet_features.unet_fingerprint", return_value="")
    with FakeTensorMode(), unprinted:
        model = Model(cfg, "cuda")
        if setting.rank:
            train_low_rank(model.unet, setting.rank)
        modules = nn.ModuleList([model.fpn, model.heads]).train()
        frozen = [*model.encoder.parameters(), *model.text.parameters()]
        frozen += [p for p in modules.parameters() if not p.requires_grad]
        trained = [p for p in modules.parameters() if p.requires_grad]
        proposals = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
        saved = []
        for images in (1, 2):
            with passes(precision):
                run = functools.partial(model.outputs, images, images * proposals)
                saved.append(saved_bytes(modules, run))
        one, two = saved
        optimizer = round(setting.moments * sum(p.numel() for p in trained))
        optimizer += _bytes(trained) if setting.exchanged else 0
        return Step(_bytes(frozen), _bytes(trained), optimizer, 2 * one - two, two - one)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def table(steps: Mapping[tuple[str, str, str], Step], reserve: float) -> list[str]:
    """Images that fit, by task, setting, precision and card."""
    heads = " | ".join(f"{card} GiB" for card in CARDS)
    lines = [
        "| task | trained | precision | 1 image, GiB | 8 images, GiB | each further one | "
        f"{heads} |"
    ]
    lines.append("| --- " * (6 + len(CARDS)) + "|")
    for (task, name, precision), own in steps.items():
        fits = [own.fitting((card - reserve) * GIB) for card in CARDS]
        sizes = " | ".join(f"{size / GIB:.1f}" for size in (own.peak(1), own.peak(8)))
        cells = " | ".join(str(n or "-") for n in fits)
        lines.append(
            f"| {task} | {name} | {precision} | {sizes} | {own.each / GIB:.2f} | {cells} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reserve", type=float, default=1.0, metavar="GIB", help="default: 1")
    add_write(parser)
    args = parser.parse_args()
    steps = {
        (task, name, precision): step(config, setting, precision)
        for task, config in CONFIGS.items()
        for name, setting in SETTINGS.items()
        for precision in setting.precisions
    }
    lines = table(steps, args.reserve)
    command = "python benchmarks/memory.py"
    report("What a training step fits into, computed", command, "cpu", lines, args.write)


if __name__ == "__main__":
    main()
