"""What text is worth for depth: conditions, a run at the least size, the table."""

import json

import pytest

from tadp_d2.cli import main
from tadp_d2.study import depth_texts
from tadp_d2.study.depth_texts import CONDITIONS, TESTED_ON, name_objects, table


def test_an_oracle_names_objects_once_in_the_singular_and_no_room():
    captions = {
        "a": "a study room with an armchair, two nightstands and three bookshelves",
        "b": "a bedroom with a nightstand and a washing machine",
        "c": "a laundry room with two washing machines, a bookshelf and five desks",
        "d": "an office",
    }
    assert name_objects(captions) == {
        "a": "armchair nightstand bookshelf",
        "b": "nightstand washing machine",
        # Nowhere is there one desk alone, so nothing says what it is called.
        "c": "washing machine bookshelf desks",
        "d": "",
    }


def result(condition, seed, rmse):
    tests = {dataset: {"RMSE": rmse, "d1": 1 - rmse} for dataset in TESTED_ON}
    return {"condition": condition, "seed": seed, "tests": tests}


def test_the_table_has_means_wins_and_dashes():
    results = [
        *(result("empty text", seed, rmse) for seed, rmse in enumerate((0.5, 0.6, 0.7))),
        *(result("caption", seed, rmse) for seed, rmse in enumerate((0.4, 0.7))),
    ]
    lines = table(results).splitlines()
    assert lines[0].startswith("| | seeds | day, RMSE (m) | day, d1 | night, RMSE (m)")
    empty, scene, caption, oracle = lines[2:]
    assert empty.startswith("| empty text | 3 | 0.600 ± 0.100 | 0.400 ± 0.100 |")
    assert caption.startswith("| caption | 2 | 0.550 ± 0.212 (1 of 2) | 0.450 ± 0.212 |")
    assert caption.endswith("| 0.328, 0.935 (TADP-0) |")
    assert scene.startswith("| scene embedding | 0 | - | - | - |")
    assert oracle.endswith("| - | - |")


@pytest.fixture
def tiny_study(monkeypatch, in_this_process):
    tiny = {"SOLVER.MAX_ITER": 1, "SOLVER.IMS_PER_BATCH": 1, "MODEL.DEPTH_HEAD.CHANNELS": 8}
    monkeypatch.setattr(depth_texts, "SCHEDULE", {**depth_texts.SCHEDULE, **tiny})
    kept = {name: CONDITIONS[name] for name in ("scene embedding", "oracle objects")}
    monkeypatch.setattr(depth_texts, "CONDITIONS", kept)


def test_a_run_from_the_rooms_to_the_table(world, tmp_path, tiny_study, capsys):
    command = ["study", "depth", "--output", str(tmp_path), "--seeds", "1", "--data", str(world)]
    main(command)
    folder = tmp_path / "depth"
    files = sorted((folder / "results").iterdir())
    assert [file.name for file in files] == ["oracle_objects_0.json", "scene_embedding_0.json"]
    oracle, scene = (json.loads(file.read_text())["result"] for file in files)
    assert oracle["tests"].keys() == scene["tests"].keys() == TESTED_ON.keys()
    assert oracle["tests"] != scene["tests"]
    assert 0 < scene["tests"]["rooms_night_test"]["RMSE"] < 10
    captions = folder / "runs" / "oracle_objects_0" / "captions" / "rooms_night_test.jsonl"
    assert '"raw": "bathtub' in captions.read_text()
    assert not [*folder.rglob("*.pth")]
    made = (folder / "table.md").read_text()
    main([*command[:2], "--results", str(folder / "results"), "--output", str(tmp_path / "again")])
    assert (tmp_path / "again" / "depth" / "table.md").read_text() == made
    assert made in capsys.readouterr().out
