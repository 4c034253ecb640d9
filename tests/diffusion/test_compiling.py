"""Compiled blocks: which they are, their numbers, and the way back."""

import functools

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch._dynamo.utils import counters

from tadp_d2.diffusion.compiling import compile_passes, repeated_blocks
from tadp_d2.diffusion.cuda_graphs import GraphedPass
from tadp_d2.diffusion.diffusion_model import Context, MapOptions
from tadp_d2.diffusion.unet_features import UNetFeatures
from tadp_d2.errors import UserError


def make_features(levels=1, maps=()):
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16)[:levels],
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=12,
        norm_num_groups=4,
    )
    return UNetFeatures(unet, maps=MapOptions(tokens=7, levels=maps))


def compute(features):
    """Features, and gradients of all weights."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    context = Context(torch.randn(2, 7, 12, generator=generator))
    features.zero_grad()
    found = features(latents, context, 3.0).values()
    sum(maps.square().mean() for maps in found).backward()
    return [maps.detach() for maps in found], [p.grad.clone() for p in features.parameters()]


def difference(found, expected):
    wrong = sum((f - e).double().square().sum() for f, e in zip(found, expected, strict=True))
    return (wrong / sum(e.double().square().sum() for e in expected)).sqrt().item()


def test_equal_blocks_are_one_graph_without_breaks(monkeypatch):
    # Without a compiler behind it, which is slow; the graphs are the same.
    graphs = functools.partialmethod(nn.Module.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(nn.Module, "compile", graphs)
    features = make_features(levels=2, maps=("s3",))
    expected = compute(features)
    names = list(features.state_dict())
    torch._dynamo.reset()
    counters.clear()
    compile_passes("blocks", features)
    found = compute(features)
    count = counters["stats"]["unique_graphs"]
    assert 0 < count < len(repeated_blocks(features))
    compute(features)
    assert counters["stats"]["unique_graphs"] == count
    for own, true in zip(found, expected, strict=True):
        assert difference(own, true) < 1e-6
    assert list(features.state_dict()) == names
    compile_passes("", features)
    assert all(part._compiled_call_impl is None for part in features.modules())


def test_what_records_maps_is_not_compiled():
    features = make_features(levels=2, maps=("s3",))
    blocks = repeated_blocks(features)
    recorded = {
        name
        for name, part in features.unet.named_modules()
        if name.endswith("attn2") and part.processor.__class__.__name__ == "RecordedAttention"
    }
    inside = {name for name, part in features.unet.named_modules() if part in blocks}
    assert recorded
    assert not any(name.startswith(tuple(inside)) for name in recorded)


def test_graphs_stand_in_for_the_pass_until_they_are_switched_off():
    features = make_features()
    names = list(features.state_dict())
    compile_passes("graphs", features)
    first = features.forward
    assert isinstance(first, GraphedPass)
    compile_passes("graphs", features)
    assert first is not features.forward
    assert list(features.state_dict()) == names
    with pytest.raises(UserError, match="the model is on cpu"):
        compute(features)
    compile_passes("", features)
    compute(features)


def test_without_a_compiler_blocks_are_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="COMPILE.*no no-such-compiler"):
        compile_passes("blocks", make_features())


@pytest.mark.exhaustive
def test_compiled_blocks_have_the_numbers_of_plain_ones():
    features = make_features()
    expected = compute(features)
    compile_passes("blocks", features)
    for own, true in zip(compute(features), expected, strict=True):
        assert difference(own, true) < 1e-5
