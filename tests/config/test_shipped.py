"""The configs of the package by name, and what they say of themselves."""

import re
from pathlib import Path

import pytest

from tadp_d2 import model_zoo
from tadp_d2.cli import main
from tadp_d2.config import shipped
from tadp_d2.config.load import load_config
from tadp_d2.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
# How the names begin of configs that are rows of a paper.
TABLES = ("voc2", "cityscapes2", "pascal_segmentation/", "ade20k/", "nyu_depth/", "refcoco/")
OF_NO_TABLE = ("nyu_depth/empty", "ade20k/tagging_own")


def test_the_names_are_the_files():
    below = {str(file.relative_to(CONFIGS))[: -len(".yaml")] for file in CONFIGS.rglob("*.yaml")}
    presets = {name for name in below if name.startswith("presets/")}
    assert set(shipped.config_names()) == below - presets
    assert {f"presets/{name}" for name in shipped.preset_names()} == presets
    assert {"voc2watercolor_ti", "ade20k/vpd"} < set(shipped.experiment_names())
    assert not any("Base-" in name for name in shipped.experiment_names())


def test_a_name_is_the_config_of_its_file():
    file = CONFIGS / "ade20k" / "vpd_a64.yaml"
    named = load_config("ade20k/vpd_a64", "schedule_8k")
    assert named == load_config(str(file), "schedule_8k") == load_config(file, ["schedule_8k"])
    assert model_zoo.get_config("ade20k/vpd_a64", "schedule_8k") == named
    assert model_zoo.get_config_file("ade20k/vpd_a64") == str(file)


def test_a_file_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("voc2comic_null").write_text(f"_BASE_: {CONFIGS / 'voc2comic_null.yaml'}\nSEED: 7\n")
    assert load_config("voc2comic_null").SEED == 7


@pytest.mark.parametrize(
    "name, message",
    [
        ("voc2watercolour_ti", "no config file voc2watercolour_ti, .*mean voc2watercolor_ti?"),
        ("presets/views", "no config file presets/views, and no config of that name"),
        ("elsewhere/configs/ade20k/vpd.yaml", f"of the package is {CONFIGS}/ade20k/vpd.yaml"),
        ("voc2comic_ti.yaml", f"of the package is {CONFIGS}/voc2comic_ti.yaml"),
        ("configs/mine.yaml", "no config file configs/mine.yaml$"),
    ],
)
def test_a_name_of_none_is_an_error_that_shows_the_way(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        load_config(name)


def test_a_base_that_is_not_there_shows_the_way(tmp_path):
    (tmp_path / "mine.yaml").write_text("_BASE_: configs/voc2comic_ti.yaml\n")
    with pytest.raises(UserError, match=f"_BASE_ names .*; that of the package is {CONFIGS}/voc2"):
        load_config(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    "name, row, text, architecture",
    [
        ("voc2comic_null", "TADP, table 5, null", "photos to Comic2k", "CaptionedRCNN"),
        ("nyu_depth/vpd_ls", "TADP, table 3, VPD(LS)", "VPD with", "ConditionedDepthEstimator"),
        ("ade20k/vpd_table5_maps_up", "VPD, table 5, up", "maps", "ConditionedSemanticSegmentor"),
        ("architectures/panoptic_fpn", "", "Detectron2's", "ConditionedPanopticFPN"),
        ("quick_schedules/voc2watercolor_ti", "", "`make demo`: ", "CaptionedRCNN"),
    ],
)
def test_a_config_says_what_it_is(name, row, text, architecture):
    found = shipped.describe(shipped.find_config(name))
    assert (found.row, found.architecture) == (row, architecture)
    assert found.text.startswith(text) and "\n" not in found.text


def test_a_config_of_a_papers_table_names_its_row():
    for name in shipped.experiment_names():
        found = shipped.describe(shipped.find_config(name))
        assert found.architecture and found.text, name
        if name.startswith(TABLES) and name not in OF_NO_TABLE:
            assert found.row, name


def test_the_list_has_a_line_for_each(capsys):
    main(["configs"])
    lines = capsys.readouterr().out.splitlines()
    for name in shipped.experiment_names():
        assert sum(line.startswith(f"{name} ") for line in lines) == 1, name
    (line,) = (line for line in lines if line.startswith("refcoco/refcoco "))
    assert re.split("  +", line)[1:3] == ["referring", "VPD, table 3, RefCOCO"]
    assert any(line.startswith("paper_tables ") for line in lines)


def test_the_list_can_be_cut_and_give_paths(capsys):
    main(["configs", "nyu", "--path"])
    paths = capsys.readouterr().out.splitlines()
    assert paths == [str(file) for file in sorted((CONFIGS / "nyu_depth").iterdir())]
    main(["configs", "nyu"])
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(paths) - 1
    with pytest.raises(SystemExit) as stop:
        main(["configs", "nothing"])
    assert stop.value.code == 2
    assert "no config's name begins with nothing" in capsys.readouterr().err


def test_the_zoo_builds_a_model_and_loads_a_checkpoint(model_folder, tmp_path):
    from tadp_d2.engine.checkpoint import RunCheckpointer
    from tadp_d2.records.provenance import Provenance

    name = "quick_schedules/voc2watercolor_simple"
    settings = ["MODEL.DIFFUSION.WEIGHTS", str(model_folder), "MODEL.DEVICE", "cpu"]
    model = model_zoo.get(name, overrides=settings)
    assert not model.training
    weight = model.proposal_generator.rpn_head.conv.weight
    weight.data.fill_(0.25)
    cfg = model_zoo.get_config(name, overrides=settings)
    RunCheckpointer(model, str(tmp_path), Provenance(cfg, model)).save("saved")
    loaded = model_zoo.get(name, str(tmp_path / "saved.pth"), overrides=settings)
    assert not loaded.training
    assert loaded.proposal_generator.rpn_head.conv.weight.equal(weight)
    with pytest.raises(UserError, match="no checkpoint|not there|absent"):
        model_zoo.get(name, str(tmp_path / "absent.pth"), overrides=settings)
