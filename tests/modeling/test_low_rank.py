"""Training of low-rank updates: what is computed, trained and saved."""

import shutil

import pytest
import torch
from torch import nn

from tadp_d2.engine.trainer import Trainer
from tadp_d2.errors import UserError
from tadp_d2.modeling.backbone import find_diffusion_backbone
from tadp_d2.modeling.low_rank import LowRankUpdate, train_low_rank

RANK = 3
OPTIONS = (
    *("MODEL.DIFFUSION.LORA_RANK", RANK, "SOLVER.UNET_LR_FACTOR", 1.0, "SOLVER.BASE_LR", 1e-3),
    *("INPUT.FIXED_SIZE_TRAIN", (64, 64), "INPUT.FIXED_SIZE_TEST", (64, 64)),
    *("DATASETS.TEST", ("watercolor_test",), "TEST.EVAL_PERIOD", 0, "TEST.GALLERY_IMAGES", 0),
    *("SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.CHECKPOINTS_KEPT", 2),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.WARMUP_ITERS", 0, "DATALOADER.NUM_WORKERS", 0),
)
UPDATES = ".parametrizations.weight.0."


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q, self.to_k = nn.Linear(6, 8, bias=False), nn.Linear(5, 8)
        self.to_out = nn.ModuleList([nn.Linear(8, 6), nn.Dropout()])
        self.other = nn.Linear(6, 6)

    def forward(self, x):
        return self.to_out[0](self.to_q(x)) + self.other(x)


def test_a_layer_adds_what_its_two_factors_make_of_its_input():
    torch.manual_seed(0)
    network, x = Attention().double(), torch.rand(2, 6, dtype=torch.double)
    before = network(x)
    train_low_rank(network, RANK)
    assert torch.equal(network(x), before)

    updates = [m for m in network.modules() if isinstance(m, LowRankUpdate)]
    assert len(updates) == 3
    for update in updates:
        nn.init.normal_(update.up)
    q, _, out = updates
    queries = network.to_q.parametrizations.weight.original
    hidden = x @ queries.T + (x @ q.down.T) @ q.up.T
    layer = network.to_out[0]
    expected = hidden @ layer.parametrizations.weight.original.T + layer.bias + network.other(x)
    expected = expected + (hidden @ out.down.T) @ out.up.T
    torch.testing.assert_close(network(x), expected, rtol=1e-12, atol=1e-12)

    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert all(UPDATES in name for name in trained) and network.state_dict().keys() == trained


def test_a_network_without_attention_is_named():
    with pytest.raises(UserError, match="LORA_RANK.*no attention"):
        train_low_rank(nn.Sequential(nn.Linear(2, 2)), RANK)


def train(cfg, resume=False):
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


def test_a_run_trains_and_saves_the_updates_alone_and_is_resumed(make_config, tmp_path):
    whole, half = tmp_path / "whole", tmp_path / "half"
    for folder in (whole, half):
        folder.mkdir()
    trainer = train(make_config(*OPTIONS, "OUTPUT_DIR", str(whole)))
    features = find_diffusion_backbone(trainer._trainer.model).unet
    base = find_diffusion_backbone(
        Trainer.build_model(make_config(*OPTIONS, "MODEL.DIFFUSION.LORA_RANK", 0))
    ).unet
    # The base model is as it came.
    own = {
        name.replace("parametrizations.weight.original", "weight"): weight
        for name, weight in features.named_parameters()
        if not weight.requires_grad
    }
    assert own.keys() == dict(base.named_parameters()).keys()
    assert all(torch.equal(own[name], p) for name, p in base.named_parameters())

    saved = torch.load(whole / "model_final.pth", weights_only=True)["model"]
    of_unet = {name: weight for name, weight in saved.items() if ".unet." in name}
    assert of_unet and all(UPDATES in name for name in of_unet)
    assert all(w.abs().sum() > 0 for name, w in of_unet.items() if name.endswith("up"))
    projections = ("to_q", "to_k", "to_v", "to_out.0")
    adapted = [layer for name, layer in base.named_modules() if name.endswith(projections)]
    expected = sum(RANK * sum(layer.weight.shape) for layer in adapted)
    assert sum(weight.numel() for weight in of_unet.values()) == expected

    shutil.copy(whole / "model_0000001.pth", half)
    (half / "last_checkpoint").write_text("model_0000001.pth")
    train(make_config(*OPTIONS, "OUTPUT_DIR", str(half)), resume=True)
    resumed = torch.load(half / "model_final.pth", weights_only=True)["model"]
    assert resumed.keys() == saved.keys()
    assert all(torch.equal(resumed[name], saved[name]) for name in saved)


def test_a_checkpoint_of_another_rank_is_refused(make_config, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    train(make_config(*OPTIONS, "SOLVER.MAX_ITER", 1, "OUTPUT_DIR", str(folder)))
    weights = ("MODEL.WEIGHTS", str(folder / "model_final.pth"))
    cfg = make_config(
        *OPTIONS, *weights, "MODEL.DIFFUSION.LORA_RANK", 2, "OUTPUT_DIR", str(tmp_path)
    )
    with pytest.raises(UserError, match="another architecture.*differs in shape"):
        Trainer(cfg).resume_or_load(resume=False)


def test_updates_are_in_checkpoints_of_a_frozen_network_too():
    torch.manual_seed(0)
    trained, frozen = Attention(), Attention()
    frozen.load_state_dict(trained.state_dict())
    for network in (trained, frozen):
        train_low_rank(network, RANK, whole=[network.other])
    for parameter in trained.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    frozen.requires_grad_(False)
    state = trained.state_dict()
    assert state.keys() == frozen.state_dict().keys()
    assert {"other.weight", "other.bias"} <= state.keys() and len(state) == 2 + 2 * 3
    frozen.load_state_dict(state)
    x = torch.rand(2, 6)
    assert torch.equal(frozen(x), trained(x))
