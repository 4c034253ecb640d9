"""Result files as runs write them, with the numbers that a test wants."""

import copy
import json

import pytest

from tadp_d2.records.result_files import FORMAT, VERSION
from tadp_d2.reports.published import find_benchmark

_RECORD = {
    "format": FORMAT,
    "version": VERSION,
    "iteration": 100,
    "weights": "",
    "command": "python train_net.py",
    "versions": {"torch": "2.11.0", "detectron2": "0.5"},
    "revision": "0123456789abcdef",
    "provenance": {
        "vae": "a" * 64,
        "text_encoder": "b" * 64,
        "captions": {"voc_2007_trainval": "c" * 64},
        "caption_files": {},
    },
    "config": {
        "DATASETS": {"TRAIN": ["voc_2007_trainval"]},
        "SOLVER": {"MAX_ITER": 100, "BASE_LR": 1e-5},
        "TEXT": {"MODIFIER_TRAIN": "", "CAPTION_TEXT": "clean"},
    },
}


@pytest.fixture
def make_run(tmp_path):
    """make_run("a", "simple", seed=1, watercolor_test={"voc07": {"AP": 43.0}}) -> folder.

    The data sets are the paper's, as far as a result file tells; `published=False` makes them
    others of the same names.
    """

    def make(name, modifier, seed=1, published=True, domain="watercolor", edit=None, **metrics):
        record = copy.deepcopy(_RECORD)
        record |= {"seed": seed, "metrics": metrics, "datasets": {}}
        record["config"]["TEXT"] |= {"DOMAIN": domain, "MODIFIER": modifier}
        for dataset in metrics:
            known = find_benchmark(dataset) if published else None
            identity = (known.images, known.image_ids) if known else (50, "d" * 64)
            record["datasets"][dataset] = dict(zip(("images", "image_ids"), identity, strict=True))
        if edit:
            edit(record)
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(record))
        return folder

    return make


@pytest.fixture
def voc():
    """voc(43.0, 72.0, dog=80.0): the metrics of a detector, the same in both VOC metrics."""

    def metrics(ap, ap50, **classes):
        values = {"AP": ap, "AP50": ap50, **{f"AP50-{name}": v for name, v in classes.items()}}
        return {"voc07": values, "voc_area": values}

    return metrics
