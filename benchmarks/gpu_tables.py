"""The tables of RESULTS.md from what `gpu_check.py` has written; a number not run is a dash."""

from collections.abc import Iterable, Sequence
from typing import Any

from measure import replace_section

Cell = dict[str, Any]
_PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
# Values of `MODEL.DIFFUSION.COMPILE` with a batch.
_OPTIONS = (
    *(("eager", 2), ("graphs", 2), ("blocks", 2), ("blocks+graphs", 2)),
    *(("eager", 8), ("graphs", 8)),
)


def report(runs: Sequence[dict[str, Any]], write: bool) -> None:
    """Prints the tables of runs on one machine; puts them into RESULTS.md if asked to.

    Args:
        runs: what each has written; of what was measured twice, the last measurement counts.
    """
    size, device, machine = (_one(runs, key) for key in ("size", "device", "machine"))
    title = (
        f"All on one GPU, {size}" if device == "cuda" else f"All of a GPU's run, {device}, {size}"
    )
    heads = [f"`{run['command']}`, {run['date']}, commit {run['commit']}" for run in runs]
    cells = [cell for run in runs for cell in run["cells"]]
    section = "\n".join([f"## {title}", "", *heads, "", machine, "", *tables(cells)])
    print(section)
    if write:
        replace_section(title, machine.split(";")[0], section)


def _one(runs: Sequence[dict[str, Any]], key: str) -> str:
    """What all runs have in common.

    Raises:
        SystemExit: they have not.
    """
    values = {run[key] for run in runs}
    if len(values) != 1:
        raise SystemExit(f"runs that differ in their {key}: {', '.join(sorted(values))}")
    return values.pop()


def tables(cells: Sequence[Cell]) -> list[str]:
    """The lines of all tables, those without a measurement included."""
    # An eager step is a step like the others.
    eager = [cell for cell in cells if cell.get("option") == "eager"]
    eager = [cell for cell in eager if cell["section"] == "compiling"]
    cells = [*({**cell, "section": "steps", "side": "tadp_d2"} for cell in eager), *cells]
    return [
        *_matrix(cells),
        *_features(cells),
        *_steps(cells),
        *_busy(cells),
        *_compiled(cells),
        *_less_memory(cells),
        *_rates(cells),
        *_tests(cells),
    ]


def _find(cells: Iterable[Cell], **names: Any) -> Cell:
    """The last cell of these names that holds a measurement; empty if there is none."""
    found = [c for c in cells if all(c.get(k) == v for k, v in names.items())]
    measured = [c for c in found if "error" not in c and "skipped" not in c]
    return measured[-1] if measured else {}


def _number(value: float | None, form: str = ".3g") -> str:
    return "-" if value is None or value != value else format(value, form)


def _ratio(first: Cell, second: Cell) -> str:
    if not (first.get("seconds") and second.get("seconds")):
        return "-"
    return _number(first["seconds"] / second["seconds"])


def _milliseconds(cell: Cell) -> str:
    return _number(1000 * cell["seconds"]) if "seconds" in cell else "-"


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(columns)} |", "| " + " | ".join(["---"] * len(columns)) + " |"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return [f"{title}:", "", *lines, ""]


def _batches(cells: Iterable[Cell]) -> list[int]:
    return sorted({1, 2, 8} | {cell["batch"] for cell in cells if "batch" in cell})


def _matrix(cells: Sequence[Cell]) -> list[str]:
    rows = [
        [p, _number(_find(cells, section="matrix", precision=p).get("tflops"))] for p in _PRECISIONS
    ]
    copy = _find(cells, section="matrix", what="copy").get("gb_per_second")
    lines = _table("Matrix products of the device", ["precision", "TFLOP/s"], rows)
    return [*lines, f"A copy in its memory moves {_number(copy)} GB/s, read and written.", ""]


def _features(cells: Sequence[Cell]) -> list[str]:
    own = [cell for cell in cells if cell["section"] == "features"]
    rows = []
    for what in ("forward", "forward_backward"):
        for precision in _PRECISIONS:
            for batch in _batches(own):
                names = {"what": what, "precision": precision, "batch": batch}
                first = _find(own, side="reference", **names)
                second = _find(own, side="tadp_d2", **names)
                share = second.get("share_of_matrix_rate")
                rows.append(
                    [
                        *(what, precision, str(batch)),
                        *(_milliseconds(first), _milliseconds(second), _ratio(first, second)),
                        *(_number(c.get("peak_mib"), ".0f") for c in (first, second)),
                        _number(share, ".0%"),
                    ]
                )
    columns = ["features", "precision", "batch", "reference, ms", "tadp_d2, ms", "times as fast"]
    columns += ["reference, MiB", "tadp_d2, MiB", "share of the matrix rate"]
    rounding = ", ".join(
        f"{p} {_number(_find(own, what='rounding', precision=p).get('difference'), '.1e')}"
        for p in _PRECISIONS[1:]
    )
    agree = _number(_find(own, what="disagreement").get("difference"), ".1e")
    text = (
        f"Both sides agree to {agree} in fp32. Rounding moves features by (relative): {rounding}."
    )
    return [*_table("Features of the UNet", columns, rows), text, ""]


def _steps(cells: Sequence[Cell]) -> list[str]:
    own = [cell for cell in cells if cell["section"] == "steps"]
    lines = []
    for task in ("detection", "segmentation"):
        rows = []
        of_task = [cell for cell in own if cell["task"] == task]
        for precision in _PRECISIONS:
            for batch in _batches(of_task):
                names = {"precision": precision, "batch": batch}
                first = _find(of_task, side="reference", **names)
                second = _find(of_task, side="tadp_d2", **names)
                full = _find(of_task, side="reference", precision="fp32", batch=batch)
                rows.append(
                    [
                        *(precision, str(batch), _milliseconds(first), _milliseconds(second)),
                        *(_ratio(first, second), _ratio(full, second)),
                        _number(second.get("images_per_second")),
                        *(_number(c.get("peak_mib"), ".0f") for c in (first, second)),
                    ]
                )
        columns = ["precision", "batch", "reference, ms", "tadp_d2, ms", "times as fast"]
        columns += ["times as fast as the reference's fp32", "images per second"]
        columns += ["reference, MiB", "tadp_d2, MiB"]
        lines += _table(f"A whole training step of {task}", columns, rows)
    return lines


def _busy(cells: Sequence[Cell]) -> list[str]:
    rows = []
    for task in ("detection", "segmentation"):
        cell = _find(cells, section="busy", task=task, option="eager", batch=2)
        row = [task, _milliseconds(cell), _number(cell.get("busy_share"), ".0%")]
        rows.append([*row, _number(cell.get("kernels_per_step"), ".0f")])
    columns = ["step, bf16, batch of 2", "ms", "device busy", "kernels"]
    return _table("How much of a step the device computes", columns, rows)


def _compiled(cells: Sequence[Cell]) -> list[str]:
    own = [cell for cell in cells if cell["section"] == "compiling"]
    rows = []
    for task in ("detection", "segmentation"):
        references = {
            precision: {"section": "steps", "task": task, "side": "reference"}
            | {"precision": precision, "batch": 2}
            for precision in ("bf16", "fp32")
        }
        first, full = (_find(cells, **names) for names in references.values())
        for option, batch in _OPTIONS:
            eager, cell = (
                _find(own, task=task, option=name, batch=batch) for name in ("eager", option)
            )
            busy = _find(cells, section="busy", task=task, option=option, batch=batch)
            sides = [_ratio(side, cell) if batch == 2 else "-" for side in (first, full)]
            rows.append(
                [
                    *(task, option, str(batch), _milliseconds(cell), _ratio(eager, cell), *sides),
                    _number(busy.get("busy_share"), ".0%"),
                    _number(busy.get("kernels_per_step"), ".0f"),
                    *(_number(cell.get(k), ".1e") for k in ("difference", "gradient_difference")),
                    _number(cell.get("until_ready")),
                    _number(cell.get("peak_mib"), ".0f"),
                ]
            )
    columns = ["step in bf16", "`COMPILE`", "batch", "ms", "times as fast as eager"]
    columns += ["as the reference in bf16", "in fp32", "device busy", "kernels"]
    columns += ["features move by", "gradients", "seconds until ready", "MiB"]
    return _table("Against waiting for Python", columns, rows)


def _less_memory(cells: Sequence[Cell]) -> list[str]:
    rows = []
    for task in ("detection", "segmentation"):
        own = [c for c in cells if c["section"] == "memory" and c["task"] == task]
        steps = [c for c in cells if c["section"] == "steps" and c["task"] == task]
        for option in ("all weights", "ADAM_8BIT", "LORA_RANK 16"):
            for batch in (1, 8):
                names = {"precision": "bf16", "batch": batch}
                of_all = _find(steps, side="tadp_d2", **names)
                cell = of_all if option == "all weights" else _find(own, option=option, **names)
                peak = _number(cell.get("peak_mib"), ".0f")
                rows.append([task, option, str(batch), _milliseconds(cell), peak])
    columns = ["step in bf16", "trained", "batch", "ms", "MiB"]
    return _table("Training in less memory", columns, rows)


def _rates(cells: Sequence[Cell]) -> list[str]:
    rows = []
    for task in ("detection", "segmentation"):
        own = [c for c in cells if c["section"] == "evaluation" and c["task"] == task]
        for side in dict.fromkeys(cell["side"] for cell in own):
            rate = _find(own, side=side).get("images_per_second")
            rows.append([f"evaluation of {task}", side, _number(rate), "images"])
    for what in ("invert", "dreambooth"):
        for precision in ("fp32", "tf32", "bf16"):
            cell = _find(cells, section="personalization", what=what, precision=precision)
            rows.append([what, precision, _number(cell.get("steps_per_second")), "steps"])
    captions = [c for c in cells if c["section"] == "captioning" and "batch" in c]
    for batch in dict.fromkeys(cell["batch"] for cell in captions):
        cell = _find(captions, batch=batch)
        side = f"{cell.get('precision', '-')}, batch of {batch}"
        rows.append(["captioning", side, _number(cell.get("images_per_second")), "images"])
    columns = ["what", "how", "per second", "of"]
    return _table("Evaluation, personalization and captioning", columns, rows)


def _tests(cells: Sequence[Cell]) -> list[str]:
    found = [cell for cell in cells if cell["section"] in ("tests", "suite")]
    rows = [[cell["what"], str(cell.get("code", "-")), cell.get("result", "-")] for cell in found]
    return _table("Tests", ["which", "exit code", "result"], rows or [["-"] * 3])
