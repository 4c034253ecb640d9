from tadp_d2.study.questions import QUESTIONS
from tadp_d2.study.verdict_tables import tables
from tadp_d2.study.verdicts import answer


def results(values: dict[str, list[float]]) -> list[dict]:
    """Results on watercolours of the two trainings of the question about latent scaling."""
    arms = {arm.name: arm for arm in QUESTIONS["latent-scaling"].arms()["watercolor"]}
    return [
        {
            "training": arms[name].training.name,
            "seed": seed,
            "tests": {"watercolor_test": {arms[name].test.name: {"AP": 1.0, "AP50": value}}},
        }
        for name, column in values.items()
        for seed, value in enumerate(column)
    ]


def rows(found: list[dict]) -> list[list[str]]:
    """The rows of the table on watercolours."""
    text = tables(answer([QUESTIONS["latent-scaling"]], found))
    lines = text.partition("watercolor_test, AP50")[2].partition("comic_test")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line][
        2:
    ]


def test_seeds_are_paired():
    # Each 2 better than its own pair, though the seeds are far apart.
    found = rows(results({"not scaled": [10, 50, 30], "scaled": [12, 52, 32]})[::-1])
    assert found == [
        ["not scaled", "30.0 ± 20.0", "3", *["-"] * 6],
        [
            *("scaled", "32.0 ± 20.0", "3", "not scaled", "+2.0", "+2.0 to +2.0", "3 of 3"),
            *("better (TADP 4.1)", "agrees"),
        ],
    ]


def test_a_seed_of_one_side_alone_has_no_pair():
    found = rows(results({"not scaled": [10, 20, 30, 99], "scaled": [9, 21, 30]}))
    assert found[0][1:3] == ["39.8 ± 40.3", "4"] and found[1][2] == "3"
    # A draw is no win.
    assert found[1][3:7] == ["not scaled", "+0.0", "-1.0 to +1.0", "1 of 3"]
    assert found[1][-1] == "undecided"


def test_what_was_not_run_is_a_dash():
    found = rows(results({"scaled": [50, 51]}))
    assert found[0] == ["not scaled", *["-"] * 8]
    assert found[1] == [
        *("scaled", "50.5 ± 0.7", "2", "not scaled", "-", "-", "-", "better (TADP 4.1)", "-")
    ]
