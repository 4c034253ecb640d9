"""Two sides of a comparison, measured in turns in one process, and the machine they ran on."""

import argparse
import datetime
import gc
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import tadp_d2

RESULTS = Path(__file__).with_name("RESULTS.md")
_PACKAGES = ("torch", "diffusers", "transformers", "detectron2")


@dataclass
class Measurement:
    """What was seen of one side.

    Attributes:
        seconds: of each repetition, as `clock` counts them.
        peak: memory above what was held before, bytes; the largest seen.
    """

    seconds: list[float] = field(default_factory=list)
    peak: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        low, high = min(self.seconds), max(self.seconds)
        return f"{self.median:.3g} s ({low:.3g} to {high:.3g})"


def in_turns(
    sides: Mapping[str, Callable[[], object]], repeats: int, device: str = "cpu"
) -> dict[str, Measurement]:
    """Runs every side once to warm up, then `repeats` times in turns."""
    now = clock(device)
    measurements = {name: Measurement() for name in sides}
    for turn in range(repeats + 1):
        for name, run in sides.items():
            gc.collect()
            before = _reset_peak(device)
            start = now()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            elapsed = now() - start
            if turn:
                measurements[name].seconds.append(elapsed)
                measurements[name].peak = max(measurements[name].peak, _peak(device) - before)
    return measurements


def clock(device: str) -> Callable[[], float]:
    """Wall time; of one thread on a CPU the processor's, which others on the machine don't change.

    It leaves out what the thread waits for: other processes, among them those that load data.
    """
    return time.process_time if _is_one_thread(device) else time.perf_counter


def _is_one_thread(device: str) -> bool:
    return device == "cpu" and torch.get_num_threads() == 1


def _reset_peak(device: str) -> int:
    """Begins to look for the peak of memory; returns what is held now, bytes."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    try:
        # Linux: the high-water mark of the resident set starts again.
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return status("VmRSS")


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else status("VmHWM")


def status(key: str) -> int:
    """What Linux says of this process's memory, bytes: "VmRSS" now, "VmHWM" the most; else 0."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def matrix_rate(device: str, dtype: torch.dtype, size: int = 2048) -> float:
    """Floating-point operations per second of the machine's matrix product; the best of five."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = min(in_turns({"": lambda: a @ b}, repeats=5, device=device)[""].seconds)
    return 2 * size**3 / seconds


def machine(device: str) -> str:
    """Hardware and versions in a line."""
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    return f"{_hardware(device)}; Python {platform.python_version()}, {versions}"


def _hardware(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    if _is_one_thread(device):
        return f"{_processor()}, 1 thread, seconds of its processor time"
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "-"


def commit() -> str:
    """The checkout's git revision, or a dash."""
    root = Path(tadp_d2.__file__).parents[1]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "-"


def add_write(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--write", action="store_true", help=f"put the table into benchmarks/{RESULTS.name}"
    )


def report(title: str, command: str, device: str, lines: list[str], write: bool) -> None:
    """Prints a section of results; in RESULTS.md it replaces an older one of this hardware."""
    date = datetime.date.today().isoformat()
    head = f"`{command}`, {date}, commit {commit()}\n\n{machine(device)}"
    section = f"## {title}\n\n{head}\n\n" + "\n".join(lines) + "\n"
    print(section)
    if write:
        replace_section(title, _hardware(device), section)


def replace_section(title: str, hardware: str, section: str) -> None:
    """Puts a section into RESULTS.md in the place of an older one of this hardware."""
    text = RESULTS.read_text("utf-8") if RESULTS.exists() else "# Results\n"
    kept = [
        part
        for part in text.split("\n## ")
        if not (part.startswith(f"{title}\n") and f"\n{hardware};" in part)
    ]
    RESULTS.write_text("\n## ".join([*kept, section.removeprefix("## ")]), "utf-8")
