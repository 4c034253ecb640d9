"""What a run on a GPU has found so far: one JSON file that is whole after every measurement.

It also holds the guards of a measurement: a time limit, and an error that is written down instead
of ending the run.
"""

import contextlib
import gc
import json
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tadp_d2.files import replacing

# Of a traceback, characters that are kept: its end says what happened.
_TRACEBACK = 4000


class OutOfTime(BaseException):
    """A measurement took longer than it may. No Exception, so that no library catches it."""


class Clock:
    """Seconds that are left of a budget."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._end - time.monotonic()

    def part(self, seconds: float) -> "Clock":
        """A budget within this one."""
        return Clock(min(seconds, self.left))


class Record:
    """The cells of all sections, and how long each section took."""

    def __init__(self, path: Path, head: dict[str, Any]):
        self._path = path
        self.data: dict[str, Any] = {**head, "sections": {}, "cells": []}
        self.write()

    def write(self) -> None:
        with replacing(self._path) as temporary:
            temporary.write_text(json.dumps(self.data, indent=1) + "\n", "utf-8")

    def add(self, cell: dict[str, Any]) -> None:
        self.data["cells"].append(cell)
        self.write()
        names = " ".join(str(v) for k, v in cell.items() if k in _NAMES)
        print(f"  {names}: {_short(cell)}", flush=True)

    @contextlib.contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Writes down the block's seconds, and its error if it has one."""
        print(f"== {name}", flush=True)
        start, found = time.monotonic(), self.data["sections"].setdefault(name, {})
        try:
            yield
        except (Exception, SystemExit, OutOfTime) as error:
            found["error"] = _describe(error)
            print(found["error"], flush=True)
        found["seconds"] = round(time.monotonic() - start, 1)
        self.write()
        free()

    def cell(
        self, clock: Clock, names: dict[str, Any], run: Callable[[], dict], cap: float = 60
    ) -> dict[str, Any] | None:
        """Runs one measurement and writes down what it returns, or why there is nothing.

        Args:
            names: what is measured, such as section, side and precision.
            cap: seconds after which it is given up.

        Returns:
            What `run` returned; None if it was left out or failed.
        """
        if clock.left <= 0:
            self.add({**names, "skipped": "no time left"})
            return None
        found, problem = None, {}
        try:
            with time_limit(min(cap, clock.left + 10)):
                found = run()
        except torch.OutOfMemoryError as error:
            problem = {"error": "out of memory", "message": str(error)[:300]}
        except (Exception, SystemExit, OutOfTime) as error:
            problem = {"error": _describe(error)}
        # Here, where no traceback holds tensors any more.
        free()
        self.add({**names, **(found or problem)})
        return found


_NAMES = ("section", "what", "task", "side", "precision", "batch", "option")


def _short(cell: dict[str, Any]) -> str:
    if "error" in cell:
        return cell["error"].strip().splitlines()[-1][:200]
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in cell.items()
        if key not in _NAMES and isinstance(value, (int, float, str)) and len(str(value)) < 100
    )


def _describe(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))
    return text[-_TRACEBACK:]


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """
    Raises:
        OutOfTime: the block takes longer; raised between two steps of Python.
    """

    def stop(*_: Any) -> None:
        raise OutOfTime(f"given up after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def free() -> None:
    """Gives memory back that nothing uses."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def timed(
    run: Callable[[], object],
    device: str,
    seconds: float = 2.0,
    warm: int = 2,
    calls: int = 1,
    least: int = 3,
) -> dict[str, Any]:
    """Times a call again and again.

    Args:
        seconds: about as long, after the warm-up; `least` to 30 repetitions.
        warm: calls before.
        calls: in a row for one repetition, so that the device need not wait for the clock.

    Returns:
        "seconds" (median of a call), "fastest" and "slowest", "first" (the first call of all, with
        what it compiles), "repeats", and of a GPU "peak_mib", all memory that was allocated.
    """
    start = time.perf_counter()
    run()
    synchronize(device)
    first = time.perf_counter() - start
    for _ in range(warm - 1):
        run()
    synchronize(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    measured: list[float] = []
    begin = time.perf_counter()
    while len(measured) < least or (len(measured) < 30 and time.perf_counter() - begin < seconds):
        start = time.perf_counter()
        for _ in range(calls):
            run()
        synchronize(device)
        measured.append((time.perf_counter() - start) / calls)
    found = {
        "seconds": statistics.median(measured),
        "fastest": min(measured),
        "slowest": max(measured),
        "first": first,
        "repeats": len(measured),
    }
    if device == "cuda":
        found["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return found
