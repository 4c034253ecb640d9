"""Depth from a config to results: losses, evaluation, files, drawings."""

import json

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from tadp_d2.engine.optimizer import RiseAndFall, build_optimizer, build_scheduler
from tadp_d2.errors import UserError
from tadp_d2.modeling.depth_estimator import DepthEstimator
from tadp_d2.tasks.task import get_task
from tadp_d2.visualization.depth_colors import HOLE, draw_depth, draw_error, with_scale


def image(caption="a bedroom", height=64, width=96, seed=0, output=None):
    generator = torch.Generator().manual_seed(seed)
    found = {
        "image": torch.randint(0, 256, (3, height, width), generator=generator).to(torch.uint8),
        "depth": torch.rand(height, width, generator=generator) * 5 + 1,
        "caption": caption,
        "file_name": "image.jpg",
    }
    return found | ({"height": output[0], "width": output[1]} if output else {})


@pytest.fixture
def build(make_depth_config):
    def build(*overrides):
        torch.manual_seed(0)
        model = build_model(make_depth_config(*overrides))
        # Of an untrained decoder nothing is left in digits of 5 m.
        for weight in model.depth_head.decode.parameters():
            torch.nn.init.normal_(weight, std=0.3)
        return model

    return build


# The papers have no attention maps here; they can be switched on.
@pytest.mark.parametrize("levels", [(), ("s3", "s4")])
def test_losses_and_depth_of_any_size(build, levels):
    model = build("TEST.WINDOW_SIZE", 0, "MODEL.DIFFUSION.ATTENTION_MAPS.LEVELS", levels)
    assert isinstance(model, DepthEstimator)
    channels = {level: shape.channels for level, shape in model.backbone.output_shape().items()}
    assert all((channels[level] > 77) == (level in levels) for level in channels)
    losses = model.train()([image(), image("a kitchen", 50, 70, 1)])
    assert set(losses) == {"loss_depth"}
    assert 0.1 < losses["loss_depth"] < 3
    losses["loss_depth"].backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    with torch.no_grad():
        outputs = model.eval()([image(), image(height=50, width=70, output=(33, 44))])
    assert [output["depth"].shape for output in outputs] == [(64, 96), (33, 44)]
    assert all(0 < output["depth"].min() and output["depth"].max() < 10 for output in outputs)


def test_pixels_without_truth_do_not_count(build):
    model = build().train()
    inputs, other = image(), image()
    for each in (inputs, other):
        each["depth"][:, 40:] = 0
    other["depth"][:, 80:] = -1
    losses = [model([each])["loss_depth"] for each in (inputs, other)]
    assert torch.equal(*losses)
    other["depth"][:, 39] += 1
    assert not torch.equal(losses[0], model([other])["loss_depth"])


def test_a_mirrored_test_is_the_mean_of_both(build):
    model = build("TEST.WINDOW_SIZE", 0).eval()
    inputs = image(width=70)
    with torch.no_grad():
        (both,) = model([inputs])
        model.mirror = False
        (plain,) = model([inputs])
        (mirrored,) = model([{**inputs, "image": inputs["image"].flip(-1)}])
    torch.testing.assert_close(both["depth"], (plain["depth"] + mirrored["depth"].flip(-1)) / 2)
    assert not torch.equal(both["depth"], plain["depth"])


def test_windows_are_averaged_where_they_overlap(build):
    model = build().eval()
    inputs = image(output=(32, 48))
    with torch.no_grad():
        (found,) = model([inputs])
        model.window_size = 0
        total, count = torch.zeros(64, 96), torch.zeros(64, 96)
        for x in (0, 32):
            part = {"image": inputs["image"][:, :, x : x + 64], "caption": inputs["caption"]}
            total[:, x : x + 64] += model([part])[0]["depth"]
            count[:, x : x + 64] += 1
    assert found["depth"].shape == (32, 48)
    expected = torch.nn.functional.interpolate(
        (total / count)[None, None], (32, 48), mode="bilinear"
    )
    torch.testing.assert_close(found["depth"], expected[0, 0], rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (("MODEL.DEPTH_HEAD.CHANNELS", 7), "CHANNELS is 7: expected an even number"),
        (("MODEL.DEPTH_HEAD.DECONV_CHANNELS", (8,) * 6), "expected at most five numbers"),
        (("MODEL.DEPTH_HEAD.MAX_DEPTH", 0.0), "MAX_DEPTH is 0"),
        (("INPUT.CUT_DEPTH", 1.5), "CUT_DEPTH is 1.5: expected 0 to 1"),
        (("TEST.COCO_METRICS", True), "TEST.COCO_METRICS is for a detector"),
        (("TEST.SUBMISSION", True), "TEST.SUBMISSION is for a segmentor"),
    ],
)
def test_wrong_settings(make_depth_config, overrides, message):
    with pytest.raises(UserError, match=message):
        make_depth_config(*overrides)


@pytest.mark.parametrize("key, value", [("INPUT.CUT_DEPTH", 0.5), ("TEST.MIRROR", True)])
def test_keys_of_depth_are_refused_elsewhere(make_config, key, value):
    with pytest.raises(UserError, match=f"{key} is {value}: it is for depth, not for detection"):
        make_config(key, value)


def test_a_data_set_without_depth(make_depth_config):
    task = get_task(make_depth_config())
    assert task.name == "depth"
    with pytest.raises(UserError, match="'watercolor_test' offers instances.*needs depth"):
        task.check_dataset("watercolor_test", training=False)


def test_the_learning_rate_rises_and_falls(make_depth_config):
    multiplier = RiseAndFall(0.06, 0.9)
    assert [multiplier(where) for where in (0, 0.5, 1)] == pytest.approx([0.06, 1, 0.06])
    # VPD's formula, of 24 epochs in two halves.
    highest, lowest = 5e-4, 3e-5
    for epoch in (1, 7, 12, 13, 20, 23):
        if epoch < 12:
            expected = (highest - lowest) * (epoch / 12) ** 0.9 + lowest
        else:
            expected = (lowest - highest) * (epoch / 12 - 1) ** 0.9 + highest
        assert multiplier(epoch / 24) * highest == pytest.approx(expected)
    # A schedule of one iteration divides by nothing.
    cfg = make_depth_config("SOLVER.MAX_ITER", 1)
    model = torch.nn.Linear(1, 1)
    optimizer = build_optimizer(cfg, model)
    scheduler = build_scheduler(cfg, optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.06 * cfg.SOLVER.BASE_LR)
    optimizer.step()
    scheduler.step()


@pytest.mark.parametrize("farthest, unit", [(10.0, 0.001), (80.0, 1 / 256)])
def test_depth_is_written_in_16_bits(make_depth_config, tmp_path, farthest, unit):
    task = get_task(make_depth_config("MODEL.DEPTH_HEAD.MAX_DEPTH", farthest))
    depth = torch.rand(20, 30) * farthest
    record = task.write({"depth": depth}, tmp_path / "room.json")
    stored = np.array(Image.open(tmp_path / "room.png"))
    assert stored.dtype == np.uint16 and record["meters_per_value"] == unit
    np.testing.assert_allclose(stored * unit, depth, atol=unit / 2 + 1e-6)
    assert record["farthest"] == depth.max() and record["depth_map"] == "room.png"
    json.dumps(record)


def test_near_is_light_and_holes_are_told_apart():
    depth = np.linspace(0, 10, 101)[None].repeat(3, axis=0)
    drawn = np.asarray(draw_depth(depth, 10.0))
    lightness = np.asarray(Image.fromarray(drawn).convert("L"), int)[0, 1:]
    assert (np.diff(lightness) <= 1).all() and lightness[0] > 200 > 30 > lightness[-1]
    assert tuple(drawn[0, 0]) == HOLE
    assert np.array_equal(draw_depth(depth + 20, 10.0), draw_depth(np.full_like(depth, 10), 10.0))


def test_an_error_is_lighter_the_larger_it_is_and_none_in_a_hole():
    truth = np.full((3, 101), 5.0)
    truth[0, 0] = 0
    off = np.linspace(-1, 1, 101)[None].repeat(3, axis=0)
    drawn = np.asarray(draw_error(truth + off, truth, 0.5))
    lightness = np.asarray(Image.fromarray(drawn).convert("L"), int)[1]
    # Too near and too far alike; light steadily up to the largest, and level beyond.
    assert np.array_equal(lightness, lightness[::-1])
    assert (np.diff(lightness[50:]) >= -1).all() and lightness[50] < 50 < 190 < lightness[75]
    assert len(set(lightness[75:])) == 1
    assert tuple(drawn[0, 0]) == HOLE


@pytest.mark.parametrize("size", [(1, 1), (640, 480), (20, 300)])
def test_the_scale_does_not_cover_the_image(size):
    plain = Image.new("RGB", size, "red")
    drawn = np.asarray(with_scale(plain, 7.5))
    assert (drawn == (255, 0, 0)).all(axis=2).sum() == size[0] * size[1]
