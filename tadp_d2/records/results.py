"""Results as files with a history: metrics, config, versions, fingerprints, seed."""

import importlib.metadata
import json
import logging
import math
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import detectron2
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage
from tabulate import tabulate
from torch import nn

from tadp_d2 import __version__
from tadp_d2.data.catalog import entry_id, read_known
from tadp_d2.files import replacing
from tadp_d2.records.provenance import Provenance
from tadp_d2.records.result_files import FORMAT, VERSION, image_ids_fingerprint, read_metrics
from tadp_d2.tasks.metrics import MetricSet, by_name
from tadp_d2.tasks.task import get_task

_logger = logging.getLogger(__name__)


def write_results(
    cfg: CfgNode, model: nn.Module, results: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> None:
    """Writes `results.json` into the output folder.

    Args:
        results: data set -> metric set -> metric -> value; NaN (nothing to measure) becomes null.
    """
    task = get_task(cfg)
    iteration = _iteration(cfg.SOLVER.MAX_ITER)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "metrics": _plain(results),
        "task": task.name,
        "metric_sets": {found.name: found.record() for found in task.measured()},
        "datasets": {dataset: _identity(dataset) for dataset in results},
        "iteration": iteration,
        # Of a run in training the newest weights; `results_best.json` has those of the best.
        "checkpoint": "last" if iteration is not None else "given",
        "weights": cfg.MODEL.WEIGHTS,
        "seed": cfg.SEED,
        "command": shlex.join(["python", *sys.argv]),
        "versions": _versions(),
        "revision": _git_revision(),
        "provenance": Provenance(cfg, model).record,
        "config": yaml.safe_load(cfg.dump()),
    }
    with replacing(Path(cfg.OUTPUT_DIR, "results.json")) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def drop_later_lines(path: Path, iteration: int) -> None:
    """Removes from a `metrics.json` what a stopped run wrote of the iterations to be done again."""
    if path.exists():
        kept = [line for line in read_metrics(path) if line["iteration"] < iteration]
        with replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in kept))


def has_metrics(path: Path, iteration: int, datasets: Sequence[str]) -> bool:
    """Whether a `metrics.json` has metrics of one of the data sets after an iteration."""
    keys = {key for line in read_metrics(path) if line["iteration"] == iteration for key in line}
    return any(key.startswith(f"{dataset}/") for key in keys for dataset in datasets)


def log_table(
    results: Mapping[str, Mapping[str, Mapping[str, float]]], metric_sets: Sequence[MetricSet]
) -> None:
    """Logs a table with a column per data set and metric set: the means, then each class."""
    known = by_name(metric_sets)
    columns = {
        f"{dataset} {name}": _short(metrics, known.get(name))
        for dataset, sets in results.items()
        for name, metrics in sets.items()
    }
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = [[name, *(column.get(name) for column in columns.values())] for name in names]
    table = tabulate(
        rows,
        headers=["", *columns],
        tablefmt="pipe",
        missingval="-",
        disable_numparse=True,
        colalign=("left", *("right" for _ in columns)),
    )
    of_class = dict.fromkeys(found.of_class for found in metric_sets if found.of_class)
    told = f" (classes: {' or '.join(of_class)})" if of_class else ""
    _logger.info(f"Results{told}:\n{table}")


def _short(metrics: Mapping[str, float], metric_set: MetricSet | None) -> dict[str, str | None]:
    """What the log's table shows; results.json has all."""
    of_class = metric_set.of_class if metric_set else ""
    decimals = {metric.name: metric.decimals for metric in metric_set.means} if metric_set else {}
    # Of one class and one size of objects the names have a dash; means have none.
    shown = {name: value for name, value in metrics.items() if "-" not in name}
    if of_class:
        shown |= {
            name.removeprefix(f"{of_class}-"): value
            for name, value in metrics.items()
            if name.startswith(f"{of_class}-")
        }
    return {
        name: None if math.isnan(value) else f"{value:.{decimals.get(name, 1)}f}"
        for name, value in shown.items()
    }


def _identity(dataset: str) -> dict[str, Any]:
    """What distinguishes a data set from another that is registered under the same name."""
    ids = [entry_id(entry) for entry in read_known(dataset)]
    return {"images": len(ids), "image_ids": image_ids_fingerprint(ids)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return None if math.isnan(value) else float(value)


def _iteration(last: int) -> int | None:
    """The number of iterations done, None outside of training."""
    try:
        # Within an iteration the storage counts the finished ones only; after the last, all.
        return min(get_event_storage().iter + 1, last)
    except AssertionError:
        return None


def _versions() -> dict[str, str]:
    packages = ("diffusers", "transformers", "torchvision", "numpy", "pillow")
    return {
        "tadp_d2": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "detectron2": detectron2.__version__,
        **{name: importlib.metadata.version(name) for name in packages},
    }


def _git_revision() -> str | None:
    """Commit of the source tree, "+changes" behind it where files differ; None without git."""
    source = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
