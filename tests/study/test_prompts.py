"""The questions about prompts: claims as published, configs that load, the demo at least size."""

import json

import pytest
from PIL import Image

from tadp_d2.cli import main
from tadp_d2.data.texts import read_captions
from tadp_d2.errors import UserError
from tadp_d2.study import prompts
from tadp_d2.study.prompts import PROMPT_QUESTIONS

ARMS = [
    (name, arm)
    for name, question in PROMPT_QUESTIONS.items()
    for arms in question.arms().values()
    for arm in arms
]


def test_arms_are_distinct_and_claims_are_about_arms():
    for arms in [arms for q in PROMPT_QUESTIONS.values() for arms in q.arms().values()]:
        names = [arm.name for arm in arms]
        assert len({arm.training.name for arm in arms}) == len(set(names)) == len(names)
        for arm in arms:
            assert {claim.against for claim in arm.claims} <= set(names) - {arm.name}
            # Conditioned in testing as in training.
            assert arm.test == arm.training.reading
    by_name = {}
    for _, arm in ARMS:
        assert by_name.setdefault(arm.training.name, arm.training) == arm.training


@pytest.mark.parametrize("name, arm", ARMS, ids=lambda value: getattr(value, "name", value))
def test_every_arm_is_a_config_that_its_conditioner_accepts(name, arm, tmp_path):
    cfg = prompts.make_config(tmp_path, tmp_path, arm.training, seed=0)
    looks = cfg.MODEL.CONDITIONER.NAME in ("ImplicitCaptioner", "TaggingAdapter")
    assert bool(cfg.MODEL.DIFFUSION.LATENT_CACHE.FOLDER) != looks
    options = cfg.MODEL.CONDITIONER
    if name == "table-S2" and arm.name != "oracle":
        errors = f"precision {options.ORACLE.PRECISION}, recall {options.ORACLE.RECALL}"
        assert arm.name == errors
    if name == "VPD-table-5":
        assert ("maps" in arm.name) == bool(cfg.MODEL.DIFFUSION.ATTENTION_MAPS.LEVELS)


def test_the_tables_differences():
    claims = {
        (name, arm.name, claim.against): claim.source for name, arm in ARMS for claim in arm.claims
    }
    # 50.20 and 63.29; 86.36 and 84.08 of TADP-0, or 87.11 of TADP-40.
    source = claims["table-S2", "precision 1.0, recall 0.5", "oracle"]
    assert source == "TADP table S2: -13.1"
    assert claims["table-1", "oracle", "caption"] == "TADP table 1: +2.7"
    assert len([arm for name, arm in ARMS if name == "table-S2"]) == 9


def test_shorter_captions_are_those_of_a_training(world, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    tiny = {"SOLVER.MAX_ITER": 1, "SOLVER.IMS_PER_BATCH": 1, "TEST.GALLERY_IMAGES": 0}
    monkeypatch.setitem(prompts.OVERRIDES, "pascal", {**prompts.OVERRIDES["pascal"], **tiny})
    arms = {arm.name: arm for arm in PROMPT_QUESTIONS["figure-3"].arms()["pascal"]}
    arm = arms["caption of half the things"]
    found = prompts.train_and_test(world, tmp_path, arm.training, 0)
    ((dataset, tests),) = found["tests"].items()
    assert list(tests) == [arm.test.name]
    run = prompts.run_folder(tmp_path, arm.training, 0)
    own = read_captions(world / "captions" / f"{dataset}.jsonl")
    read = read_captions(run / "captions" / f"{dataset}.jsonl")
    lengths = [(len(own[name]), len(read[name])) for name in own.records]
    assert all(shorter <= longer for longer, shorter in lengths)
    assert any(shorter < longer for longer, shorter in lengths)
    assert str(run / "captions") in (run / "config.yaml").read_text()
    # Shared by all trainings of a study.
    assert [*(tmp_path / "latents").rglob("*.fp16")]


def test_a_training_without_its_images_is_named(tmp_path):
    with pytest.raises(UserError, match=r"has no gallery.*remove results/.*_0\.json"):
        prompts.sheet(tmp_path, PROMPT_QUESTIONS["demo"])


@pytest.mark.exhaustive
def test_the_demo_makes_a_table_and_a_sheet(world, tmp_path, capsys, monkeypatch, in_this_process):
    tiny = {"SOLVER.MAX_ITER": 2, "SOLVER.IMS_PER_BATCH": 2, "TEST.GALLERY_IMAGES": 2}
    demo = {**prompts.OVERRIDES["pascal demo"], **tiny}
    monkeypatch.setitem(prompts.OVERRIDES, "pascal demo", demo)
    command = ["study", "prompts", "--question", "demo", "--data", str(world)]
    main([*command, "--output", str(tmp_path), "--seeds", "1", "--processes", "1"])
    folder = tmp_path / "prompts"
    table = (folder / "table.md").read_text()
    assert table.strip() in capsys.readouterr().out
    for name in ("empty text", "class names", "caption", "oracle"):
        assert f"| {name} |" in table
    with Image.open(folder / "predictions.jpg") as sheet:
        # Image, truth and four predictions.
        assert sheet.width > 6 * 300
    assert not [*folder.rglob("*.pth")]


@pytest.mark.exhaustive
def test_the_rows_of_the_tagging_adapter_are_trained_and_compared(
    world, tmp_path, monkeypatch, in_this_process
):
    tiny = {"SOLVER.MAX_ITER": 2, "SOLVER.IMS_PER_BATCH": 2, "TEST.GALLERY_IMAGES": 0}
    ade20k = {**prompts.OVERRIDES["ade20k"], **tiny}
    monkeypatch.setitem(prompts.OVERRIDES, "ade20k", ade20k)
    command = ["study", "prompts", "--question", "tagging-table-5", "--data", str(world)]
    main([*command, "--output", str(tmp_path), "--seeds", "1", "--processes", "1"])
    table = (tmp_path / "prompts" / "table.md").read_text()
    for name in ("unconditional", "with its loss", "with an oracle's tags", "with its own tags"):
        assert f"| {name} |" in table
    tagged = []
    for file in (tmp_path / "prompts" / "runs").glob("*/results.json"):
        results = json.loads(file.read_text())
        (metrics,) = results["metrics"].values()
        tagged.append("tags" in metrics)
        options = results["config"]["MODEL"]["CONDITIONER"]
        trained = options["NAME"] == "TaggingAdapter" and options["TAGGING"]["LOSS_WEIGHT"]
        assert tagged[-1] == bool(trained)
    assert (sum(tagged), len(tagged)) == (4, 9)
