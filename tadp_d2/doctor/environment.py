"""The machine and what is installed on it."""

import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from detectron2.config import CfgNode
from torch import nn

from tadp_d2.data.batches import SHARED_MEMORY, SHARED_MEMORY_ADVICE
from tadp_d2.doctor.findings import Finding, Kind
from tadp_d2.errors import reason
from tadp_d2.tasks.task import get_task

_FP32 = 4  # bytes of a weight, and of its gradient
_GIB = 2**30
# Batches that torch lets a loading worker make ahead.
_PREFETCHED = 2
# Linux has it; other systems do not report how much memory programs can have.
_MEMORY = Path("/proc/meminfo")


def check_environment() -> Iterator[Finding]:
    """Versions, where Detectron2 comes from, the device and its memory."""
    yield Finding(Kind.GOOD, f"Python {platform.python_version()}, {_versions()}")
    yield _detectron2()
    if not torch.cuda.is_available():
        yield Finding(Kind.NOTE, "no GPU: all is computed on the CPU; fit for tiny models only")
    for index in range(torch.cuda.device_count()):
        name, memory = torch.cuda.get_device_name(index), torch.cuda.mem_get_info(index)
        yield Finding(Kind.GOOD, f"cuda:{index} {name}, {_of(*memory)} free")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = _free_memory()
    memory = f"{total / _GIB:.1f} GiB" if free is None else f"{_of(free, total)} free"
    yield Finding(Kind.GOOD, f"memory: {memory}; {os.cpu_count()} cores")


def _free_memory() -> int | None:
    """Bytes, with those of the page cache, which gives way; None if the system reports none."""
    try:
        available = re.search(r"^MemAvailable: +(\d+) kB", _MEMORY.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(available[1]) * 1024 if available else None


def _versions() -> str:
    packages = ("torch", "torchvision", "diffusers", "transformers", "numpy", "pillow")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


def _detectron2() -> Finding:
    import detectron2

    try:
        from detectron2 import _C

        kind = "compiled" if hasattr(_C, "nms_rotated") else "pure Python, which is enough"
    except ImportError as error:
        kind = f"without its compiled part ({reason(error)}), which is not needed"
    folder = Path(detectron2.__file__).parent
    try:
        version = importlib.metadata.version("detectron2")  # more exact than its own
    except importlib.metadata.PackageNotFoundError:
        version = detectron2.__version__
    return Finding(Kind.GOOD, f"Detectron2 {version} in {folder}, {kind}")


def check_room(cfg: CfgNode, model: nn.Module) -> Iterator[Finding]:
    """What training the model needs of memory and disk, besides activations."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters()) - trained
    moments = 2 * (1 if cfg.SOLVER.ADAM_8BIT else _FP32)
    needed = trained * (2 * _FP32 + moments) + frozen * _FP32
    yield Finding(
        Kind.GOOD,
        f"{trained / 1e6:.1f} million trained weights: training takes {_gib(needed)} of "
        f"{cfg.MODEL.DEVICE} memory and more for activations",
    )
    yield from _check_shared_memory(cfg)
    folder = Path(cfg.OUTPUT_DIR).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    # One more while the newest is written, and the final one; gradients are in none.
    needed = trained * (_FP32 + moments) * (cfg.SOLVER.CHECKPOINTS_KEPT + 2)
    free = shutil.disk_usage(existing).free
    text = f"disk: {_gib(free)} free at {existing}, checkpoints take up to {_gib(needed)}"
    if free >= needed:
        yield Finding(Kind.GOOD, text)
    else:
        advice = "make room, choose another OUTPUT_DIR, or lower SOLVER.CHECKPOINTS_KEPT"
        yield Finding(Kind.PROBLEM, f"{text}: {advice}")


def _check_shared_memory(cfg: CfgNode) -> Iterator[Finding]:
    """What loading workers need to hand over their batches."""
    workers = cfg.DATALOADER.NUM_WORKERS
    if not workers or not SHARED_MEMORY.is_dir():
        return
    fixed = cfg.INPUT.RESIZE == "fixed"
    width, height = cfg.INPUT.FIXED_SIZE_TRAIN if fixed else [cfg.INPUT.MAX_SIZE_TRAIN] * 2
    # An image of bytes; classes of pixels are numbers of 8 bytes.
    per_pixel = 3 if get_task(cfg).needs == "instances" else 3 + 8
    batches = _PREFETCHED * workers + 1
    needed = batches * cfg.SOLVER.IMS_PER_BATCH * width * height * per_pixel
    free = shutil.disk_usage(SHARED_MEMORY).free
    text = (
        f"shared memory: {free >> 20} MiB free at {SHARED_MEMORY}, loading workers take up to "
        f"{-(-needed >> 20)} MiB"
    )
    if free >= needed:
        yield Finding(Kind.GOOD, text)
    else:
        yield Finding(Kind.PROBLEM, f"{text}: {SHARED_MEMORY_ADVICE}")


def _of(part: int, whole: int) -> str:
    return f"{part / _GIB:.1f} of {whole / _GIB:.1f} GiB"


def _gib(size: int) -> str:
    return f"{size / _GIB:.2g} GiB" if size < 10 * _GIB else f"{size / _GIB:.0f} GiB"
