"""Runs and their results, from the files that they left. Comparing them is not done here."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tadp_d2.conditioning.domains import DOMAINS, Modifier, get_modifier
from tadp_d2.config.keys import ADDED, flatten, is_setting
from tadp_d2.errors import UserError
from tadp_d2.records.result_files import read_results
from tadp_d2.reports.published import Benchmark, find_benchmark
from tadp_d2.tasks.metrics import KNOWN, MetricSet, by_name, read_metric_set

# Metric set -> metric -> value in 0..100; None where there was nothing to measure.
Metrics = Mapping[str, Mapping[str, float | None]]

# Result files of earlier versions lack the keys that were added since.
_DEFAULTS = {
    key.name: list(key.default) if isinstance(key.default, tuple) else key.default for key in ADDED
}


# What files of earlier versions do not state of the base model.
_STATED_SINCE = {
    "tokenizer": "tokenizer",
    "options of the UNet": "unet_options",
    "options of the VAE": "vae_options",
    "options of the text encoder": "text_options",
}


@dataclass(frozen=True)
class Run:
    """What a run records of itself.

    Attributes:
        folder: of its files, as it was given.
        record: its `results.json`.
        modifier: the caption modifier in testing.
        seed: of the run.
        iterations: how many it was trained for; of an evaluation, as in its checkpoint's name,
            None where it does not.
        results: what it reached, by data set.
        metric_sets: what its numbers are, by name.
    """

    folder: Path
    record: Mapping[str, Any]
    modifier: Modifier
    seed: int
    iterations: int | None
    results: Mapping[str, "Result"]
    metric_sets: Mapping[str, MetricSet]


@dataclass(frozen=True)
class Result:
    """What a run reached on one data set.

    Attributes:
        metrics: its numbers.
        images: number of images; None in the files of earlier versions.
        benchmark: the paper's data set, if it is that: the name, the number of images and, where
            they are known, their ids agree.
        setting: what must be equal for results to be compared, by name.
    """

    metrics: Metrics
    images: int | None
    benchmark: Benchmark | None
    setting: Mapping[str, Any]


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """Reads the result files of runs.

    Args:
        paths: `results.json` files, folders that hold one, or folders of such folders. Into the
            folders of a run, as that of an evaluation, nobody looks; they can be named.

    Raises:
        UserError: there is no result file, or it is damaged.
    """
    files = [file for path in paths for file in _result_files(path)]
    return [read_run(file) for file in {file.resolve(): file for file in files}.values()]


def _result_files(path: Path) -> list[Path]:
    found = [path] if path.is_file() else _below(path)
    if not found:
        raise UserError(
            f"{path}: no results.json there; expected the output folder of a run of tadp-d2 train, "
            "or a folder of such folders"
        )
    return found


def _below(folder: Path) -> list[Path]:
    own = folder / "results.json"
    if own.is_file():
        return [own]
    folders = sorted(folder.iterdir()) if folder.is_dir() else []
    return [file for entry in folders if entry.is_dir() for file in _below(entry)]


def read_run(file: Path) -> Run:
    """Reads a `results.json`.

    Raises:
        UserError: names the file and what is wrong in it.
    """
    record = read_results(file)
    domain = _get(file, record, "config.TEXT.DOMAIN", str)
    value = _get(file, record, "config.TEXT.MODIFIER", str, type(None))
    try:
        modifier = get_modifier(domain, value)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    iterations = _iterations(file, record)
    common = _setting(file, record, modifier) | {"iterations": iterations}
    results = {
        dataset: _result(file, record, dataset, common)
        # Empty without labels.
        for dataset, metrics in _get(file, record, "metrics", dict).items()
        if metrics
    }
    for place in ("versions", "provenance.caption_files"):
        _get(file, record, place, dict)
    seed = _get(file, record, "seed", int)
    metric_sets = _metric_sets(file, record)
    return Run(file.parent, record, _known(modifier), seed, iterations, results, metric_sets)


def _metric_sets(file: Path, record: Mapping[str, Any]) -> dict[str, MetricSet]:
    """As the file describes them; files of earlier versions have only known ones."""
    if "metric_sets" not in record:
        return by_name(KNOWN)
    described = _get(file, record, "metric_sets", dict)
    try:
        return {name: read_metric_set(name, own) for name, own in described.items()}
    except (KeyError, TypeError) as error:
        raise UserError(f"{file}: damaged: metric_sets ({error!r})") from None


def _known(modifier: Modifier) -> Modifier:
    """The modifier of the tables whose words a template repeats, if it needs nothing else."""
    known = {
        m.template: m
        for domain in DOMAINS.values()
        for m in domain.modifiers.values()
        if not m.needs
    }
    return known.get(modifier.template, modifier)


def _iterations(file: Path, record: Mapping[str, Any]) -> int | None:
    done = _get(file, record, "iteration", int, type(None))
    if done is not None:
        return done
    name = Path(_get(file, record, "weights", str)).stem
    if name == "model_final":
        return _get(file, record, "config.SOLVER.MAX_ITER", int)
    number = name.removeprefix("model_")
    return int(number) + 1 if number.isdecimal() else None


def _setting(file: Path, record: Mapping[str, Any], modifier: Modifier) -> dict[str, Any]:
    """What a run's results on all data sets share, besides the modifier and what it needs."""
    config = _DEFAULTS | flatten(_get(file, record, "config", dict))
    captions = _get(file, record, "provenance.captions", dict)
    unet = {}
    # One that no modifier asks for, as a random one.
    if config.get("MODEL.DIFFUSION.UNET") and modifier.needs != "unet":
        unet = {"UNet": _get(file, record, "provenance.unet", str)}
    return {
        **{key: value for key, value in config.items() if is_setting(key)},
        **unet,
        **_base(file, record),
        **{name: _stated(record, key) for name, key in _STATED_SINCE.items()},
        **{
            f"captions of {dataset}": captions.get(str(dataset))
            for dataset in _get(file, record, "config.DATASETS.TRAIN", list)
        },
    }


def _base(file: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """What a run begins with: a diffusion model's frozen parts, or an image encoder."""
    if "backbone" in record["provenance"]:
        return {
            "backbone": _get(file, record, "provenance.backbone", str),
            "options of the backbone": _stated(record, "backbone_options"),
        }
    return {
        "VAE": _get(file, record, "provenance.vae", str),
        "text encoder": _get(file, record, "provenance.text_encoder", str),
    }


def _stated(record: Mapping[str, Any], key: str) -> str | None:
    """A fingerprint in the provenance, or that of what stands there."""
    value = record["provenance"].get(key)
    if value is None or isinstance(value, str):
        return value
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _result(file: Path, record: Mapping[str, Any], dataset: str, common: dict) -> Result:
    metrics = record["metrics"][dataset]
    sets = metrics.values() if isinstance(metrics, dict) else [metrics]
    if not all(isinstance(s, dict) and all(map(_is_value, s.values())) for s in sets):
        raise UserError(f"{file}: damaged: expected metric sets of numbers at metrics.{dataset}")
    images, image_ids = None, None
    # Files of earlier versions record nothing of the data.
    if "datasets" in record:
        images = _get(file, record, f"datasets.{dataset}.images", int, type(None))
        image_ids = _get(file, record, f"datasets.{dataset}.image_ids", str, type(None))
    benchmark = find_benchmark(dataset)
    if benchmark and (images, image_ids) != (benchmark.images, benchmark.image_ids or image_ids):
        benchmark = None
    captions = _get(file, record, "provenance.captions", dict).get(dataset)
    own = {f"captions of {dataset}": captions, f"images of {dataset}": image_ids}
    return Result(metrics, images, benchmark, common | own)


def _is_value(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


_IN_JSON = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    type(None): "null",
}


def _get(file: Path, record: Mapping[str, Any], place: str, *types: type) -> Any:
    """The value at a place such as "config.SOLVER.MAX_ITER".

    Raises:
        UserError: there is none of these types.
    """
    value: Any = record
    for key in place.split("."):
        value = value.get(key, ...) if isinstance(value, dict) else ...
    if not isinstance(value, types):
        expected = " or ".join(_IN_JSON[t] for t in types)
        raise UserError(f"{file}: damaged: expected {expected} at {place}")
    return value
