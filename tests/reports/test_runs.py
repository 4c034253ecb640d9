"""What is read from result files, and what is refused."""

import json
from pathlib import Path

import pytest

from tadp_d2.errors import UserError
from tadp_d2.reports.runs import find_runs, read_run


def test_runs_are_found_in_folders_of_folders_and_each_once(make_run, voc, tmp_path, monkeypatch):
    first = make_run("a/first", "null", watercolor_test=voc(1, 2))
    second = make_run("b/second", "null", watercolor_test=voc(1, 2))
    # That of an evaluation belongs to its run.
    make_run("a/first/evaluation", "null", watercolor_test=voc(1, 2))
    monkeypatch.chdir(tmp_path)
    runs = find_runs([second, Path("runs"), first / "results.json"])
    assert [run.folder.resolve() for run in runs] == [second, first]


@pytest.mark.parametrize(
    ("iteration", "weights", "expected"),
    [
        (70, "", 70),
        (0, "", 0),
        (None, "output/run/model_0000049.pth", 50),
        (None, "output/run/model_final.pth", 100),
        (None, "output/run/best.pth", None),
        (None, "", None),
    ],
)
def test_an_evaluation_is_of_the_iterations_of_its_checkpoint(
    make_run, iteration, weights, expected
):
    folder = make_run("run", "null", edit=lambda r: r.update(iteration=iteration, weights=weights))
    assert read_run(folder / "results.json").iterations == expected


def test_only_the_published_images_are_the_papers_data_set(make_run):
    def benchmark(name, **changes):
        def edit(record):
            record["datasets"]["dark_zurich_val"] |= changes

        folder = make_run(
            name, "null", domain="night", edit=edit, dark_zurich_val={"sem_seg": {"mIoU": 40.0}}
        )
        return read_run(folder / "results.json").results["dark_zurich_val"].benchmark

    assert benchmark("published").title == "Dark Zurich-val"
    # The synthetic world has 50 images there, too.
    assert benchmark("other_ids", image_ids="e" * 64) is None
    assert benchmark("other_number", images=49) is None
    assert benchmark("earlier_version", images=None, image_ids=None) is None


def test_a_template_with_the_words_of_a_modifier_is_that_modifier(make_run):
    def name(run, modifier):
        return read_run(make_run(run, modifier) / "results.json").modifier.name

    assert name("a", "a watercolor style painting of {caption}") == "simple"
    assert name("b", "{caption}") == "null"
    assert name("c", None) == "null"
    # Without its UNet it is only words.
    assert name("d", "a sks style painting of {caption}") == "template"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: r.update(format="other"), "expected the results of a run"),
        (lambda r: r.update(version=99), "expected the results of a run"),
        (lambda r: r.update(seed="1"), "expected a whole number at seed"),
        (lambda r: r.pop("metrics"), "expected an object at metrics"),
        (lambda r: r["metrics"].update(watercolor_test=[1]), "at metrics.watercolor_test"),
        (
            lambda r: r["metrics"]["watercolor_test"]["voc07"].update(AP="x"),
            "numbers at metrics",
        ),
        (lambda r: r["metrics"]["watercolor_test"]["voc07"].update(AP=float("nan")), "numbers at"),
        (lambda r: r["provenance"].update(caption_files=[]), "an object at provenance.caption_"),
        (lambda r: r["provenance"].pop("vae"), "expected a text at provenance.vae"),
        (lambda r: r["config"].pop("SOLVER"), "expected a whole number at config.SOLVER.MAX_ITER"),
        (lambda r: r["config"]["TEXT"].update(MODIFIER="smple"), "unknown modifier 'smple'"),
        (
            lambda r: r["config"]["TEXT"].update(MODIFIER=[]),
            "a text or null at config.TEXT.MODIFIER",
        ),
        (lambda r: r.update(datasets=[]), "at datasets.watercolor_test"),
        (lambda r: r["datasets"].update(watercolor_test=3), "at datasets.watercolor_test"),
        (lambda r: r.update(versions=None), "expected an object at versions"),
    ],
)
def test_a_damaged_or_foreign_file_is_named_with_what_is_wrong(make_run, voc, damage, message):
    folder = make_run("run", "null", watercolor_test=voc(1, 2))
    file = folder / "results.json"
    record = json.loads(file.read_text()) | {"iteration": None, "weights": "model_final.pth"}
    damage(record)
    file.write_text(json.dumps(record))
    with pytest.raises(UserError, match=message) as error:
        read_run(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\x00", '{"a": ' * 100_000])
def test_no_json_is_no_traceback(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match="results.json"):
        find_runs([tmp_path])


def test_a_folder_without_results_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(UserError, match=f"{path.name}: no results.json there"):
            find_runs([path])


def test_a_backbone_without_text_is_told_apart_by_its_weights(make_run, voc):
    def encoder(weights):
        def edit(record):
            own = {"backbone": weights, "backbone_options": {"model_type": "vit"}}
            record["provenance"] = {"captions": {}, "caption_files": {}, **own}

        return edit

    settings = []
    for name in ("a", "b"):
        folder = make_run(name, "null", edit=encoder(name * 64), watercolor_test=voc(43.0, 70.0))
        (result,) = read_run(folder / "results.json").results.values()
        settings.append(result.setting)
    first, second = settings
    assert {key for key in first if first[key] != second[key]} == {"backbone"}
