"""The tables and the figure of the evidence are those of the results that are shipped."""

import json
from pathlib import Path

import pytest

from tadp_d2.study import adaptation, depth_texts, prompts
from tadp_d2.study.differences_figure import figure
from tadp_d2.study.prompts import DEMO, PROMPT_QUESTIONS
from tadp_d2.study.questions import QUESTIONS
from tadp_d2.study.verdict_tables import tables
from tadp_d2.study.verdicts import answer, read

FOLDER = Path(__file__).parents[2] / "docs" / "evidence"
# Study -> the questions of it that were asked.
STUDIES = {
    "adaptation": list(QUESTIONS.values()),
    "first_weights/adaptation": [
        q for name, q in QUESTIONS.items() if name not in ("tagging", "low-rank")
    ],
    "prompts": [q for name, q in PROMPT_QUESTIONS.items() if name != DEMO],
}


@pytest.mark.parametrize("study", STUDIES)
def test_tables_and_figure_are_made_from_the_results(study):
    answers = answer(STUDIES[study], read(FOLDER / study))
    assert (FOLDER / f"{study}.md").read_text("utf-8") == tables(answers) + "\n"
    assert (FOLDER / f"{study}.svg").read_text("utf-8") == figure(answers) + "\n"


def test_the_table_of_depth_is_made_from_the_results():
    page = (FOLDER.parent / "evidence.md").read_text("utf-8")
    results = read(FOLDER / "depth", "depth")
    assert depth_texts.table(results) in page
    names = {f"{r['condition'].replace(' ', '_')}_{r['seed']}" for r in results}
    assert {file.stem for file in (FOLDER / "depth").glob("*.json")} == names


@pytest.mark.parametrize("study", STUDIES)
def test_a_result_lies_in_the_file_of_its_training_and_seed(study):
    folder = FOLDER / study
    names = {f"{result['training']}_{result['seed']}" for result in read(folder)}
    assert {file.stem for file in folder.glob("*.json")} == names


def test_a_study_that_goes_on_in_a_copy_of_the_results_knows_them(tmp_path, monkeypatch):
    monkeypatch.setattr(prompts, "identity", lambda world: {})
    known = {
        job.file.name: (job.made_of["training"], job.made_of["seed"])
        for job in prompts.jobs(tmp_path, tmp_path, STUDIES["prompts"], range(5))
    }
    for file in (FOLDER / "prompts").glob("*.json"):
        made_of = json.loads(file.read_text())["made_of"]
        assert known.pop(file.name) == (made_of["training"], made_of["seed"])
    assert not known


def test_the_study_across_domains_goes_on_from_its_results(tmp_path, monkeypatch):
    monkeypatch.setattr(adaptation, "identity", lambda world: {})
    monkeypatch.setattr(adaptation, "sha256", lambda file: "")
    questions = STUDIES["adaptation"]
    _, trainings = adaptation.jobs(tmp_path, tmp_path, questions, range(5))
    known = {job.file.name: json.loads(json.dumps(job.made_of)) for job in trainings}
    for file in (FOLDER / "adaptation").glob("*.json"):
        made_of = json.loads(file.read_text())["made_of"]
        # Of this schedule, and tested under all that is asked of it.
        for key in ("schedule", "training", "tested", "learned", "seed"):
            assert made_of[key] == known[file.name][key], (file.name, key)
