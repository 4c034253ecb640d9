"""The text adapter: the golden files, around any conditioner, trained at a rate of its own."""

import os
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from safetensors import safe_open

from tadp_d2.conditioning.text_adapter import TextAdapter
from tadp_d2.data.present_classes import PresentClasses
from tadp_d2.engine.checks import check_config
from tadp_d2.engine.optimizer import build_optimizer
from tadp_d2.errors import UserError

FOLDER = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parents[1] / "golden")
PRESENT = PresentClasses(("bird", "dog"), frozenset({1}))
SETTINGS = ("MODEL.CONDITIONER.NAME", "TextAdapter")


def golden_adapter(tensors):
    adapter = TextAdapter(None, tensors["adapter.fc.0.weight"].shape[0])
    weights = {k.removeprefix("adapter.fc."): v for k, v in tensors.items() if "adapter.fc" in k}
    own = {k: v.float() for k, v in weights.items() if not k.startswith("grad.")}
    adapter.mlp.load_state_dict(own)
    return adapter


def set_gamma(adapter, gamma):
    with torch.no_grad():
        adapter.gamma.copy_(torch.as_tensor(gamma).float())


def test_agrees_with_the_released_adapter():
    with safe_open(FOLDER / "vpd_class_embeddings.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    adapter = golden_adapter(tensors)
    assert torch.equal(adapter.gamma, torch.full_like(adapter.gamma, 1e-4))
    embeddings = tensors["class_embeddings"]
    for name, gamma in (("1e-4", 1e-4), ("0.5", 0.5), ("vector", tensors["gamma.vector"])):
        set_gamma(adapter, gamma)
        by_class = embeddings[tensors["class_ids"]].unsqueeze(1)
        for found, expected in (
            (adapter.adapt(embeddings), tensors[f"adapted.gamma={name}"]),
            (adapter.adapt(by_class), tensors[f"adapted_by_class_id.gamma={name}"]),
        ):
            assert found.shape == expected.shape
            assert ((found - expected).abs() / (1 + expected.abs())).max() < 2e-6
    # Where gamma hides the MLP in the tolerance.
    moved = (tensors["adapted.gamma=1e-4"] - embeddings) / 1e-4
    torch.testing.assert_close(adapter.mlp(embeddings), moved, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("adapted", ["CaptionPrompt", "ClassEmbeddings", "ClassNames", "Oracle"])
def test_any_other_conditioner_is_adapted(make_config, adapted):
    plain_cfg = make_config("MODEL.CONDITIONER.NAME", adapted)
    cfg = make_config(*SETTINGS, "MODEL.CONDITIONER.ADAPTED", adapted)
    check_config(cfg)
    model, plain = build_model(cfg), build_model(plain_cfg)
    inputs = [{"caption": "a dog", "image_id": "1", "present": PRESENT}]
    expected = plain.conditioner(inputs, None, None).context.embeddings
    adapter = model.conditioner
    found = adapter(inputs, None, None).context.embeddings
    torch.testing.assert_close(found, expected + 1e-4 * adapter.mlp(expected))
    assert not torch.equal(found, expected)
    own, inner = type(adapter), type(plain.conditioner)
    assert own.needed(cfg, True) == inner.needed(plain_cfg, True)
    assert adapter.prompt(inputs[0]) == plain.conditioner.prompt(inputs[0])
    assert adapter.provenance() == plain.conditioner.provenance()
    # Trained and saved, and what is frozen is neither.
    names = [name for name in model.state_dict() if name.startswith("conditioner.")]
    parts = ("gamma", "mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias")
    assert names == [f"conditioner.{part}" for part in parts]


def test_its_learning_rate_is_its_own(make_config):
    cfg = make_config(*SETTINGS, "SOLVER.BASE_LR", 1e-3, "SOLVER.CONDITIONER_LR_FACTOR", 0.5)
    model = build_model(cfg)
    rates = {
        id(parameter): (group["part"], group["lr"])
        for group in build_optimizer(cfg, model).param_groups
        for parameter in group["params"]
    }
    for parameter in model.conditioner.parameters():
        assert rates[id(parameter)] == ("conditioner", pytest.approx(5e-4))


@pytest.mark.parametrize("adapted", ["TextAdapter", "Captions", ""])
def test_what_cannot_be_adapted_is_named(make_config, adapted):
    with pytest.raises(UserError, match="ADAPTED is .*expected the conditioner"):
        check_config(make_config(*SETTINGS, "MODEL.CONDITIONER.ADAPTED", adapted))
