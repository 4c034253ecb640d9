"""`MODEL.DIFFUSION.COMPILE` on a GPU has the numbers and gradients of eager passes."""

import itertools

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from tadp_d2.diffusion.cuda_graphs import GraphedPass
from tadp_d2.diffusion.diffusion_model import Context
from tadp_d2.engine.train_step import AccumulatingTrainer
from tadp_d2.engine.trainer import Trainer
from tadp_d2.modeling.backbone import find_diffusion_backbone

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

VALUES = ("graphs", "blocks", "blocks+graphs")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Kernels that are fused round elsewhere; a graph has the kernels of an eager pass, of which some
# add up in another order each time.
BOUNDS = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.03}


@pytest.fixture
def config(make_config, make_segmentation_config):
    makers = {"detection": make_config, "segmentation": make_segmentation_config}
    settings = ("MODEL.DEVICE", "cuda", "SOLVER.BASE_LR", 1e-5, "SOLVER.IMS_PER_BATCH", 2)
    return lambda task, how, *rest: makers[task](*settings, "MODEL.DIFFUSION.COMPILE", how, *rest)


@pytest.fixture
def models(config):
    """models(how) -> an eager model and one that computes so, of the same weights."""

    def make(how, task="segmentation"):
        eager, other = (Trainer.build_model(config(task, own)).train() for own in ("", how))
        other.load_state_dict(eager.state_dict())
        return eager, other

    return make


def recordings(model):
    forward = find_diffusion_backbone(model).unet.forward
    return len(forward._recordings) if isinstance(forward, GraphedPass) else None


def difference(found, expected):
    """Relative, of all tensors together."""
    wrong = sum((f - e).double().square().sum() for f, e in zip(found, expected, strict=True))
    return (wrong / sum(e.double().square().sum() for e in expected)).sqrt().item()


def features(model, batch, size, precision, seed=0):
    backbone = find_diffusion_backbone(model)
    generator = torch.Generator("cuda").manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, device="cuda")  # noqa: E731
    width = backbone.unet.unet.config.cross_attention_dim
    context = Context(draw(batch, backbone.unet.maps.tokens, width))
    images = draw(batch, 3, size, size).clamp(-1, 1)
    dtype = PRECISIONS[precision]
    autocast = torch.autocast("cuda", dtype=dtype, enabled=precision != "fp32")
    with autocast, backbone.conditioned(context):
        return list(backbone(images).values())


def gradients(model, *args, **kwargs):
    """Of features and weights; the gradients are left in the weights."""
    found = features(model, *args, **kwargs)
    sum(maps.float().square().mean() for maps in found).backward()
    unet = find_diffusion_backbone(model).unet
    return [maps.detach() for maps in found], [p.grad for p in unet.parameters()]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("how", VALUES)
def test_features_and_gradients_are_those_of_eager_passes(models, how, precision):
    eager, other = models(how)
    # Another shape, the first again, and each with accumulated gradients of two batches.
    for size, batch in ((64, 2), (128, 1), (64, 2)):
        for model in (eager, other):
            model.zero_grad()
        for seed in range(2):
            expected = gradients(eager, batch, size, precision, seed=seed)
            found = gradients(other, batch, size, precision, seed=seed)
            for own, true in zip(found, expected, strict=True):
                assert difference(own, true) < BOUNDS[precision]
    if "graphs" in how:
        assert recordings(other) == 2


@pytest.mark.parametrize("how", VALUES)
def test_a_step_of_the_optimizer_and_a_test_are_seen_by_what_was_recorded(models, how):
    eager, other = models(how)
    for model in (eager, other):
        optimizer = torch.optim.SGD(find_diffusion_backbone(model).unet.parameters(), lr=0.1)
        gradients(model, 2, 64, "fp32")
        optimizer.step()
        optimizer.zero_grad()
    for model in (eager, other):
        model.eval()
    with torch.no_grad():
        expected, found = (features(m, 1, 64, "bf16", seed=3) for m in (eager, other))
        assert difference(found, expected) < BOUNDS["bf16"]
        # An earlier result is not overwritten by a later pass.
        kept = [maps.clone() for maps in found]
        features(other, 1, 64, "bf16", seed=4)
        assert difference(found, kept) == 0
    for model in (eager, other):
        model.train()
    expected, found = (gradients(m, 2, 64, "fp32", seed=5) for m in (eager, other))
    assert difference(found[1], expected[1]) < BOUNDS["fp32"]


def losses_of(cfg, model, precision, accumulation=1, steps=3):
    batches = list(itertools.islice(iter(Trainer.build_train_loader(cfg)), steps * accumulation))
    optimizer = Trainer.build_optimizer(cfg, model)
    trainer = AccumulatingTrainer(
        model, batches, optimizer, accumulation, precision=precision, seed=cfg.SEED
    )
    losses = []
    with EventStorage(0) as trainer.storage:
        for trainer.iter in range(steps):
            trainer.run_step()
            losses.append(trainer.storage.latest()["total_loss"][0])
            trainer.storage.step()
    return losses


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_trainings_have_the_losses_of_eager_ones(config, models, task, precision):
    eager, other = models("graphs", task)
    cfg = config(task, "")
    expected, found = (losses_of(cfg, model, precision, accumulation=2) for model in (eager, other))
    # What a detector samples may differ by rounding.
    assert found == pytest.approx(expected, rel=1e-3 if precision == "fp32" else 0.1)
    assert recordings(other) == 1


def test_one_process_on_nccl_trains_with_graphs(config, models, tmp_path):
    eager, other = models("graphs")
    cfg = config("segmentation", "")
    expected = losses_of(cfg, eager, "fp32", accumulation=2)
    store = f"file://{tmp_path / 'store'}"
    distributed.init_process_group("nccl", init_method=store, rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(other, device_ids=[0], broadcast_buffers=False)
        found = losses_of(cfg, wrapped, "fp32", accumulation=2)
    finally:
        distributed.destroy_process_group()
    assert found == pytest.approx(expected, rel=1e-4)


def test_an_sdxl_is_recorded_too(config, sdxl_folder):
    maps = ("MODEL.DIFFUSION.ATTENTION_MAPS.LEVELS", ())
    weights = ("MODEL.DIFFUSION.WEIGHTS", str(sdxl_folder))
    levels = ["p3", "p4", "p5"]
    cfg = config(
        "segmentation", "graphs", *maps, *weights, "MODEL.SEM_SEG_HEAD.IN_FEATURES", levels
    )
    model = Trainer.build_model(cfg).train()
    assert all(map(torch.isfinite, map(torch.tensor, losses_of(cfg, model, "bf16"))))
    assert recordings(model) == 1
