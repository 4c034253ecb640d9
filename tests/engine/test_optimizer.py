"""The rates that reach the optimizer are the configured ones."""

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from tadp_d2.engine.optimizer import build_optimizer, build_scheduler
from tadp_d2.errors import UserError

SETTINGS = (
    *("SOLVER.BASE_LR", 2e-5, "SOLVER.UNET_LR_FACTOR", 0.1, "SOLVER.WEIGHT_DECAY", 0.01),
    *("SOLVER.WEIGHT_DECAY_NORM", 0.0, "SOLVER.WARMUP_ITERS", 0, "SOLVER.MAX_ITER", 10),
)


@pytest.fixture
def model(make_config):
    return build_model(make_config())


def test_rate_and_decay_of_every_parameter(make_config, model):
    optimizer = build_optimizer(make_config(*SETTINGS), model)
    settings = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    norms = (nn.GroupNorm, nn.LayerNorm)
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad:
                assert id(parameter) not in settings
                continue
            lr, decay = settings.pop(id(parameter))
            assert lr == pytest.approx(2e-6 if ".unet." in name else 2e-5), name
            assert decay == (0.0 if isinstance(module, norms) else 0.01), name
    assert not settings
    groups = [(g["part"], g["weight_decay"]) for g in optimizer.param_groups]
    assert sorted(groups) == [("head", 0.01), ("unet", 0.0), ("unet", 0.01)]


def test_detectron2s_settings_for_biases_are_kept(make_config, model):
    biases = ("SOLVER.BIAS_LR_FACTOR", 2.0, "SOLVER.WEIGHT_DECAY_BIAS", 0.5)
    optimizer = build_optimizer(make_config(*SETTINGS, *biases), model)
    bias = model.backbone.bottom_up.unet.unet.conv_in.bias
    (group,) = [g for g in optimizer.param_groups if any(p is bias for p in g["params"])]
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(4e-6), 0.5)


def rates(cfg, model):
    optimizer = build_optimizer(cfg, model)
    scheduler = build_scheduler(cfg, optimizer)
    table = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        table.append({group["part"]: group["lr"] for group in optimizer.param_groups})
        optimizer.step()
        scheduler.step()
    return table


def test_the_papers_schedule_per_iteration(make_config, model):
    for iteration, row in enumerate(rates(make_config(*SETTINGS), model)):
        factor = (1 - iteration / 10) ** 0.9
        assert row["head"] == pytest.approx(2e-5 * factor)
        assert row["unet"] == pytest.approx(2e-6 * factor)


def test_linear_warm_up(make_config, model):
    warm = ("SOLVER.WARMUP_ITERS", 4, "SOLVER.WARMUP_FACTOR", 1e-6, "SOLVER.POLY_POWER", 1.0)
    heads = [row["head"] / 2e-5 for row in rates(make_config(*SETTINGS, *warm), model)]
    assert heads[:4] == pytest.approx([0.6 * i / 4 for i in range(4)], abs=2e-6)
    assert heads[4:] == pytest.approx([1 - i / 10 for i in range(4, 10)])


def test_constant_warm_up(make_config, model):
    warm = ("SOLVER.WARMUP_ITERS", 4, "SOLVER.WARMUP_FACTOR", 0.25, "SOLVER.POLY_POWER", 1.0)
    cfg = make_config(*SETTINGS, *warm, "SOLVER.WARMUP_METHOD", "constant")
    heads = [row["head"] / 2e-5 for row in rates(cfg, model)]
    assert heads == pytest.approx([0.25] * 4 + [1 - i / 10 for i in range(4, 10)])


def test_a_run_cut_short_for_a_trial_is_trained_all_the_same(make_config, model):
    warm = ("SOLVER.WARMUP_ITERS", 1500, "SOLVER.WARMUP_FACTOR", 1e-6, "SOLVER.POLY_POWER", 1.0)
    heads = [row["head"] / 2e-5 for row in rates(make_config(*SETTINGS, *warm), model)]
    assert heads[:5] == pytest.approx([0.5 * i / 5 for i in range(5)], abs=2e-6)
    assert heads[5:] == pytest.approx([1 - i / 10 for i in range(5, 10)])


def test_detectron2s_schedules_can_be_chosen(make_config, model):
    steps = ("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.STEPS", (5,))
    heads = [row["head"] for row in rates(make_config(*SETTINGS, *steps), model)]
    assert heads == pytest.approx([2e-5] * 5 + [2e-6] * 5)


def test_an_unknown_schedule_is_named(make_config, model):
    cfg = make_config(*SETTINGS, "SOLVER.LR_SCHEDULER_NAME", "Poly")
    with pytest.raises(UserError, match="SOLVER.LR_SCHEDULER_NAME is 'Poly'"):
        rates(cfg, model)


def test_gradients_are_clipped_before_the_step(make_config, model):
    clip = (
        *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"),
        *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.5),
    )
    optimizer = build_optimizer(make_config(*SETTINGS, *clip), model)
    parameter = optimizer.param_groups[0]["params"][0]
    parameter.grad = torch.full_like(parameter, 100.0)
    optimizer.step()
    assert parameter.grad.norm().item() == pytest.approx(0.5, rel=1e-3)
