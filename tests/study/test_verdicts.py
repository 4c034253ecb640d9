import json

import pytest

from tadp_d2.errors import UserError
from tadp_d2.reports.spread import Difference
from tadp_d2.study.verdicts import read, verdict


@pytest.mark.parametrize(
    "interval, claimed, expected",
    [
        ((0.5, 2), 1, "agrees"),
        ((0.5, 2), -1, "disagrees"),
        ((-2, -0.5), -1, "agrees"),
        ((-2, -0.5), 1, "disagrees"),
        ((-1, 2), 1, "undecided"),
        ((0, 2), 1, "undecided"),
        ((0.5, 2), 0, "disagrees"),
        ((-1, 1), 0, "undecided"),
        ((0.5, 2), None, "better"),
        ((-2, -0.5), None, "worse"),
        ((-1, 1), None, "undecided"),
        (None, 1, "undecided"),
    ],
)
def test_only_an_interval_beyond_zero_decides(interval, claimed, expected):
    assert verdict(Difference(0.0, interval, 5), claimed) == expected


def test_results_are_read_from_a_folder_of_files(tmp_path):
    made = [{"training": "scaled", "seed": seed, "tests": {}} for seed in (0, 1)]
    for result in made:
        file = tmp_path / f"{result['training']}_{result['seed']}.json"
        file.write_text(json.dumps({"made_of": {}, "result": result}))
    assert read(tmp_path) == made
    # Damaged, or of another part of the study.
    for text in ("[]", '{"result": []}', '{"result": {"style": "comic", "seed": 0}}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(UserError, match="other.json: is no result of the study adaptation"):
            read(tmp_path)
    with pytest.raises(UserError, match="no results there"):
        read(tmp_path / "absent")


def test_results_of_other_weights_or_one_training_twice_are_refused(tmp_path):
    def write(name, seed, model):
        result = {"training": "a", "seed": seed, "tests": {}}
        content = {"made_of": {"model": model}, "result": result}
        (tmp_path / name).write_text(json.dumps(content))

    write("a_0.json", 0, "first")
    write("a_1.json", 1, "second")
    with pytest.raises(UserError, match="a_1.json and .*a_0.json are of different diffusion mod"):
        read(tmp_path)
    write("a_1.json", 0, "first")
    with pytest.raises(UserError, match="a_1.json and .*a_0.json are results of one training"):
        read(tmp_path)
