"""Every config loads and says what the paper says."""

import re
from pathlib import Path

import pytest

from tadp_d2.conditioning.caption_prompt import get_modifiers
from tadp_d2.config.load import load_config
from tadp_d2.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = ("null", "simple", "ti", "dreambooth", "nearby", "unrelated")


@pytest.mark.parametrize("target", ["watercolor", "comic"])
@pytest.mark.parametrize("name", NAMES)
def test_the_experiments(target, name):
    cfg = load_config(str(CONFIGS / f"voc2{target}_{name}.yaml"))
    assert cfg.TEXT.DOMAIN == target
    assert [modifier.name for modifier in get_modifiers(cfg)] == [name, name]
    assert cfg.DATASETS.TEST == ("voc_2007_test", f"{target}_test")
    assert cfg.OUTPUT_DIR == f"output/voc2{target}_{name}"
    # Table C.1 c and section C.
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY) == (1e-5, 0.01)
    assert (cfg.SOLVER.UNET_LR_FACTOR, cfg.SOLVER.WEIGHT_DECAY_NORM) == (0.1, 0.0)
    epochs = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH / (5011 + 11540)
    assert epochs == 100
    assert (cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.POLY_POWER) == ("PolyLR", 0.9)
    assert (cfg.INPUT.RESIZE, cfg.INPUT.FORMAT) == ("fixed", "RGB")
    assert cfg.INPUT.FIXED_SIZE_TRAIN == cfg.INPUT.FIXED_SIZE_TEST == (512, 512)
    assert cfg.MODEL.DIFFUSION.TIMESTEP == 0
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[32], [64], [128], [256]]


@pytest.mark.parametrize(
    "target, test", [("darkzurich", "dark_zurich_val"), ("nighttime", "nighttime_driving_test")]
)
@pytest.mark.parametrize("name", NAMES)
def test_the_segmentation_experiments(target, test, name):
    cfg = load_config(str(CONFIGS / f"cityscapes2{target}_{name}.yaml"))
    assert cfg.TEXT.DOMAIN == "night"
    assert [modifier.name for modifier in get_modifiers(cfg)] == [name, name]
    assert cfg.DATASETS.TRAIN == ("cityscapes_train",)
    assert cfg.DATASETS.TEST == ("cityscapes_val", test)
    assert cfg.OUTPUT_DIR == f"output/cityscapes2{target}_{name}"
    # Section C, cross-domain table b.
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY) == (8e-5, 0.005)
    assert (cfg.SOLVER.UNET_LR_FACTOR, cfg.SOLVER.WEIGHT_DECAY_NORM) == (0.1, 0.0)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH) == (40_000, 2)
    assert (cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.POLY_POWER) == ("PolyLR", 1.0)
    assert (cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR) == (1500, 1e-6)
    assert (cfg.INPUT.FIXED_SIZE_TRAIN, cfg.INPUT.FIXED_SIZE_TEST) == ((1280, 720), (1024, 512))
    assert cfg.INPUT.CROP.ENABLED and cfg.INPUT.COLOR_AUG_SSD
    assert list(cfg.INPUT.CROP.SIZE) == [512, 512]
    assert cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA == 0.75
    assert (cfg.TEST.WINDOW_SIZE, cfg.TEST.WINDOW_STRIDE) == (512, 341)


def test_the_released_segmentation_preset():
    file = str(CONFIGS / "cityscapes2darkzurich_simple.yaml")
    cfg = load_config(file, preset="released_segmentation")
    assert (cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.UNET_LR_FACTOR) == (0.001, 0.1)
    assert cfg.MODEL.DIFFUSION.TIMESTEP == 1
    assert not cfg.MODEL.DIFFUSION.ATTENTION_MAPS.GRADIENT
    assert [modifier.name for modifier in get_modifiers(cfg)] == ["simple", "simple"]


def test_the_released_preset_differs_where_the_released_code_does():
    file = str(CONFIGS / "voc2comic_simple.yaml")
    cfg = load_config(file, preset="released_detection")
    assert [modifier.name for modifier in get_modifiers(cfg)] == ["null", "simple"]
    assert cfg.MODEL.DIFFUSION.TIMESTEP == 1
    assert not cfg.MODEL.DIFFUSION.ATTENTION_MAPS.GRADIENT
    assert cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH / (5011 + 11540) == 10
    assert load_config(file, preset="paper_tables").SOLVER.UNET_LR_FACTOR == 0.01


def test_presets_are_merged_in_their_order():
    file = str(CONFIGS / "voc2comic_simple.yaml")
    both = ("paper_tables", "released_detection")
    cfg, reverse = (load_config(file, preset=presets) for presets in (both, both[::-1]))
    assert cfg.SOLVER.UNET_LR_FACTOR == 1.0 and reverse.SOLVER.UNET_LR_FACTOR == 0.01
    for merged in (cfg, reverse):
        assert merged.MODEL.DIFFUSION.TIMESTEP == 1
    with pytest.raises(UserError, match="unknown preset 'b'"):
        load_config(file, preset=["paper_tables", "b"])


def test_overrides_come_last():
    file = str(CONFIGS / "voc2comic_simple.yaml")
    cfg = load_config(file, "released_detection", ["MODEL.DIFFUSION.TIMESTEP", "5"])
    assert cfg.MODEL.DIFFUSION.TIMESTEP == 5


@pytest.mark.parametrize("name", ["2024", "[1]", "(a)", "1e5", "-x", "100%d", "a b", "{ü}", "True"])
def test_a_name_is_taken_as_it_is(name):
    cfg = load_config(str(CONFIGS / "voc2comic_null.yaml"), overrides=["OUTPUT_DIR", name])
    assert cfg.OUTPUT_DIR == name


def test_a_byte_order_mark_is_no_key(tmp_path):
    text = f"_BASE_: {CONFIGS / 'voc2comic_null.yaml'}\nSEED: 5\n"
    (tmp_path / "my.yaml").write_text(text, "utf-8-sig")
    assert load_config(str(tmp_path / "my.yaml")).SEED == 5


@pytest.mark.parametrize(
    "text, message",
    [
        ("TEXT:\n  MODIFER: simple\n", "unknown config key TEXT.MODIFER; did you mean TEXT.MODIF"),
        ("INPUT:\n  FIXED_SIZE_TEST: big\n", "INPUT.FIXED_SIZE_TEST"),
        ("INPUT: [\n", "not a safe YAML file"),
        ("SEED: !!python/object/apply:os.getcwd []\n", "not a safe YAML file"),
        ("_BASE_: absent.yaml\n", "absent.yaml"),
        ("INPUT:\n  RESIZE: round\n", "INPUT.RESIZE is 'round': expected one of fixed"),
        ("INPUT:\n  FIXED_SIZE_TEST: (512,)\n", "FIXED_SIZE_TEST is (512,): expected width and"),
        ("TEST:\n  WINDOW_SIZE: 64\n  WINDOW_STRIDE: 65\n", "expected 1 to WINDOW_SIZE, 64"),
        ("TEST:\n  WINDOW_SIZE: 512\n", "CaptionedRCNN cannot test in windows"),
        ("TEST:\n  SUBMISSION: True\n", "TEST.SUBMISSION is for a segmentor"),
        (
            "TEST:\n  PRECISION: half\n",
            "TEST.PRECISION is 'half': expected one of fp32",
        ),
        ("TEST:\n  WINDOW_BATCH: 0\n", "TEST.WINDOW_BATCH is 0: expected 1 or more"),
        ("SOLVER:\n  CHECKPOINTS_KEPT: 0\n", "SOLVER.CHECKPOINTS_KEPT is 0"),
        ("SOLVER:\n  GRADIENT_ACCUMULATION: 0\n", "GRADIENT_ACCUMULATION is 0"),
    ],
)
def test_a_wrong_file_is_an_error(tmp_path, text, message):
    base = "" if "_BASE_" in text else f"_BASE_: {CONFIGS / 'voc2comic_null.yaml'}\n"
    (tmp_path / "my.yaml").write_text("VERSION: 2\n" + base + text)
    with pytest.raises(UserError, match=re.escape(message)):
        load_config(str(tmp_path / "my.yaml"))


def test_wrong_arguments_are_errors():
    file = str(CONFIGS / "voc2comic_null.yaml")
    with pytest.raises(UserError, match="no config file absent.yaml"):
        load_config("absent.yaml")
    with pytest.raises(UserError, match="unknown preset 'releasd'.*released_detection"):
        load_config(file, preset="releasd")
    with pytest.raises(UserError, match="come in pairs KEY VALUE"):
        load_config(file, overrides=["SEED"])
    with pytest.raises(UserError, match="DATASETS.TRAIN names no data set"):
        load_config()
    training = ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "fp16")
    for half in (training, ("TEST.PRECISION", "fp16")):
        with pytest.raises(UserError, match="fp16 needs a GPU"):
            load_config(file, overrides=[*half, "MODEL.DEVICE", "cpu"])
    graphs = ["MODEL.DIFFUSION.COMPILE", "blocks+graphs"]
    checkpointing = ["MODEL.DIFFUSION.GRADIENT_CHECKPOINTING", "True"]
    with pytest.raises(UserError, match='COMPILE.*need a GPU.*expected "blocks" or empty'):
        load_config(file, overrides=[*graphs, "MODEL.DEVICE", "cpu"])
    with pytest.raises(UserError, match="COMPILE.*recorded with.*GRADIENT_CHECKPOINTING"):
        load_config(file, overrides=[*graphs, *checkpointing])
    with pytest.raises(UserError, match="COMPILE is 'graph': expected empty, or one of graphs"):
        load_config(file, overrides=["MODEL.DIFFUSION.COMPILE", "graph"])


def test_no_two_configs_write_into_one_folder():
    files = [path for path in CONFIGS.rglob("*.yaml") if path.stem[0] != "B"]
    files = [path for path in files if path.parent.name != "presets"]
    # CLIP's own sentences come with a package that need not be installed.
    sentences = ["MODEL.CONDITIONER.TEMPLATES", "own"]
    folders = [load_config(str(file), overrides=sentences).OUTPUT_DIR for file in files]
    assert len(files) == len(set(folders)) >= 35
