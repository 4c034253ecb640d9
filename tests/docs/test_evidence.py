"""The tables and the figure of the evidence are those of the results that are shipped."""

from pathlib import Path

from tadp_d2.study import depth_texts
from tadp_d2.study.differences_figure import figure
from tadp_d2.study.questions import QUESTIONS
from tadp_d2.study.verdict_tables import tables
from tadp_d2.study.verdicts import answer, read

FOLDER = Path(__file__).parents[2] / "docs" / "evidence"


def test_tables_and_figure_are_made_from_the_results():
    answers = answer(QUESTIONS.values(), read(FOLDER / "adaptation"))
    assert (FOLDER / "adaptation.md").read_text("utf-8") == tables(answers) + "\n"
    assert (FOLDER / "adaptation.svg").read_text("utf-8") == figure(answers) + "\n"


def test_the_table_of_depth_is_made_from_the_results():
    page = (FOLDER.parent / "evidence.md").read_text("utf-8")
    results = read(FOLDER / "depth", "depth")
    assert depth_texts.table(results) in page
    names = {f"{r['condition'].replace(' ', '_')}_{r['seed']}" for r in results}
    assert {file.stem for file in (FOLDER / "depth").glob("*.json")} == names


def test_a_result_lies_in_the_file_of_its_training_and_seed():
    folder = FOLDER / "adaptation"
    names = {f"{result['training']}_{result['seed']}" for result in read(folder)}
    assert {file.stem for file in folder.glob("*.json")} == names
