"""What is text worth for depth? Trains on the synthetic rooms by day under four conditions.

Each model is tested by day, by night and on watercolors, under the condition of its training.
"""

import functools
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng

from tadp_d2.config.load import load_config
from tadp_d2.config.shipped import config_folder
from tadp_d2.data.texts import find_caption_file, read_captions, write_captions
from tadp_d2.engine.trainer import Trainer
from tadp_d2.records.result_files import read_results
from tadp_d2.reports.formats import markdown
from tadp_d2.reports.spread import spread
from tadp_d2.reports.tables import DASH, Cell, Row, Table, mean_cell
from tadp_d2.study.identity import identity
from tadp_d2.study.jobs import Job
from tadp_d2.synthetic.data_folder import MODEL_FOLDER
from tadp_d2.synthetic.sentences import plural

_TRAINED_ON = "nyu_depth_v2_train"
# Data set -> what it shows.
TESTED_ON = {
    "nyu_depth_v2_test": "day",
    "rooms_night_test": "night",
    "rooms_watercolor_test": "watercolor",
}
_CONFIG = config_folder() / "nyu_depth" / "Base-NYU-Depth.yaml"
SCHEDULE: Mapping[str, Any] = {
    "MODEL.DEPTH_HEAD.CHANNELS": 32,
    "SOLVER.MAX_ITER": 150,  # 5 ep = 150 iters * 8 images/iter / 240 images/ep
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.BASE_LR": 0.003,
    "SOLVER.WEIGHT_DECAY": 0.01,
    "SOLVER.CHECKPOINT_PERIOD": 10_000,  # one, at the end
    "INPUT.FIXED_SIZE_TRAIN": (86, 64),
    "INPUT.FIXED_SIZE_TEST": (86, 64),
    "INPUT.CROP.SIZE": [64, 64],
    "DATALOADER.NUM_WORKERS": 0,
    "TEST.EVAL_PERIOD": 0,
    "TEST.WINDOW_SIZE": 0,
    "TEST.MIRROR": False,
    "TEST.GALLERY_IMAGES": 0,
}


def name_objects(captions: Mapping[str, str]) -> dict[str, str]:
    """The names of what each caption counts, such as "bed nightstand", and nothing of the room.

    Args:
        captions: image id -> sentence, such as "a bedroom with a bed and two nightstands".
    """
    listed = {
        image_id: re.split(", | and ", caption.partition(" with ")[2])
        for image_id, caption in captions.items()
    }
    counted = {tuple(thing.split(" ", 1)) for own in listed.values() for thing in own if thing}
    singular = {plural(noun): noun for number, noun in counted if number in ("a", "an")}
    nouns = {f"{number} {noun}": singular.get(noun, noun) for number, noun in counted}
    return {
        image_id: " ".join(nouns[thing] for thing in own if thing)
        for image_id, own in listed.items()
    }


def _as_they_are(captions: Mapping[str, str]) -> dict[str, str]:
    return dict(captions)


@dataclass(frozen=True)
class Told:
    """A condition.

    Attributes:
        texts: makes the captions of those of the world.
        options: keys of the config.
        paper: RMSE and delta1 of TADP's table 3 under its fast schedule, and of which row.
    """

    texts: Callable[[Mapping[str, str]], dict[str, str]] = _as_they_are
    options: Mapping[str, str] = field(default_factory=dict)
    paper: str = DASH


EMPTY = "empty text"
CONDITIONS = {
    EMPTY: Told(options={"MODEL.CONDITIONER.NAME": "EmptyText"}),
    "scene embedding": Told(
        options={
            "MODEL.CONDITIONER.NAME": "TextAdapter",
            "MODEL.CONDITIONER.ADAPTED": "SceneEmbedding",
        },
        paper="0.332, 0.926 (VPD(LS))",
    ),
    "caption": Told(paper="0.328, 0.935 (TADP-0)"),
    "oracle objects": Told(texts=name_objects),
}


def jobs(world: Path, folder: Path, seeds: Sequence[int]) -> list[Job]:
    """One job for each seed and condition.

    Args:
        world: as `tadp-d2 synth` writes it, and as `DETECTRON2_DATASETS` names it.
        folder: of the results.
    """
    of_world = identity(world, (_TRAINED_ON, *TESTED_ON))
    config = CfgNode.load_yaml_with_base(str(_CONFIG))
    config.pop("OUTPUT_DIR", None)
    settings = json.dumps([config, SCHEDULE], sort_keys=True)
    schedule = hashlib.sha256(settings.encode()).hexdigest()
    return [
        Job(
            folder / "results" / f"{condition.replace(' ', '_')}_{seed}.json",
            train_and_test,
            {"world": world, "folder": folder, "condition": condition, "seed": seed},
            {**of_world, "schedule": schedule, "condition": condition, "seed": seed},
        )
        for seed in seeds
        for condition in CONDITIONS
    ]


def train_and_test(world: Path, folder: Path, condition: str, seed: int) -> dict[str, Any]:
    """Trains a model and tests it; of the run, all stays but the weights.

    Returns:
        "condition", "seed", and "tests": data set -> metrics.
    """
    run = folder / "runs" / f"{condition.replace(' ', '_')}_{seed}"
    shutil.rmtree(run, ignore_errors=True)
    for dataset in (_TRAINED_ON, *TESTED_ON):
        file = read_captions(find_caption_file(world / "captions", dataset))
        captions = {image_id: file[image_id] for image_id in file.records}
        texts = CONDITIONS[condition].texts(captions)
        made_by = {"tool": "tadp_d2 study", "kind": condition}
        write_captions(run / "captions" / f"{dataset}.jsonl", dataset, texts, made_by)
    cfg = _config(world, run, condition, seed)
    (run / "config.yaml").write_text(cfg.dump())
    seed_all_rng(seed)
    Trainer(cfg).train()
    for left in ("model_final.pth", "last_checkpoint"):
        (run / left).unlink()
    metrics = read_results(run / "results.json")["metrics"]
    tests = {dataset: metrics[dataset]["depth"] for dataset in TESTED_ON}
    return {"condition": condition, "seed": seed, "tests": tests}


def _config(world: Path, run: Path, condition: str, seed: int) -> CfgNode:
    overrides = {
        **SCHEDULE,
        **CONDITIONS[condition].options,
        "MODEL.DIFFUSION.WEIGHTS": str(world / MODEL_FOLDER),
        "TEXT.CAPTION_DIR": str(run / "captions"),
        "DATASETS.TEST": tuple(TESTED_ON),
        "OUTPUT_DIR": str(run),
        "SEED": seed,
    }
    pairs = [item for pair in overrides.items() for item in pair]
    return load_config(str(_CONFIG), overrides=pairs)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The results in Markdown: mean and deviation over seeds; a dash for what was not run.

    In brackets, of how many seeds that have both the RMSE is below that of the empty text.
    """
    columns = ["", "seeds"]
    columns += [f"{shown}, {name}" for shown in TESTED_ON.values() for name in ("RMSE (m)", "d1")]
    rows = [_row(results, condition) for condition in CONDITIONS]
    return markdown(Table("", [*columns, "table 3, fast: RMSE, d1"], rows)).rstrip("\n")


def _row(results: Sequence[Mapping[str, Any]], condition: str) -> Row:
    cells = [Cell(condition), Cell(str(sum(r["condition"] == condition for r in results)))]
    for dataset in TESTED_ON:
        values = functools.partial(_values, results, condition, dataset)
        rmse = values("RMSE")
        mean = mean_cell(spread(list(rmse.values())), 3)
        cells.append(Cell(mean.text + _wins(rmse, _values(results, EMPTY, dataset, "RMSE"))))
        cells.append(mean_cell(spread(list(values("d1").values())), 3))
    return Row([*cells, Cell(CONDITIONS[condition].paper)])


def _values(
    results: Sequence[Mapping[str, Any]], condition: str, dataset: str, metric: str
) -> dict[int, float]:
    """Seed -> metric."""
    own = [result for result in results if result["condition"] == condition]
    return {result["seed"]: result["tests"][dataset][metric] for result in own}


def _wins(own: Mapping[int, float], other: Mapping[int, float]) -> str:
    pairs = own.keys() & other.keys()
    if own == other or not pairs:
        return ""
    return f" ({sum(own[seed] < other[seed] for seed in pairs)} of {len(pairs)})"
