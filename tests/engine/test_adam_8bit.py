"""AdamW in 8 bits: what is missing is named, and a run is resumed to the bit."""

import shutil
import sys
import types

import pytest
import torch
from torch import nn

from tadp_d2.adam_8bit import adam_8bit
from tadp_d2.engine.optimizer import build_optimizer
from tadp_d2.engine.trainer import Trainer
from tadp_d2.errors import UserError

CPU = torch.device("cpu")


def test_a_missing_package_and_one_that_fails_are_named(make_config, monkeypatch):
    cfg = make_config("SOLVER.ADAM_8BIT", True)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="^SOLVER.ADAM_8BIT.* pip install bitsandbytes$"):
        build_optimizer(cfg, nn.Linear(2, 2))

    class Failing(torch.optim.SGD):
        def step(self):
            raise NotImplementedError("no kernel\nfor this")

    class Idle(torch.optim.SGD):
        def step(self):
            pass

    for broken, why in ((Failing, "no kernel"), (Idle, "a step changes nothing")):
        package = types.SimpleNamespace(optim=types.SimpleNamespace(AdamW8bit=broken))
        monkeypatch.setitem(sys.modules, "bitsandbytes", package)
        with pytest.raises(UserError, match=rf"^KEY: .* on cpu \({why}\); install"):
            adam_8bit(CPU, "KEY")


def test_steps_are_those_of_adamw_within_the_error_of_8_bits():
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    start = torch.randn(64, 128)
    weights = []
    for kind in (torch.optim.AdamW, adam_8bit(CPU, "KEY")):
        weight = nn.Parameter(start.clone())
        optimizer = kind([weight], lr=1e-2, weight_decay=0.1)
        for _ in range(20):
            weight.grad = weight.detach() + 0.5
            optimizer.step()
        weights.append(weight.detach())
    assert optimizer.state[weight]["state1"].dtype == torch.uint8
    moved = (weights[0] - start).abs().mean()
    assert (weights[1] - weights[0]).abs().mean() < 0.05 * moved


def test_a_run_is_resumed_to_the_bit(make_config, tmp_path):
    pytest.importorskip("bitsandbytes")
    options = (
        *("INPUT.FIXED_SIZE_TRAIN", (64, 64), "INPUT.FIXED_SIZE_TEST", (64, 64)),
        *("DATASETS.TEST", ("watercolor_test",), "TEST.EVAL_PERIOD", 0, "TEST.GALLERY_IMAGES", 0),
        *("SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.IMS_PER_BATCH", 2),
        *("SOLVER.ADAM_8BIT", True, "SOLVER.CLIP_GRADIENTS.ENABLED", True),
        *("DATALOADER.NUM_WORKERS", 0),
    )

    def train(folder, resume):
        folder.mkdir(exist_ok=True)
        trainer = Trainer(make_config(*options, "OUTPUT_DIR", str(folder)))
        trainer.resume_or_load(resume)
        trainer.train()
        return torch.load(folder / "model_final.pth", weights_only=True)

    whole, half = tmp_path / "whole", tmp_path / "half"
    expected = train(whole, resume=False)
    half.mkdir()
    shutil.copy(whole / "model_0000001.pth", half)
    (half / "last_checkpoint").write_text("model_0000001.pth")
    resumed = train(half, resume=True)
    found, own = (tensors(checkpoint) for checkpoint in (resumed, expected))
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], own[name]) for name in own)
    # Of the two moments, those of large tensors.
    assert any(tensor.dtype == torch.uint8 for tensor in own.values())


def tensors(content, name=""):
    """Name -> tensor of all that are in nested dicts."""
    if isinstance(content, torch.Tensor):
        return {name: content}
    items = content.items() if isinstance(content, dict) else ()
    return {k: v for key, part in items for k, v in tensors(part, f"{name}/{key}").items()}
