"""OpenVINO in place of PyTorch: equal numbers, what is kept between runs, what is refused.

Where OpenVINO is not installed, a stand-in takes its place that computes by a copy of the module.
"""

import copy
import importlib.util
import logging
import pickle
import re
import sys
from types import ModuleType

import pytest
import torch
from detectron2.modeling import build_backbone
from torch import nn

from tadp_d2.diffusion.compiling import compile_passes
from tadp_d2.diffusion.diffusion_model import Context, MapOptions
from tadp_d2.diffusion.families import open_diffusion_model
from tadp_d2.diffusion.openvino_pass import difference
from tadp_d2.engine.checks import check_inputs
from tadp_d2.errors import UserError

KEY = ("MODEL.DIFFUSION.COMPILE", "openvino")
installed = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TADP_D2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "openvino"


class StandIn(ModuleType):
    """What is used of OpenVINO.

    Attributes:
        exports: how many there were.
        error: relative, of all outputs; by the size of the first input.
    """

    __version__ = "1"

    def __init__(self):
        super().__init__("openvino")
        self.exports, self.error, self.Core = 0, lambda shape: 0, lambda: self

    def convert_model(self, flat, example_input):
        self.exports += 1
        flat(*example_input)
        return copy.deepcopy(flat)

    def save_model(self, model, file, compress_to_fp16):
        assert not compress_to_fp16
        file.write_bytes(pickle.dumps(model))

    def compile_model(self, model, device, options):
        if not isinstance(model, nn.Module):
            try:
                model = pickle.loads(model.read_bytes())
            except Exception as error:
                raise RuntimeError("unreadable") from error
        bf16 = options["INFERENCE_PRECISION_HINT"] == "bf16"

        def infer(arrays):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                outputs = model(*map(torch.from_numpy, arrays))
            factor = 1 + self.error(arrays[0].shape)
            return {i: (factor * x.float()).numpy() for i, x in enumerate(outputs)}

        return infer


@pytest.fixture
def openvino(monkeypatch):
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "openvino", stand_in)
    return stand_in


class Features(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layer, self.scale = nn.Conv2d(4, 3, 1), 1.0

    def forward(self, latents, context, timestep):
        hidden = self.layer(latents) + timestep
        return {"s3": hidden.tanh(), "s4": self.scale * hidden * context.embeddings.mean()}


def inputs(size=8, timestep=2.0):
    generator = torch.Generator().manual_seed(size)
    latents = torch.randn(2, 4, size, size, generator=generator)
    return latents, Context(torch.randn(2, 5, 6, generator=generator)), timestep


def drop(module, state, prefix, metadata):
    state.clear()


def opened(seed=0):
    module = Features(seed).requires_grad_(False).eval()
    compile_passes("openvino", module)
    return module


def assert_right(module, *args):
    found, expected = module(*args), type(module).forward(module, *args)
    assert list(found) == list(expected)
    for level, values in expected.items():
        assert found[level].dtype == torch.float32
        torch.testing.assert_close(found[level], values, rtol=1e-5, atol=1e-5)


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=re.escape('pip install ".[openvino]"')):
        compile_passes("openvino", Features())


def test_is_for_testing_on_a_cpu(make_config, openvino):
    with pytest.raises(UserError, match="openvino', which computes no gradients"):
        check_inputs(make_config(*KEY), evaluation=False, resume=False)
    with pytest.raises(UserError, match="openvino', which is for CPUs"):
        make_config(*KEY, "MODEL.DEVICE", "cuda:0")
    module = opened().requires_grad_(True)
    with pytest.raises(UserError, match="computes no gradients"):
        module(*inputs())
    with torch.no_grad():
        assert_right(module, *inputs())
        with pytest.raises(UserError, match="is for testing"):
            module.train()(*inputs())


def test_is_exported_once_for_equal_weights(openvino, cache):
    for size in (8, 8, 4, 12):
        assert_right(opened(), *inputs(size))
    assert openvino.exports == 1
    module = opened()
    assert_right(module, *inputs())
    with torch.no_grad():
        module.layer.weight += 1
    assert_right(module, *inputs())
    module.load_state_dict(Features(1).state_dict())
    assert_right(module, *inputs())
    assert openvino.exports == 3
    assert_right(opened(seed=1), *inputs())
    assert openvino.exports == 3
    # What is no weight and no input.
    assert_right(module, *inputs(timestep=3.0))
    module.scale = 2.0
    assert_right(module, *inputs())
    assert openvino.exports == 5
    assert len(list(cache.iterdir())) == 4


def test_frozen_weights_that_no_checkpoint_holds_make_it_another_export(openvino, cache):
    for seed in (0, 1):
        module = Features(seed).requires_grad_(False).eval()
        module.register_state_dict_post_hook(drop)  # as a network with LORA_RANK
        compile_passes("openvino", module)
        assert_right(module, *inputs())
    assert openvino.exports == len(list(cache.iterdir())) == 2


def test_other_numbers_are_refused(openvino, cache):
    openvino.error = lambda shape: 2e-4
    with pytest.raises(UserError, match=r"in fp32 differs from PyTorch by 2.0e-04.*more than 1.0e"):
        opened()(*inputs())
    assert not cache.exists()
    openvino.error = lambda shape: 0 if shape[-1] == 8 else 2e-4
    module = opened()
    assert_right(module, *inputs(8))
    with pytest.raises(UserError, match=r"differs from PyTorch.*\(2, 4, 12, 12\)"):
        module(*inputs(12))


def test_bf16_may_differ_as_pytorchs_does(openvino):
    with torch.autocast("cpu", torch.bfloat16):
        found = opened()(*inputs())["s3"]
        expected = Features()(*inputs())["s3"]
        assert found.dtype == torch.float32
        assert torch.equal(found, expected.float())
        openvino.error = lambda shape: 0.1
        with pytest.raises(UserError, match="in bf16 differs from PyTorch by 1.0e-01"):
            opened()(*inputs())


def test_an_export_that_it_does_not_take_is_told(openvino, cache, monkeypatch):
    def refuse(*_):
        raise RuntimeError("in graph.cpp:7\nno such operation")

    monkeypatch.setattr(openvino, "compile_model", refuse)
    with pytest.raises(UserError, match=r"^Features: OpenVINO fails \(no such operation\): leave"):
        opened()(*inputs())
    assert not cache.exists()


@pytest.mark.parametrize("content", ["damaged", "other"])
def test_a_wrong_file_is_made_again(openvino, cache, caplog, content):
    opened()(*inputs())
    (file,) = cache.glob("*/model.xml")
    right = file.read_bytes()
    if content == "other":
        opened(seed=1)(*inputs())
        (other,) = set(cache.glob("*/model.xml")) - {file}
        file.write_bytes(other.read_bytes())
    else:
        file.write_bytes(right[:100])
    with caplog.at_level(logging.WARNING):
        assert_right(opened(), *inputs())
    assert f"{file.parent}: is not used, and made again" in caplog.text
    assert len(file.read_bytes()) == len(right)
    before = openvino.exports
    assert_right(opened(), *inputs())
    assert openvino.exports == before


def test_a_full_disk_costs_only_time(openvino, cache, caplog, full_disk):
    with full_disk(100), caplog.at_level(logging.WARNING):
        assert_right(opened(), *inputs())
    assert "make room; the next run exports again" in caplog.text
    assert not list(cache.iterdir())


def test_a_difference_counts_channels_alike():
    expected = torch.ones(1, 4, 2, 2)
    expected[:, 0] = 100
    found = expected.clone()
    found[:, 1] *= 1.02
    assert difference([expected, found], [expected, expected]) == pytest.approx(0.01)
    found[:, 1] = torch.nan
    assert not difference([found], [expected]) <= 1


@installed
@pytest.mark.parametrize("family", ["model_folder", "sdxl_folder", "sd3_folder"])
def test_each_family_at_any_size(family, request):
    model = open_diffusion_model(str(request.getfixturevalue(family)))
    encoder = model.load_latent_encoder().eval()
    levels = () if family == "sd3_folder" else ("s4", "s5")
    features = model.load_features(encoder, MapOptions(levels=levels, tokens=20)).eval()
    compile_passes("openvino", encoder, features)
    pooled = {"model_folder": None, "sdxl_folder": 20, "sd3_folder": 28}[family]
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in ((2, 128, 64), (1, 64, 192), (3, 64, 64)):
        images = torch.rand(batch, 3, height, width, generator=generator) * 2 - 1
        context = Context(
            torch.randn(batch, 20, model.context_width, generator=generator),
            pooled=pooled and torch.randn(batch, pooled, generator=generator),
        )
        with torch.no_grad():
            latents = encoder(images)
            expected = type(encoder).forward(encoder, images)
            torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)
            found = features(latents, context, 0.0)
            expected = type(features).forward(features, latents, context, 0.0)
        for level, values in expected.items():
            assert found[level].shape == values.shape
            assert (found[level] - values).norm() < 1e-4 * values.norm()


@installed
def test_the_backbone_in_both_precisions(make_config):
    plain, ours = (build_backbone(make_config(*own)).bottom_up.eval() for own in ((), KEY))
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(77) < torch.tensor([[77], [5]])
    context = Context(
        torch.randn(2, 77, plain.unet.unet.config.cross_attention_dim, generator=generator), mask
    )
    for precision, bound in (("fp32", 1e-5), ("bf16", 0.1)):
        outputs = []
        for backbone in (plain, ours):
            backbone.test_precision = precision
            with torch.no_grad(), backbone.conditioned(context):
                outputs.append(backbone(torch.linspace(-1, 1, 49152).view(2, 3, 64, 128)))
        expected, found = outputs
        for level, values in expected.items():
            assert 0 < (found[level] - values).norm() < bound * values.norm()
