"""Semantic FPN with dropout and focal loss, and UperNet, by independent counts."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch.nn import functional as F

from tadp_d2.errors import UserError
from tadp_d2.modeling.heads.semantic_fpn_head import SemanticFPNHead, focal_loss
from tadp_d2.modeling.heads.upernet_head import UperNetHead

CHANNELS = {"s3": 8, "s4": 13, "s5": 16, "s6": 12}
SHAPES = {
    level: ShapeSpec(channels=channels, stride=8 * 2**i)
    for i, (level, channels) in enumerate(CHANNELS.items())
}


def make_features(batch=2, height=64, width=128, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return {
        level: torch.randn(
            batch, shape.channels, height // shape.stride, width // shape.stride, generator=rng
        )
        for level, shape in SHAPES.items()
    }


def make_targets(classes, batch=2, height=64, width=128):
    rng = torch.Generator().manual_seed(1)
    targets = torch.randint(0, classes, (batch, height, width), generator=rng)
    targets[:, :8] = 255
    return targets


def make_fpn_head(kind=SemanticFPNHead, **options):
    torch.manual_seed(0)
    settings = {"num_classes": 5, "conv_dims": 32, "common_stride": 8, "norm": "GN"}
    return kind(SHAPES, **settings, ignore_value=255, **options)


def test_without_dropout_it_is_detectron2s_head():
    theirs, ours = make_fpn_head(SemSegFPNHead), make_fpn_head()
    ours.load_state_dict(theirs.state_dict())
    features, targets = make_features(), make_targets(5)
    assert torch.equal(theirs.layers(features), ours.layers(features))
    assert torch.equal(*(h(features, targets)[1]["loss_sem_seg"] for h in (theirs, ours)))


def test_dropout_drops_whole_channels_in_training_only():
    head = make_fpn_head(dropout=0.5)
    seen = []
    head.predictor.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    features = make_features()
    head.eval().layers(features)
    plain = seen.pop()
    torch.manual_seed(2)
    head.train().layers(features)
    (dropped,) = seen
    absent = (dropped == 0).all(dim=(2, 3))
    assert 0.2 < absent.float().mean() < 0.8
    torch.testing.assert_close(dropped[~absent], 2 * plain[~absent])


def test_focal_loss_of_each_class_against_the_others():
    rng = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 4, 3, 5, generator=rng, dtype=torch.float64)
    targets = torch.randint(0, 4, (2, 3, 5), generator=rng)
    targets[0, 0] = 255
    expected = 0.0
    for cls in range(4):
        own = []
        for b, y, x in (targets != 255).nonzero().tolist():
            p = torch.sigmoid(logits[b, cls, y, x])
            p = p if targets[b, y, x] == cls else 1 - p
            own.append(-((1 - p) ** 2) * p.log())
        expected += sum(own) / len(own)
    torch.testing.assert_close(focal_loss(logits, targets, 2.0, 255), expected)
    # Of gamma 0 it is binary cross-entropy, and so it is not cross-entropy.
    head = make_fpn_head(focal_gamma=2.0)
    features, full = make_features(), make_targets(5)
    enlarged = F.interpolate(head.layers(features), scale_factor=8, mode="bilinear")
    loss = head(features, full)[1]["loss_sem_seg"]
    torch.testing.assert_close(loss, focal_loss(enlarged, full, 2.0, 255))


def make_upernet(**options):
    torch.manual_seed(0)
    return UperNetHead(SHAPES, num_classes=5, channels=16, auxiliary_channels=8, **options)


def test_upernet_enlarges_to_the_image_and_pools_the_coarsest_level():
    head = make_upernet().eval()
    features = make_features()
    logits, losses = head(features)
    assert logits.shape == (2, 5, 64, 128) and losses == {}
    # The pyramid's widest cell carries one corner of the coarsest level everywhere.
    changed = {**features, "s6": features["s6"].clone()}
    changed["s6"][..., 0, 0] += 10
    assert not torch.isclose(head(changed)[0][..., -1, -1], logits[..., -1, -1]).all()
    # The auxiliary head has no part in testing, and no level is left out.
    for level in CHANNELS:
        other = {**features, level: features[level] + 1}
        assert not torch.allclose(head(other)[0], logits)


def test_upernets_losses_are_cross_entropies_and_reach_every_parameter():
    head = make_upernet(auxiliary_weight=0.4, dropout=0.1).train()
    features, targets = make_features(), make_targets(5)
    torch.manual_seed(5)
    nothing, losses = head(features, targets)
    assert nothing is None and set(losses) == {"loss_sem_seg", "loss_sem_seg_auxiliary"}
    torch.manual_seed(5)
    maps = [features[level] for level in head.in_features]
    for name, own, weight in (
        ("loss_sem_seg", head.main, 1),
        ("loss_sem_seg_auxiliary", head.auxiliary, 0.4),
    ):
        enlarged = F.interpolate(own(maps), size=(64, 128), mode="bilinear", align_corners=False)
        expected = weight * F.cross_entropy(enlarged, targets, ignore_index=255)
        torch.testing.assert_close(losses[name], expected)
    sum(losses.values()).backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []
    # The auxiliary head reads the third level alone.
    assert head.auxiliary.convs[0].conv.in_channels == CHANNELS["s5"]


def test_upernet_without_the_auxiliary_head():
    head = make_upernet(auxiliary_weight=0.0).train()
    assert set(head(make_features(), make_targets(5))[1]) == {"loss_sem_seg"}


def test_upernet_on_one_image_at_a_time_is_refused():
    head = make_upernet().train()
    with pytest.raises(UserError, match="one image at a time.*SOLVER.IMS_PER_BATCH"):
        head(make_features(batch=1), make_targets(5, batch=1))


@pytest.mark.parametrize(
    "overrides, message",
    [
        (("DROPOUT", 0.1), "DROPOUT is 0.1: it is for SemanticFPNHead and UperNetHead"),
        (("FOCAL_GAMMA", 2.0), "FOCAL_GAMMA is 2.0: it is for SemanticFPNHead, and"),
        (("NAME", "UperNetHead", "FOCAL_GAMMA", 2.0), "it is for SemanticFPNHead, and"),
        (("AUXILIARY_WEIGHT", 0.1), "AUXILIARY_WEIGHT is 0.1: it is for UperNetHead"),
        (("DROPOUT", 1.0), "DROPOUT is 1.0: expected 0 or more, below 1"),
    ],
)
def test_keys_of_a_head_that_does_not_act_on_them(make_segmentation_config, overrides, message):
    keys = [f"MODEL.SEM_SEG_HEAD.{o}" if i % 2 == 0 else o for i, o in enumerate(overrides)]
    with pytest.raises(UserError, match=message):
        make_segmentation_config(*keys)
