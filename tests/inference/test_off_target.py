"""The matrices hold the mean softmax score of the pixels of each true class, under both prompts."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tadp_d2.cli import main
from tadp_d2.conditioning.conditioner import build_conditioner
from tadp_d2.config.load import load_config
from tadp_d2.data.catalog import read_known
from tadp_d2.errors import UserError
from tadp_d2.inference.off_target import check_model, measure_scores, write_scores

CONFIG = str(Path(__file__).parents[2] / "configs" / "quick_schedules" / "pascal_prompts.yaml")
ORACLE = ("MODEL.CONDITIONER.NAME", "Oracle", "DATASETS.TEST", "('pascal_val',)")


class Believer:
    """Finds what it is told is there: in every pixel the classes that the prompt names."""

    def __init__(self, cfg, labels):
        self.conditioner = build_conditioner(cfg)
        self.labels = labels
        self.prompts = []

    def __call__(self, inputs):
        (own,) = inputs
        self.prompts.append(self.conditioner.prompt(own))
        told = torch.tensor(
            [float(name in self.prompts[-1].split()) for name in own["present"].vocabulary]
        )
        height, width = self.labels[own["file_name"]].shape
        return [{"sem_seg": 2 * told.view(-1, 1, 1).expand(-1, height, width)}]


def test_scores_are_averaged_over_the_pixels_of_each_class(world, model_folder, tmp_path):
    cfg = load_config(CONFIG, overrides=[*ORACLE, "MODEL.DIFFUSION.WEIGHTS", str(model_folder)])
    check_model(cfg)
    entries = read_known("pascal_val")
    labels = {e["file_name"]: np.asarray(Image.open(e["sem_seg_file_name"])) for e in entries}
    model = Believer(cfg, labels)
    found = measure_scores(cfg, model, "pascal_val")
    shown = {int(label) for own in labels.values() for label in np.unique(own)} - {255}
    for prompt, all_names in (("oracle", False), ("class names", True)):
        pixels, sums = np.zeros(21), np.zeros((21, 21))
        for own in labels.values():
            present = set(np.unique(own).tolist()) - {255}
            powers = np.array(
                [np.exp(2.0 * (index in (shown if all_names else present))) for index in range(21)]
            )
            for label in present:
                pixels[label] += (own == label).sum()
                sums[label] += (own == label).sum() * powers / powers.sum()
        expected = np.full((21, 21), np.nan)
        np.divide(sums, pixels[:, None], out=expected, where=pixels[:, None] > 0)
        np.testing.assert_allclose(found[prompt], expected, rtol=1e-9)
    # Under all names each prompt is the same; what no image shows is in none.
    names = cfg_names = set(model.prompts[1::2])
    assert len(names) == 1 and "aeroplane" not in cfg_names.pop()
    classes = [f"class {index}" for index in range(21)]
    numbers = write_scores(tmp_path / "scores.png", found, classes)
    with open(numbers, newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * len(shown) * 21
    for line in lines:
        row, column = (classes.index(line[key]) for key in ("true class", "scored class"))
        assert float(line["mean score"]) == pytest.approx(
            found[line["prompt"]][row, column], abs=1e-6
        )


def test_only_a_segmentor_with_an_oracle_is_asked(detector, trained_config):
    with pytest.raises(UserError, match="task is detection"):
        check_model(trained_config(detector))
    with pytest.raises(UserError, match="CONDITIONER.NAME is CaptionPrompt"):
        check_model(load_config(CONFIG))


@pytest.mark.parametrize(
    "key, value",
    [("TEST.VIEWS.SCALES", (1.0,)), ("MODEL.CONDITIONER.ORACLE.RECALL", 0.5)],
)
def test_neither_averaged_views_nor_an_erring_oracle_is_taken(key, value):
    with pytest.raises(UserError, match=key):
        check_model(load_config(CONFIG, overrides=[*ORACLE, key, value]))


def test_the_command_evaluates_a_model_under_both_prompts(oracle_segmentor, tmp_path, capsys):
    sheet = tmp_path / "a.png"
    words = ["off-target", "--weights", str(oracle_segmentor / "model_final.pth")]
    main([*words, "--output", str(sheet)])
    with open(sheet.with_suffix(".csv"), newline="") as file:
        lines = list(csv.DictReader(file))
    scores = {}
    for line in lines:
        key = line["prompt"], line["true class"]
        scores[key] = scores.get(key, 0) + float(line["mean score"])
    assert {prompt for prompt, _ in scores} == {"oracle", "class names"}
    assert all(total == pytest.approx(1, abs=1e-4) for total in scores.values())
    under = {
        prompt: [line["mean score"] for line in lines if line["prompt"] == prompt]
        for prompt in ("oracle", "class names")
    }
    assert under["oracle"] != under["class names"]
    assert Image.open(sheet).width > 400
    with pytest.raises(SystemExit):
        main([*words, "--output", str(sheet)])
    assert "a.png exists already" in capsys.readouterr().err
