"""The head of referring segmentation: the golden files, any backbone, the whole model."""

import json
import os
from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

from tadp_d2.conditioning.text_adapter import TextAdapter
from tadp_d2.diffusion.diffusion_model import Context, MapOptions
from tadp_d2.diffusion.unet_features import UNetFeatures
from tadp_d2.evaluation.refer_metrics import object_mask
from tadp_d2.modeling.heads.refer_head import ReferHead

FOLDER = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parents[1] / "golden")
LEVELS = {8: "s3", 16: "s4", 32: "s5", 64: "s6"}


def read_golden(name):
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.fixture(scope="module")
def golden():
    return read_golden("vpd_refer")


def golden_head(tensors):
    """The head with the weights of the released one, which counts its levels from the finest, 1."""
    shapes = {
        level: ShapeSpec(channels=tensors[f"features.stride{stride}"].shape[1], stride=stride)
        for stride, level in LEVELS.items()
    }
    head = ReferHead(shapes, norm="BN")
    weights = {
        f"predictor.{kind}": tensors[f"classifier.conv1_1.{kind}"] for kind in ("weight", "bias")
    }
    for step, level in enumerate((4, 3, 2)):
        for layer in (1, 2):
            name = f"steps.{step}.{layer - 1}"
            weights[f"{name}.weight"] = tensors[f"classifier.conv{layer}_{level}.weight"]
            for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                weights[f"{name}.norm.{kind}"] = tensors[f"classifier.bn{layer}_{level}.{kind}"]
    head.load_state_dict(weights)
    return head.eval()


def golden_adapter(tensors):
    adapter = TextAdapter(nn.Identity(), tensors["tokens"].shape[-1])
    names = {"mlp.0": "adapter.fc.0", "mlp.2": "adapter.fc.2"}
    weights = {
        f"{own}.{kind}": tensors[f"{other}.{kind}"]
        for own, other in names.items()
        for kind in ("weight", "bias")
    }
    adapter.load_state_dict({**weights, "gamma": tensors["gamma"]})
    return adapter


@torch.no_grad()
def test_agrees_with_the_released_model(golden):
    tensors, metadata = golden
    context = golden_adapter(tensors).adapt(tensors["tokens"])
    torch.testing.assert_close(context, tensors["context"], rtol=2e-6, atol=2e-6)
    unet = UNet2DConditionModel(**json.loads(metadata["unet_config"]))
    prefix = "unet."
    unet.load_state_dict(
        {k[len(prefix) :]: v.float() for k, v in tensors.items() if k.startswith(prefix)}
    )
    features = UNetFeatures(unet, maps=MapOptions(tokens=int(metadata["token_length"]))).eval()
    found = features(tensors["latents"], Context(context), int(metadata["timestep"]))
    for stride, level in LEVELS.items():
        _close(found[level], tensors[f"features.stride{stride}"])
    head = golden_head(tensors)
    _close(head.layers(found), tensors["logits_small"])
    logits, losses = head(found)
    assert losses == {}
    assert logits.shape[-1] == int(metadata["image_size"])
    rows = json.loads(metadata["logits_rows"])
    _close(logits[:, :, rows], tensors["logits_rows"])
    masks = torch.stack([object_mask(own) for own in logits])
    # A pixel whose two logits are all but equal may fall on either side.
    clear = (logits[:, 0] - logits[:, 1]).abs() > 1e-4
    assert torch.equal(masks[clear], tensors["mask"].bool()[clear])
    assert clear.float().mean() > 0.99


def _close(found, expected):
    error = ((found - expected).abs() / (1 + expected.abs())).max()
    assert error < 1e-4, error


def test_the_loss_is_the_released_one():
    tensors, metadata = read_golden("refer_evaluation")
    weights = json.loads(metadata["loss_weights"])
    head = ReferHead(
        {"s3": ShapeSpec(channels=4, stride=1), "s4": ShapeSpec(channels=4, stride=2)},
        class_weights=weights,
    ).train()
    logits = tensors["loss.logits"].clone().requires_grad_()
    head.layers = lambda features: logits
    result, losses = head({}, tensors["loss.targets"].long())
    assert result is None
    torch.testing.assert_close(losses["loss_sem_seg"], tensors["loss.value"][0], rtol=2e-6, atol=0)
    losses["loss_sem_seg"].backward()
    torch.testing.assert_close(logits.grad, tensors["loss.grad"], rtol=2e-5, atol=1e-9)


def test_pixels_without_truth_do_not_count():
    shapes = {"s3": ShapeSpec(channels=6, stride=8), "s4": ShapeSpec(channels=8, stride=16)}
    torch.manual_seed(0)
    head = ReferHead(shapes, norm="").train()
    assert head.predictor.in_channels == 4
    features = {"s3": torch.randn(1, 6, 4, 6), "s4": torch.randn(1, 8, 2, 3)}
    targets = torch.randint(0, 2, (1, 32, 48))
    padded = targets.clone()
    padded[:, :, 40:] = 255
    loss = head(features, padded)[1]["loss_sem_seg"]
    logits = head.eval()(features)[0]
    expected = F.cross_entropy(logits[..., :40], targets[..., :40], torch.tensor([0.9, 1.1]))
    torch.testing.assert_close(loss, expected)


def test_coordinates_say_where_a_place_is():
    """Of features that are alike everywhere, only they make a difference between places."""
    shapes = {"s3": ShapeSpec(channels=3, stride=8), "s4": ShapeSpec(channels=4, stride=16)}
    features = {"s3": torch.ones(1, 3, 5, 9), "s4": torch.ones(1, 4, 3, 5)}
    head = ReferHead(shapes, norm="", coordinates=True).eval()
    read = []
    head.steps[0][0].register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    head.layers(features)
    x, y = read[0][0, -2:]
    assert read[0].shape[1] == 4 + 3 + 2
    assert x[0].tolist() == x[4].tolist() == [-1 + step / 4 for step in range(9)]
    assert y[:, 0].tolist() == y[:, 8].tolist() == [-1, -0.5, 0, 0.5, 1]


@pytest.mark.parametrize("coordinates", [False, True])
def test_every_part_learns_and_an_uneven_level_fits(coordinates):
    shapes = {f"s{n}": ShapeSpec(channels=c, stride=2**n) for n, c in ((3, 5), (4, 7), (5, 6))}
    head = ReferHead(shapes, coordinates=coordinates).train()
    # Levels of 5 x 7, 3 x 4 and 2 x 2: none is twice another.
    features = {
        f"s{n}": torch.randn(2, c, h, w)
        for n, c, h, w in ((3, 5, 5, 7), (4, 7, 3, 4), (5, 6, 2, 2))
    }
    head(features, torch.randint(0, 2, (2, 40, 56)))[1]["loss_sem_seg"].backward()
    assert not [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(isinstance(m.norm, nn.BatchNorm2d) for step in head.steps for m in step)
