"""One question from the pictures to the table, at the least size."""

import json
import re
from dataclasses import replace

import pytest

from tadp_d2.cli import main
from tadp_d2.conditioning.caption_prompt import get_modifiers
from tadp_d2.conditioning.conditioner import get_conditioner_class
from tadp_d2.conditioning.domains import SLOT
from tadp_d2.file_lock import locked
from tadp_d2.records.result_files import read_metrics
from tadp_d2.reports.comparison import compare
from tadp_d2.reports.runs import find_runs
from tadp_d2.study import adaptation, questions
from tadp_d2.study.questions import TARGETS

TINY = {"SOLVER.MAX_ITER": 2, "SOLVER.IMS_PER_BATCH": 2}
SIMPLE = "a watercolor style painting of {caption}"


@pytest.fixture
def tiny_study(monkeypatch, in_this_process):
    """The question about cleaning, on watercolours alone, after two iterations."""
    schedule = adaptation.SCHEDULES["detection"]
    tiny = replace(schedule, overrides={**schedule.overrides, **TINY})
    monkeypatch.setitem(adaptation.SCHEDULES, "detection", tiny)
    whole = questions.QUESTIONS["cleaning"]
    part = questions.Question(whole.title, ("watercolor",), whole.make_arms)
    monkeypatch.setattr(questions, "QUESTIONS", {"cleaning": part})


def test_a_question_is_answered_and_goes_on_where_it_stopped(world, tmp_path, capsys, tiny_study):
    command = ["study", "adaptation", "--data", str(world), "--output", str(tmp_path)]
    command += ["--processes", "1", "--seeds"]
    main([*command, "1"])
    folder = tmp_path / "adaptation"
    (first,) = (folder / "results").iterdir()
    (run,) = (folder / "runs").iterdir()
    written = first.stat().st_mtime_ns, run.stat().st_mtime_ns
    # What a job that was stopped left of the next seed.
    half_done = folder / "runs" / run.name.replace("_0", "_1") / "model_final.pth"
    half_done.parent.mkdir()
    half_done.write_text("not finished")
    capsys.readouterr()
    main([*command, "2"])
    printed = capsys.readouterr().out
    assert (first.stat().st_mtime_ns, run.stat().st_mtime_ns) == written
    assert len(list((folder / "results").iterdir())) == len(list((folder / "runs").iterdir())) == 2

    # History and results of a run stay, its weights do not.
    # Iterations are counted from 0.
    assert [line["iteration"] for line in read_metrics(run / "metrics.json")][-1] == 1
    assert not [*(folder / "runs").rglob("*.pth"), *(folder / "runs").rglob("*.safetensors")]
    result = json.loads(first.read_text())["result"]
    tested = result["tests"]["watercolor_test"]
    assert list(tested) == [f"captions in '{SIMPLE}'", f"uncleaned watercolor in '{SIMPLE}'"]
    # The report reads them.
    cleaned, uncleaned = find_runs([run / "watercolor_test_0", run / "watercolor_test_1"])
    for found, metrics in zip((cleaned, uncleaned), tested.values(), strict=True):
        own = found.results["watercolor_test"]
        assert {name: own.metrics["voc07"][name] for name in ("AP", "AP50")} == metrics
        assert (found.seed, found.iterations, found.modifier.name) == (0, 2, "simple")
    other = find_runs([half_done.parent / "watercolor_test_0"])
    (comparison,) = compare([cleaned, *other])
    assert [list(group.runs) for group in comparison.groups] == [[0, 1]]
    captions = [
        (run / f"watercolor_test_{n}" / "captions" / "watercolor_test.jsonl").read_text()
        for n in (0, 1)
    ]
    assert ["a watercolor painting of" in text for text in captions] == [False, True]

    # The result files alone make table and figure.
    again = tmp_path / "again"
    main(["study", "adaptation", "--results", str(folder / "results"), "--output", str(again)])
    for name in ("table.md", "differences.svg"):
        made = (again / "adaptation" / name).read_text()
        assert made == (folder / name).read_text()
    table = (folder / "table.md").read_text()
    assert table in printed
    # Two seeds decide nothing, whoever wins after two iterations.
    assert re.search(r"\| [012] of 2 \| worse \(TADP 4.3, argued\) \| undecided \|", table)


TAGGING = [
    pytest.param(TARGETS[domain], arm, id=f"{domain}-{arm.name}")
    for domain, arms in questions.QUESTIONS["tagging"].arms().items()
    for arm in arms
]


@pytest.mark.parametrize("target, arm", TAGGING)
def test_arms_of_tagging_are_configs_that_their_conditioners_accept(target, arm, world, tmp_path):
    run = adaptation._Run(world, tmp_path, adaptation.SCHEDULES[target.task], arm.training, 0)
    cfg = run._config(tmp_path / "test", target.dataset, arm.test)
    get_conditioner_class(cfg).check_config(cfg)
    options = cfg.MODEL.CONDITIONER
    # Latents are kept where images need not be decoded.
    looks = options.NAME in ("TaggingAdapter", "ImplicitCaptioner")
    assert looks == (not cfg.MODEL.DIFFUSION.LATENT_CACHE.FOLDER)
    assert (options.NAME == "TaggingAdapter") == arm.name.startswith("adapter")
    assert (options.TAGGING.LOSS_WEIGHT == 0) == ("without its loss" in arm.name)
    # What starts from random weights learns faster than the heads.
    assert (cfg.SOLVER.CONDITIONER_LR_FACTOR == 5) == looks
    assert (options.TAGGING.TAGS == "own") == ("own" in arm.name)
    erring = (options.ORACLE.PRECISION, options.ORACLE.RECALL) == (0.75, 0.75)
    assert erring == ("tags" in arm.name and "own" not in arm.name)
    # All models are trained under the same words, and differ in the text and in what reads it.
    train, test = get_modifiers(cfg)
    assert train.template == SLOT
    style = {"watercolor": "watercolor style", "comic": "comic style", "night": "dark night"}
    assert (style[target.domain] in test.template) == ("style" in arm.name)
    assert cfg.MODEL.DIFFUSION.ATTENTION_MAPS.LEVELS == ()


@pytest.mark.exhaustive
def test_an_adapter_is_trained_once_and_tested_with_and_without_the_style(
    world, tmp_path, monkeypatch
):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    schedule = adaptation.SCHEDULES["detection"]
    tiny = replace(schedule, overrides={**schedule.overrides, **TINY})
    arms = questions.QUESTIONS["tagging"].arms()["watercolor"]
    own = [arm for arm in arms if "own" in arm.name]
    (training,) = {arm.training for arm in own}
    tested = {"watercolor_test": [arm.test for arm in own]}
    result = adaptation.train_and_test(world, tmp_path, tiny, training, tested, seed=0)
    found = result["tests"]["watercolor_test"]
    assert list(found) == ["captions in '{caption}'", f"captions in '{SIMPLE}'"]
    for metrics in found.values():
        assert metrics.keys() == {"AP", "AP50", "mAP of tags"}
        assert 0 < metrics["mAP of tags"] <= 100
    # The first look reads the names in the style, too.
    plain, simple = (metrics["mAP of tags"] for metrics in found.values())
    assert plain != simple


@pytest.mark.exhaustive
def test_expressions_are_asked_with_and_without_the_style(
    world, tmp_path, monkeypatch, in_this_process
):
    schedule = adaptation.SCHEDULES["referring"]
    tiny = {**schedule.overrides, **TINY, "INPUT.FIXED_SIZE_TRAIN": (64, 64)}
    monkeypatch.setitem(adaptation.SCHEDULES, "referring", replace(schedule, overrides=tiny))
    whole = questions.QUESTIONS["referring"]
    part = questions.Question(whole.title, ("watercolor expressions",), whole.make_arms)
    monkeypatch.setattr(questions, "QUESTIONS", {"referring": part})
    command = ["study", "adaptation", "--data", str(world), "--output", str(tmp_path)]
    main([*command, "--processes", "1", "--seeds", "1"])
    (file,) = (tmp_path / "adaptation" / "results").iterdir()
    content = json.loads(file.read_text())
    # Another data folder's results would not be taken for these.
    assert "refcoco_watercolor/instances.json" in content["made_of"]
    tested = content["result"]["tests"]["refcoco_watercolor_test"]
    assert list(tested) == ["expressions in '{caption}'", f"expressions in '{SIMPLE}'"]
    (run,) = (tmp_path / "adaptation" / "runs").iterdir()
    folders = [run / f"refcoco_watercolor_test_{number}" for number in (0, 1)]
    configs = [json.loads((own / "results.json").read_text())["config"] for own in folders]
    assert [config["TEXT"]["MODIFIER"] for config in configs] == ["null", SIMPLE]
    plain, simple = tested.values()
    assert plain["oIoU_without_text"] == simple["oIoU_without_text"] > 0
    table = (tmp_path / "adaptation" / "table.md").read_text()
    assert "refcoco_watercolor_test, oIoU" in table and "in the target's style" in table


def test_two_at_once_in_one_folder_are_refused(world, tmp_path, tiny_study, capsys):
    folder = tmp_path / "adaptation"
    folder.mkdir()
    (folder / ".lock").touch()
    command = ["study", "adaptation", "--data", str(world), "--output", str(tmp_path)]
    with locked(folder / ".lock", ""), pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    assert "another process is writing to it; wait for it, or name" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_an_output_that_is_no_folder_is_told(world, tmp_path, tiny_study, capsys):
    (tmp_path / "file").write_text("precious")
    output = str(tmp_path / "file")
    with pytest.raises(SystemExit) as stop:
        main(["study", "adaptation", "--data", str(world), "--output", output])
    assert stop.value.code == 2
    assert f"{output}/adaptation" in capsys.readouterr().err


def test_help_names_all_questions(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # no name is divided at a hyphen
    with pytest.raises(SystemExit):
        main(["study", "--help"])
    words = capsys.readouterr().out.replace(",", " ").replace(";", " ").split()
    assert set(questions.QUESTIONS) <= set(words)


def test_unknown_questions_are_refused(tmp_path, capsys):
    for options, message in (
        (["adaptation", "--question", "colour"], "--question colour: there is none of that name"),
        (["words"], "words needs --detector"),
        (["words", "--detector", str(tmp_path)], "there is no config.yaml"),
        (["personalization", "--question", "text"], "--question is for adaptation and prompts"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(["study", *options, "--output", str(tmp_path / "out")])
        assert exit_.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_table_of_a_study_is_not_replaced_by_that_of_other_results(tmp_path, capsys):
    (tmp_path / "out" / "adaptation" / "results").mkdir(parents=True)
    with pytest.raises(SystemExit) as exit_:
        main(["study", "adaptation", "--results", str(tmp_path), "--output", str(tmp_path / "out")])
    assert exit_.value.code == 2
    assert "holds a study of its own" in capsys.readouterr().err


def test_a_folder_that_is_no_world_is_refused_and_left_alone(world, tmp_path, capsys):
    (tmp_path / "captions").symlink_to(world / "captions")
    for folder in (world / "VOC2007", tmp_path):
        before = sorted(folder.iterdir())
        with pytest.raises(SystemExit) as exit_:
            main(["study", "attention", "--data", str(folder), "--output", str(tmp_path / "out")])
        assert exit_.value.code == 2
        message = capsys.readouterr().err
        assert message.startswith(f"error: {folder}: holds no synthetic data sets")
        assert "tadp-d2 synth" in message and message.count("\n") == 1
        assert sorted(folder.iterdir()) == before
