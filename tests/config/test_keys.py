"""The rows of the keys: what they allow, what they say of results, what reads them."""

import math
import subprocess
import sys

import pytest
from detectron2.config import get_cfg

from tadp_d2.config import add_tadp_config
from tadp_d2.config.keys import (
    ACTING,
    ADDED,
    CHANGED,
    DETECTRON2,
    IDLE,
    KEYS,
    Changes,
    at_least,
    between,
    check_values,
    find_key,
    flatten,
    is_known,
    is_setting,
    or_none,
)
from tadp_d2.errors import UserError
from tadp_d2.precision import DTYPES


@pytest.fixture(scope="module")
def theirs():
    return flatten(get_cfg())


@pytest.fixture(scope="module")
def defaults():
    cfg = get_cfg()
    add_tadp_config(cfg)
    return flatten(cfg)


def test_a_key_has_one_row_and_a_row_one_key(theirs):
    assert len(KEYS) == len(ADDED) + len(CHANGED) + len(IDLE)
    assert not {key.name for key in ADDED} & theirs.keys()
    assert {key.name for key in CHANGED} <= theirs.keys()
    assert all(key.default is not DETECTRON2 and key.meaning for key in ADDED)


def test_the_config_has_the_defaults_of_the_rows_and_allows_them(theirs, defaults):
    own = {key.name: key.default for key in KEYS.values() if key.default is not DETECTRON2}
    assert defaults == theirs | own
    # Detectron2 registers nothing, and a run must name its own.
    check_values(defaults, defaults)
    for name, value in defaults.items():
        assert name not in KEYS or not KEYS[name].allowed or KEYS[name].allowed.holds(value), name


def test_defaults_are_not_shared_between_configs():
    first, second = get_cfg(), get_cfg()
    add_tadp_config(first)
    add_tadp_config(second)
    first.MODEL.PIXEL_MEAN.append(1.0)
    assert second.MODEL.PIXEL_MEAN == [127.5, 127.5, 127.5]


@pytest.mark.parametrize(
    "allowed, good, bad",
    [
        (at_least(1), (1, 1.5, 10**9), (0, 0.99, -1, math.nan, math.inf, "2", None)),
        (between(0, 1), (0, 0.5, 1), (-0.1, 1.1, math.nan, "a")),
        (or_none(at_least(0)), (None, 0), (-1, "None")),
        (KEYS["INPUT.FIXED_SIZE_TEST"].allowed, [(1, 2)], [(1,), (1, 2, 3), (0, 1), (1.5, 2)]),
        (
            KEYS["MODEL.DIFFUSION.ATTENTION_MAPS.PATHS"].allowed,
            [("up",), ("mid",), ("down", "up")],
            [(), ("middle",), ("up", "s4"), (1,)],
        ),
        (KEYS["MODEL.PIXEL_STD"].allowed, [[1, 2.5, 255]], [[0, 1, 1], [1, 1], ["a", 1, 1]]),
        (KEYS["TEST.AUG.MIN_SIZES"].allowed, [(400,), (400, 500)], [(), (0,), (1.5,), ("a",)]),
        (KEYS["SEED"].allowed, (-1, 0, 2**31), (2**31 + 1,)),
        (KEYS["TEST.PRECISION"].allowed, DTYPES, ("half",)),
    ],
)
def test_what_rows_allow(allowed, good, bad):
    assert [value for value in good if not allowed.holds(value)] == []
    assert [value for value in bad if allowed.holds(value)] == []


def test_a_value_that_is_not_allowed_is_named_with_its_key(defaults):
    with pytest.raises(UserError, match=r"^TEST.WINDOW_BATCH is 0: expected 1 or more$"):
        check_values(defaults | {"TEST.WINDOW_BATCH": 0}, defaults)


def test_it_is_known_of_every_key_of_detectron2_what_it_does(theirs):
    later = (
        *("DATALOADER.REPEAT_SQRT", "FLOAT32_PRECISION", "MODEL.ROI_BOX_HEAD.USE_FED_LOSS"),
        *("SOLVER.BASE_LR_END", "SOLVER.NUM_DECAYS", "SOLVER.RESCALE_INTERVAL"),
    )
    unknown = [name for name in (*theirs, *later) if not is_known(name)]
    assert not unknown, "do runs act on them? One row each, or a name in ACTING"
    # And no row or name is left over.
    sections = {name.rpartition(".")[0] for name in theirs}
    assert {*ACTING} <= {*theirs, *later, *sections}
    assert {key.name for key in IDLE} <= {*theirs, *later}


IDLE_VALUES = {
    "DATALOADER.ASPECT_RATIO_GROUPING": True,
    "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
    "DATALOADER.REPEAT_THRESHOLD": 0.01,
    "MODEL.LOAD_PROPOSALS": True,
    "DATASETS.PROPOSAL_FILES_TRAIN": ("a.pkl",),
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": 10,
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.FPN.IN_FEATURES": ["s3", "s4"],
    "MODEL.RESNETS.DEPTH": 101,
    "SOLVER.MOMENTUM": 0.95,
    "SOLVER.NESTEROV": True,
    "SOLVER.REFERENCE_WORLD_SIZE": 8,
    "TEST.PRECISE_BN.ENABLED": True,
    "GLOBAL.HACK": 2.0,
}


@pytest.mark.parametrize("name", IDLE_VALUES)
def test_a_key_that_no_run_acts_on_is_refused(make_config, name):
    with pytest.raises(UserError, match=rf"^{name} is .*, which does nothing here: .*; leave it"):
        make_config(name, IDLE_VALUES[name])


def test_a_key_of_a_later_detectron2_may_stay_as_it_is_only(defaults):
    later = defaults | {"SOLVER.LATER": 1}
    check_values(later, later)
    with pytest.raises(UserError, match=r"SOLVER.LATER is 2, .* no part is known .* leave it at 1"):
        check_values(later | {"SOLVER.LATER": 2}, later)


def test_options_of_what_is_switched_off_may_stand(make_config):
    """Else an override that switches something off would need others."""
    make_config("INPUT.CROP.SIZE", [64, 64], "MODEL.RETINANET.NUM_CLASSES", 3, "SOLVER.GAMMA", 0.5)


def test_what_changes_results():
    """One key of each kind; Detectron2's own without a row go by their names."""
    assert find_key("SOLVER.GAMMA").changes == Changes.TRAINING
    assert find_key("MODEL.RPN.NMS_THRESH").changes == Changes.TRAINING
    assert find_key("TEST.DETECTIONS_PER_IMAGE").changes == Changes.TESTING
    assert find_key("MODEL.RPN.PRE_NMS_TOPK_TEST").changes == Changes.TESTING
    assert find_key("MODEL.RPN.PRE_NMS_TOPK_TRAIN").changes == Changes.TRAINING
    assert find_key("TEST.PRECISION").changes == Changes.TESTING
    assert find_key("OUTPUT_DIR").changes == Changes.NOTHING
    settings = ("SOLVER.GAMMA", "SOLVER.BASE_LR", "TEST.PRECISION", "TEXT.MODIFIER_TRAIN")
    others = ("SEED", "TEXT.MODIFIER", "MODEL.WEIGHTS", "OUTPUT_DIR", "TEST.GALLERY_IMAGES")
    assert all(map(is_setting, settings)) and not any(map(is_setting, others))


def test_keys_of_testing_change_no_training():
    """Else a run could not be continued with others."""
    testing = [k for k in KEYS.values() if k.name.startswith("TEST.") or k.name.endswith("_TEST")]
    assert [k.name for k in testing if k.changes == Changes.TRAINING and not k.idle] == []


def test_the_rows_are_read_without_detectron2():
    code = "import sys, tadp_d2.reports.runs; assert not {'torch', 'detectron2'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_keys_come_with_the_parts():
    code = (
        "from tadp_d2.config import add_tadp_config\n"
        "from detectron2.data import DatasetCatalog as D\n"
        "from detectron2.modeling import BACKBONE_REGISTRY as B, META_ARCH_REGISTRY as M\n"
        "assert 'watercolor_test' in D.list() and 'dark_zurich_val' in D.list()\n"
        "assert 'build_diffusion_fpn_backbone' in B and 'CaptionedRCNN' in M"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
