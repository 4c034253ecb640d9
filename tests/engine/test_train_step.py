"""One iteration: accumulation and mixed precision."""

import copy

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from tadp_d2.engine.train_step import AccumulatingTrainer, NonFiniteLoss


class _Regression(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)
        self.dtypes = []
        self.weight = 1.0

    def forward(self, batch):
        out = self.layer(torch.stack([x for x, _ in batch]))
        self.dtypes.append(out.dtype)
        error = out[:, 0] - torch.tensor([y for _, y in batch])
        return {"loss": self.weight * error.square().mean()}


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(3, generator=generator), float(i)) for i in range(8)]


class _Noisy(_Regression):
    """Draws at random, as a detector's sampling does."""

    def forward(self, batch):
        return {"loss": super().forward(batch)["loss"] * torch.rand(())}


def test_an_iteration_draws_the_same_whatever_came_before():
    losses = []
    for drawn_before in (0, 5):
        model = _Noisy()
        trainer = AccumulatingTrainer(
            model, [data(), data()], torch.optim.SGD(model.parameters(), lr=0.0), seed=7
        )
        with EventStorage(0) as trainer.storage:
            for trainer.iter in range(2):
                torch.rand(drawn_before)
                trainer.run_step()
            losses.append([value for value, _ in trainer.storage.history("total_loss").values()])
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[0][1]


# A fused optimizer, as ours, leaves the step out by itself.
@pytest.mark.parametrize("fused", [False, True])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(fused):
    model = _Regression()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    broken = [*data()[:3], (torch.full((3,), torch.nan), 0.0)]
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    trainer = AccumulatingTrainer(model, [broken], optimizer)
    with EventStorage(0) as trainer.storage, pytest.raises(NonFiniteLoss, match="loss nan") as stop:
        trainer.run_step()
    assert stop.value.inputs == broken
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def train(batches, optimizer_class=torch.optim.AdamW, weight=1.0, **options):
    model = _Regression()
    model.weight = weight
    optimizer = optimizer_class(model.parameters(), lr=0.1 / weight)
    trainer = AccumulatingTrainer(model, batches, optimizer, **options)
    with EventStorage(0) as storage:
        trainer.storage = storage
        trainer.run_step()
        trainer.run_step()
        losses = [value for value, _ in storage.history("total_loss").values()]
    return model, losses


def test_accumulated_batches_equal_one_large_batch():
    examples = data()
    large, large_losses = train([examples[:4], examples[4:]])
    small, small_losses = train([examples[i : i + 2] for i in range(0, 8, 2)], accumulation=2)
    torch.testing.assert_close(small.layer.weight, large.layer.weight)
    assert small_losses == pytest.approx(large_losses)


def test_a_fused_optimizer_takes_the_same_steps_whether_or_not_it_may_leave_one_out():
    def fused(parameters, lr):
        return torch.optim.AdamW(parameters, lr=lr, fused=True)

    def plain(parameters, lr):
        optimizer = fused(parameters, lr)
        optimizer._step_supports_amp_scaling = False
        return optimizer

    (one, losses), (other, expected) = (train([data(), data(1)], own) for own in (fused, plain))
    assert torch.equal(one.layer.weight, other.layer.weight)
    assert losses == expected


def test_bf16_on_the_cpu_keeps_weights_in_fp32():
    model, losses = train([data(), data(1)], precision="bf16")
    assert model.dtypes == [torch.bfloat16] * 2
    assert model.layer.weight.dtype == torch.float32
    _, full = train([data(), data(1)])
    assert losses == pytest.approx(full, rel=0.05)
    assert losses != full


def test_fp16_clips_the_true_gradients_and_not_the_scaled_ones():
    class Clipped(torch.optim.SGD):
        """Fused, and clips in its step, as ours with Detectron2's clipping."""

        def __init__(self, parameters, lr):
            super().__init__(parameters, lr, fused=True)

        def step(self, closure=None):
            parameters = [p for group in self.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            super().step(closure)

    # A small loss, so that its gradients are below the clip and do not overflow when scaled.
    reduced, _ = train([data(), data(1)], Clipped, weight=1e-3, precision="fp16")
    full, _ = train([data(), data(1)], Clipped, weight=1e-3)
    torch.testing.assert_close(reduced.layer.weight, full.layer.weight, rtol=0.02, atol=0.02)


def test_a_restored_state_goes_on_to_the_same_weights():
    def trainer(model, **options):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        return AccumulatingTrainer(model, [data(), data(1), data(2)], optimizer, **options)

    def run(trainer, iterations):
        with EventStorage() as trainer.storage:
            for trainer.iter in iterations:
                trainer.run_step()

    whole = trainer(_Noisy())
    run(whole, range(3))
    stopped = trainer(_Noisy())
    run(stopped, range(1))
    # As a checkpoint keeps them: nothing may be shared with the trainer that goes on.
    state = copy.deepcopy(stopped.state_dict())
    weights = copy.deepcopy(stopped.model.state_dict())
    resumed = trainer(_Noisy())
    resumed.model.load_state_dict(weights)
    resumed.load_state_dict(state)
    resumed.data_loader = [data(1), data(2)]
    run(resumed, range(1, 3))
    assert torch.equal(resumed.model.layer.weight, whole.model.layer.weight)
    # Without the optimizer's averages it would be another weight.
    forgetful = trainer(_Noisy())
    forgetful.model.load_state_dict(weights)
    forgetful.data_loader = [data(1), data(2)]
    run(forgetful, range(1, 3))
    assert not torch.equal(forgetful.model.layer.weight, whole.model.layer.weight)

    # The first gradients overflow, and the scale is halved.
    scaled, fresh = trainer(_Noisy(), precision="fp16"), trainer(_Noisy(), precision="fp16")
    run(scaled, range(1))
    kept = scaled.state_dict()["grad_scaler"]
    assert kept["scale"] != fresh.state_dict()["grad_scaler"]["scale"]
    fresh.load_state_dict(copy.deepcopy(scaled.state_dict()))
    assert fresh.state_dict()["grad_scaler"] == kept
