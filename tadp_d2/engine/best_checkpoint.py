"""The best checkpoint of a run by its first test set, kept beside the last, and named as such."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from tadp_d2.engine.checkpoint import RunCheckpointer
from tadp_d2.files import replacing
from tadp_d2.tasks.task import get_task

# Of the checkpoint, and of the file of its results, which is `results.json` of its iteration.
BEST, BEST_RESULTS = "model_best", "results_best.json"


def keep_best(
    cfg: CfgNode, checkpointer: RunCheckpointer, results: Mapping[str, Mapping[str, Any]]
) -> None:
    """Keeps a model with its results, if it is better than all that the run has kept.

    Better is what the headline of the task's first metric set says of the first test set. A choice
    by a test set flatters: that is why the last checkpoint's results are the run's, and these have
    a name of their own. A resumed run repeats what it had found, so that equal is not better.

    Args:
        results: of an evaluation that has just written `results.json`.
    """
    if not comm.is_main_process():
        return
    value = _headline(cfg, results)
    folder = Path(cfg.OUTPUT_DIR)
    higher = get_task(cfg).metric_sets[0].headline.higher_is_better
    before = _headline(cfg, _read(folder / BEST_RESULTS).get("metrics", {}))
    if math.isnan(value) or not (
        math.isnan(before) or (value - before) * (1 if higher else -1) > 0
    ):
        return
    checkpointer.save_model(BEST)
    content = _read(folder / "results.json") | {"checkpoint": "best", "weights": f"{BEST}.pth"}
    with replacing(folder / BEST_RESULTS) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def _headline(cfg: CfgNode, results: Mapping[str, Mapping[str, Any]]) -> float:
    """NaN where there is none."""
    found = get_task(cfg).metric_sets[0]
    metrics = results.get(cfg.DATASETS.TEST[0], {}).get(found.name, {})
    value = metrics.get(found.headline.name)
    return math.nan if value is None else float(value)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8-sig"))
    # Damaged is as good as absent: it is written anew.
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
