"""Which passes are recorded, and that replaying them gives the numbers and gradients of none.

A GPU is not needed: a recording stands in that computes anew in the memory of the first pass.
`tests/cuda` has the same with CUDA graphs.
"""

import functools
import logging

import pytest
import torch
from torch import nn

from tadp_d2.diffusion.cuda_graphs import GraphedPass, Recording, _own_leaves, record_on_gpu
from tadp_d2.diffusion.diffusion_model import Context
from tadp_d2.errors import UserError


class _Features(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 2)
        self.unused = nn.Parameter(torch.ones(2))
        self.passes = 0

    def forward(self, latents, context, timestep):
        self.passes += 1
        hidden = self.first(latents + context.embeddings * timestep).tanh()
        return {"s3": hidden, "s4": self.second(hidden)}


def record(module, compute, tensors):
    """On the CPU: to replay is to compute anew, into the memory of the first pass."""
    enabled = torch.is_grad_enabled()
    inputs = tuple(t.detach().clone().requires_grad_(enabled and t.requires_grad) for t in tensors)
    sources = (*inputs, *(p for p in module.parameters() if p.requires_grad))
    last = []

    def compute_again():
        with torch.set_grad_enabled(enabled):
            last[:] = compute(inputs)
        return [output.detach() for output in last]

    def differentiate():
        pairs = [(o, g) for o, g in zip(last, given, strict=True) if g is not None]
        needing = [s for s in sources if s.requires_grad]
        outputs_of, gradients_of = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(outputs_of, needing, gradients_of, allow_unused=True))
        return [next(found) if source.requires_grad else None for source in sources]

    def overwrite(buffers, make):
        for buffer, new in zip(buffers, make(), strict=True):
            if buffer is not None:
                buffer.copy_(new)

    outputs = tuple(output.clone() for output in compute_again())
    forward = functools.partial(overwrite, outputs, compute_again)
    if not enabled:
        return Recording(inputs, outputs, forward)
    given = tuple(torch.zeros_like(o) if o.requires_grad else None for o in last)
    gradients = tuple(g if g is None else g.clone() for g in differentiate())
    backward = functools.partial(overwrite, gradients, differentiate)
    return Recording(inputs, outputs, forward, given, gradients, backward)


def pair(**options):
    plain, module = _Features(), _Features()
    return plain, module, GraphedPass(module, module.forward, record, **options)


def inputs(seed, batch=2, trained=False):
    generator = torch.Generator().manual_seed(seed)
    latents, embeddings = (torch.randn(batch, 4, generator=generator) for _ in range(2))
    return latents, Context(embeddings.requires_grad_(trained)), 2.0


def backward(features):
    (features["s3"].square().mean() + features["s4"].sin().sum()).backward()


def assert_equal(found, expected):
    assert list(found) == list(expected)
    assert all(torch.equal(found[level], maps) for level, maps in expected.items())


@pytest.mark.parametrize("accumulation", [1, 3])
def test_replays_have_the_numbers_and_gradients_of_plain_passes(accumulation):
    plain, module, graphed = pair()
    seeds = iter(range(100))
    for _ in range(3):
        for own in (plain, module):
            own.zero_grad()
        for _ in range(accumulation):
            seed = next(seeds)
            contexts = []
            for compute in (plain, graphed):
                given = inputs(seed, trained=True)
                contexts.append(given[1].embeddings)
                backward(compute(*given))
            assert torch.equal(contexts[0].grad, contexts[1].grad)
        for expected, found in zip(plain.parameters(), module.parameters(), strict=True):
            assert (found.grad is None) == (expected.grad is None)
            assert found.grad is None or torch.equal(found.grad, expected.grad)
            with torch.no_grad():
                for weight in (expected, found):
                    if weight.grad is not None:
                        weight.sub_(weight.grad)
    assert len(graphed._recordings) == 1


def test_each_kind_of_pass_is_recorded_once_and_a_bounded_number(caplog):
    plain, module, graphed = pair(most=4)
    count = lambda: len(graphed._recordings)  # noqa: E731
    kept = graphed(*inputs(0))
    copies = {level: maps.detach().clone() for level, maps in kept.items()}
    graphed(*inputs(1))
    assert count() == 1
    # What came out before is not overwritten.
    assert_equal(kept, copies)
    graphed(*inputs(0, batch=3))
    assert count() == 2
    with torch.no_grad():
        assert_equal(graphed(*inputs(0)), plain(*inputs(0)))
    assert count() == 3
    graphed(*inputs(0)[:2], 1.0)
    assert count() == 4
    module.eval()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert_equal(graphed(*inputs(0)), plain(*inputs(0)))
    assert count() == 4
    assert caplog.text.count("are CUDA graphs already") == 1


def test_precision_and_what_is_trained_make_other_kinds():
    plain, module, graphed = pair()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equal(graphed(*inputs(0)), plain(*inputs(0)))
        assert graphed(*inputs(0))["s4"].dtype == torch.bfloat16
    with torch.no_grad():
        assert_equal(graphed(*inputs(0)), plain(*inputs(0)))
    assert len(graphed._recordings) == 2
    module.first.requires_grad_(False)
    backward(graphed(*inputs(0)))
    assert module.first.weight.grad is None is not module.second.weight.grad


def test_weights_that_lie_elsewhere_are_recorded_anew():
    plain, module, graphed = pair()
    with torch.no_grad():
        graphed(*inputs(0))
        for own in (plain, module):
            own.second.weight.data = torch.full((2, 3), 0.5)
        recorded = dict(graphed._recordings)
        assert_equal(graphed(*inputs(0)), plain(*inputs(0)))
    assert graphed._recordings.values() != recorded.values()


def test_a_gradient_after_another_pass_is_refused():
    _, _, graphed = pair()
    first = graphed(*inputs(0))
    graphed(*inputs(1))
    with pytest.raises(RuntimeError, match="repeated before its gradient"):
        backward(first)


def test_a_pass_that_cannot_be_recorded_names_the_key():
    module = _Features()
    with pytest.raises(UserError, match="MODEL.DIFFUSION.COMPILE asks for CUDA graphs.*cpu"):
        GraphedPass(module, module.forward, record_on_gpu)(*inputs(0))

    def fail(*_):
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(UserError, match="COMPILE.*_Features cannot be recorded.*not permitted"):
        GraphedPass(module, module.forward, fail)(*inputs(0))


def test_leaves_of_its_own_share_the_memory_and_leave_no_trace():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    true = dict(module.named_parameters())
    with _own_leaves(module) as leaves:
        assert [leaf.data_ptr() for leaf in leaves] == [w.data_ptr() for w in true.values()]
        assert all(leaf is not weight for leaf, weight in zip(leaves, true.values(), strict=True))
        assert module[0].weight is module[1].weight is leaves[0]
        module(torch.ones(1, 2)).sum().backward()
    assert all(own is true[name] for name, own in module.named_parameters())
    assert all(weight.grad is None for weight in true.values())
