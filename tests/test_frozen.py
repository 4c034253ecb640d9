"""Frozen parts do not train, and do not go into checkpoints."""

import torch
from torch import nn

from tadp_d2.frozen import Frozen, fingerprint


def test_a_frozen_part_is_in_no_state_dict_and_missed_by_none():
    model = nn.ModuleDict({"trained": nn.Linear(2, 2), "frozen": Frozen(nn.BatchNorm1d(2))})
    state = model.state_dict()
    assert set(state) == {"trained.weight", "trained.bias"}
    assert model.load_state_dict(state, strict=True)
    other = nn.ModuleDict({"trained": nn.Linear(2, 2), "frozen": Frozen(nn.BatchNorm1d(2))})
    nn.init.constant_(other["frozen"].module.weight, 7)
    other.load_state_dict(state, strict=True)
    assert torch.equal(other["trained"].weight, model["trained"].weight)
    assert torch.equal(other["frozen"].module.weight, torch.full((2,), 7.0))


def test_a_frozen_part_stays_in_eval_mode_without_gradients():
    frozen = Frozen(nn.BatchNorm1d(2))
    nn.Sequential(frozen).train()
    before = frozen.module.running_mean.clone()
    out = frozen(torch.randn(8, 2, requires_grad=True))
    assert not out.requires_grad
    assert torch.equal(frozen.module.running_mean, before)
    assert not list(filter(lambda p: p.requires_grad, frozen.parameters()))


def test_a_frozen_part_moves_with_its_parent():
    assert next(nn.Sequential(Frozen(nn.Linear(1, 1))).to("meta").parameters()).is_meta


def test_fingerprints_tell_values_names_and_shapes_apart():
    first, same = nn.Linear(2, 2), nn.Linear(2, 2)
    same.load_state_dict(first.state_dict())
    assert fingerprint(first) == fingerprint(same) == fingerprint(first.double())
    with torch.no_grad():
        same.bias[0] += 1e-6
    assert fingerprint(first) != fingerprint(same)
    assert fingerprint(torch.zeros(2, 3)) != fingerprint(torch.zeros(3, 2))
