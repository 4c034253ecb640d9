"""What a training step holds in memory, computed in Stable Diffusion 1.5's shapes, and what fits.

No weight and no image is made: torch's fake tensors have shapes alone, and its `MemTracker` adds
them up. What a GPU's libraries take besides is `--reserve`. The VAE's pass, proposals and losses
are not counted.

    python benchmarks/memory.py
"""

import argparse
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from unittest import mock

import torch
from measure import add_write, report
from scale import GIB, Model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from tadp_d2.config.load import load_config
from tadp_d2.diffusion.diffusion_model import Context
from tadp_d2.modeling.low_rank import train_low_rank

CONFIGS = {"detection": "voc2watercolor_simple", "segmentation": "cityscapes2darkzurich_simple"}
CARDS = (12, 16, 24, 40, 80)
SIDE = 512
MANY = 16


@dataclass(frozen=True)
class Setting:
    """Keys that decide on memory: `SOLVER.AMP`, `GRADIENT_CHECKPOINTING`, `LORA_RANK`."""

    name: str
    bf16: bool = False
    checkpointing: bool = False
    rank: int = 0


SETTINGS = (
    Setting("fp32"),
    Setting("bf16", bf16=True),
    Setting("bf16, checkpointing", bf16=True, checkpointing=True),
    Setting("bf16, low rank 16", bf16=True, rank=16),
    Setting("bf16, low rank 16, checkpointing", bf16=True, checkpointing=True, rank=16),
)


@dataclass(frozen=True)
class Step:
    """Peaks of a training step, bytes: of one image, of `MANY` and of twice as many.

    In between the larger of two lines holds: what is there whatever the batch (weights, gradients,
    AdamW's moments), and what grows with it.
    """

    one: int
    many: int
    twice: int

    @property
    def each(self) -> float:
        return (self.twice - self.many) / MANY

    def peak(self, images: int) -> float:
        return max(self.one, self.many + (images - MANY) * self.each)

    def fitting(self, size: float) -> int:
        """Images of a batch that fit into that many bytes."""
        images = 0
        while self.peak(images + 1) <= size:
            images += 1
        return images


def step(config: str, setting: Setting) -> Step:
    return Step(*(peak(config, setting, images) for images in (1, MANY, 2 * MANY)))


def peak(config: str, setting: Setting, images: int) -> int:
    """The most bytes of tensors at a time in two steps; the second has AdamW's moments."""
    cfg = load_config(config, overrides=["MODEL.DEVICE", "cpu"])
    # No fingerprint: there are no weights.
    unprinted = mock.patch("tadp_d2.diffusion.unet_features.unet_fingerprint", return_value="")
    with FakeTensorMode(), unprinted:
        model = Model(cfg, "cpu")
        if setting.checkpointing:
            model.unet.unet.enable_gradient_checkpointing()
        if setting.rank:
            train_low_rank(model.unet, setting.rank)
        for part in (model.encoder, model.text):
            part.requires_grad_(False)
        modules = nn.ModuleList([model.fpn, model.heads, model.encoder, model.text]).train()
        optimizer = torch.optim.AdamW(p for p in modules.parameters() if p.requires_grad)
        tracker = MemTracker()
        tracker.track_external(modules, optimizer)
        with tracker:
            for _ in range(2):
                loss = sum(out.float().sum() for out in forward_pass(model, setting, images))
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        (own,) = tracker.get_tracker_snapshot("peak").values()
        return own["Total"]


def forward_pass(model: Model, setting: Setting, images: int) -> list[Tensor]:
    """What the losses are of."""
    with torch.autocast("cpu", torch.bfloat16, enabled=setting.bf16):
        with model.fpn.bottom_up.conditioned(Context(torch.empty(images, 77, 768))):
            maps = model.fpn(torch.empty(images, 3, SIDE, SIDE))
        return model.outputs(maps, images * model.cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE)


def table(steps: Mapping[tuple[str, str], Step], reserve: float) -> list[str]:
    """Images that fit, by task, setting and card."""
    heads = " | ".join(f"{card} GiB" for card in CARDS)
    lines = [f"| task | setting | one image, GiB | each further one, GiB | {heads} |"]
    lines.append("| --- " * (4 + len(CARDS)) + "|")
    for (task, name), own in steps.items():
        fits = [own.fitting((card - reserve) * GIB) for card in CARDS]
        numbers = f"{own.one / GIB:.2f} | {own.each / GIB:.2f}"
        lines.append(f"| {task} | {name} | {numbers} | {' | '.join(str(n or '-') for n in fits)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reserve", type=float, default=1.0, metavar="GIB", help="default: 1")
    add_write(parser)
    args = parser.parse_args()
    steps = {
        (task, setting.name): step(config, setting)
        for task, config in CONFIGS.items()
        for setting in SETTINGS
    }
    command = shlex.join(["python", "benchmarks/memory.py", *sys.argv[1:]])
    lines = table(steps, args.reserve)
    report("What a training step fits into, computed", command, "cpu", lines, args.write)


if __name__ == "__main__":
    main()
