"""A detector and a segmentor learn: their heads, and the UNet under them."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from tadp_d2.engine.trainer import Trainer

ITERATIONS = 12
SETTINGS = (
    *("SOLVER.MAX_ITER", ITERATIONS, "SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", 0),
    *("SOLVER.BASE_LR", 1e-3, "SOLVER.UNET_LR_FACTOR", 0.1, "SOLVER.LR_SCHEDULER_NAME", "PolyLR"),
    *("SOLVER.WARMUP_ITERS", 0, "TEST.EVAL_PERIOD", 0, "INPUT.RANDOM_FLIP", "none"),
)


def loss(model, inputs):
    """The mean loss on equal inputs under equal draws, nothing of which is trained on."""
    totals = []
    with torch.no_grad(), EventStorage():
        for seed in range(4):
            torch.manual_seed(seed)
            totals.append(float(sum(model.train()(inputs).values())))
    return sum(totals) / len(totals)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_model_learns(make_config, make_segmentation_config, task):
    """A loss of the wrong sign, or an optimizer that leaves the heads out, fails here."""
    make = make_config if task == "detection" else make_segmentation_config
    cfg = make(*SETTINGS)
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer._trainer.data_loader = trainer.build_train_loader(cfg)
    model = trainer.model
    inputs = next(iter(Trainer.build_train_loader(cfg, start=1000)))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    first = loss(model, inputs)
    with EventStorage() as trainer._trainer.storage:
        for trainer._trainer.iter in range(ITERATIONS):
            trainer._trainer.run_step()
    assert loss(model, inputs) < 0.8 * first
    moved = {name for name, weight in model.named_parameters() if not weight.equal(before[name])}
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    # Detectron2's heads have biases that no gradient reaches where no object is.
    assert len(moved) > 0.99 * len(trained)
    heads = {name for name in trained if ".unet." not in name}
    assert heads <= moved and moved <= trained
