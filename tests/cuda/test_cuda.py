"""What a GPU may do otherwise than a CPU: numbers, mixed precision, resuming, processes, caches."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from tadp_d2.diffusion.diffusion_model import Context
from tadp_d2.diffusion.unet_features import UNetFeatures
from tadp_d2.engine.train_step import AccumulatingTrainer
from tadp_d2.engine.trainer import Trainer
from tadp_d2.modeling.backbone import find_diffusion_backbone
from tadp_d2.personalization.latents import LatentSource
from tadp_d2.personalization.model import TrainableDiffusion
from tadp_d2.personalization.settings import resolve
from tadp_d2.personalization.textual_inversion import TextualInversion
from tadp_d2.personalization.training import TrainingState
from tadp_d2.personalization.training_images import Crops, read_pictures

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

ROOT = Path(__file__).parents[2]
GOLDEN = Path(os.environ.get("GOLDEN_DIR", ROOT / "tests" / "golden"))
GOLDEN_FILE = GOLDEN / "vpd_unet_features.safetensors"
TASKS = ("detection", "segmentation")


@pytest.fixture(scope="module")
def golden():
    with safe_open(GOLDEN_FILE, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.fixture
def config(make_config, make_segmentation_config):
    """config(task, "KEY", value, ...) on the GPU, with a learning rate that changes little."""
    makers = dict(zip(TASKS, (make_config, make_segmentation_config), strict=True))
    settings = ("MODEL.DEVICE", "cuda", "SOLVER.BASE_LR", 1e-5, "SOLVER.IMS_PER_BATCH", 2)
    return lambda task, *overrides: makers[task](*settings, *overrides)


def golden_features(golden, device):
    tensors, metadata = golden
    unet = UNet2DConditionModel(**json.loads(metadata["unet_config"]))
    named = {k.removeprefix("unet."): v for k, v in tensors.items() if k.startswith("unet.")}
    unet.load_state_dict({k: v.float() for k, v in named.items()})
    return UNetFeatures(unet).to(device).train()


def run(features, golden):
    tensors, _ = golden
    device = next(features.parameters()).device
    context = Context(tensors["context"].to(device))
    return features(tensors["latents"].to(device), context, tensors["timesteps"][0].item())


def gradients(features, golden):
    """Of a fixed weighted sum of all features, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    outputs = run(features, golden)
    weights = {k: torch.randn(out.shape, generator=generator) for k, out in outputs.items()}
    sum((out * weights[k].to(out.device)).sum() for k, out in outputs.items()).backward()
    return {name: p.grad.cpu() for name, p in features.named_parameters()}


def difference(found, expected):
    """Relative, of all tensors together."""
    wrong = sum((found[k] - e).double().square().sum().item() for k, e in expected.items())
    return (wrong / sum(e.double().square().sum().item() for e in expected.values())) ** 0.5


def step_losses(trainer, steps):
    losses = []
    with EventStorage(0) as trainer.storage:
        for trainer.iter in range(steps):
            trainer.run_step()
            losses.append(trainer.storage.latest()["total_loss"][0])
            trainer.storage.step()
    return losses


def train(cfg, model, precision="fp32", steps=2, accumulation=1):
    """The losses of some steps on the same inputs, whatever the precision."""
    batches = list(itertools.islice(iter(Trainer.build_train_loader(cfg)), steps * accumulation))
    optimizer = Trainer.build_optimizer(cfg, model)
    trainer = AccumulatingTrainer(
        model, batches, optimizer, accumulation, precision=precision, seed=cfg.SEED
    )
    return step_losses(trainer, steps)


def test_features_are_those_of_the_original_wrapper_and_of_the_cpu(golden):
    with torch.no_grad():
        outputs = {k: v.cpu() for k, v in run(golden_features(golden, "cuda"), golden).items()}
        cpu = run(golden_features(golden, "cpu"), golden)
    for level, stride in {"s3": 8, "s4": 16, "s5": 32, "s6": 64}.items():
        expected = golden[0][f"features.stride{stride}"].float()
        assert difference({"": outputs[level]}, {"": expected}) < 1e-4
        assert difference({"": outputs[level]}, {"": cpu[level]}) < 2e-5


def test_gradients_are_those_of_the_cpu(golden):
    found = gradients(golden_features(golden, "cuda"), golden)
    assert difference(found, gradients(golden_features(golden, "cpu"), golden)) < 1e-4


def test_gradient_checkpointing_changes_no_gradient(golden):
    checkpointed = golden_features(golden, "cuda")
    checkpointed.unet.enable_gradient_checkpointing()
    found = gradients(checkpointed, golden)
    assert difference(found, gradients(golden_features(golden, "cuda"), golden)) < 1e-5


@pytest.mark.parametrize("precision, bound", [("bf16", 0.1), ("fp16", 0.03)])
def test_mixed_precision_rounds_features_and_no_more(golden, precision, bound):
    features = golden_features(golden, "cuda")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    with torch.no_grad():
        exact = run(features, golden)
        with torch.autocast("cuda", dtype=dtype):
            found = run(features, golden)
    error = difference({k: v.float() for k, v in found.items()}, exact)
    assert 0 < error < bound


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("task", TASKS)
def test_training_in_mixed_precision_has_the_losses_of_full_precision(config, task, precision):
    losses = {}
    for name in ("fp32", precision):
        torch.manual_seed(0)
        model = Trainer.build_model(config(task)).train()
        losses[name] = train(config(task), model, name, steps=3)
        assert all(p.dtype == torch.float32 for p in model.parameters())
        assert all(p.isfinite().all() for p in model.parameters())
    # Sampled anchors and proposals may differ by rounding.
    assert losses[precision] == pytest.approx(losses["fp32"], rel=0.2)
    assert losses[precision] != losses["fp32"]


@pytest.mark.parametrize("task", TASKS)
def test_a_resumed_run_has_the_state_of_the_stopped_one(config, task):
    settings = ("SOLVER.MAX_ITER", 4, "SOLVER.AMP.ENABLED", True)
    cfg = config(task, *settings)
    Path(cfg.OUTPUT_DIR).mkdir()
    stopped = Trainer(cfg)
    stopped.resume_or_load(resume=False)
    stopped.max_iter = 2
    stopped.train()
    resumed = Trainer(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    for name, value in stopped.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value)
    before, after = (t._trainer.state_dict() for t in (stopped, resumed))
    assert after["grad_scaler"] == before["grad_scaler"]
    moments = before["optimizer"]["state"], after["optimizer"]["state"]
    assert moments[0].keys() == moments[1].keys() and moments[0]
    for key, state in moments[0].items():
        assert moments[1][key]["exp_avg_sq"].is_cuda
        assert torch.equal(moments[1][key]["exp_avg_sq"], state["exp_avg_sq"])
    resumed.train()
    assert all(p.isfinite().all() for p in resumed.model.parameters())


def test_cached_latents_are_the_same_bits_and_near_to_none(config, tmp_path):
    folder = tmp_path / "latents"
    cached = config("detection", "MODEL.DIFFUSION.LATENT_CACHE.FOLDER", str(folder))
    model = Trainer.build_model(cached).eval()
    found = []
    for cfg in (cached, cached, config("detection")):
        batch = next(iter(Trainer.build_train_loader(cfg)))
        images = model.preprocess_image(batch)
        with torch.no_grad(), model._condition_on(batch):
            found.append(model.backbone(images.tensor))
    assert len(list(folder.rglob("*.fp16"))) == 2
    for name, first in found[0].items():
        assert torch.equal(first, found[1][name])
    assert 0 < difference(found[0], found[2]) < 5e-3


def test_one_process_on_nccl_has_the_gradients_of_none(config, tmp_path):
    cfg = config("segmentation")
    torch.manual_seed(0)
    plain = Trainer.build_model(cfg).train()
    weights = {k: v.clone() for k, v in plain.state_dict().items()}
    # In fp32: kernels that add up in another order each time make more of a difference in bf16.
    losses = train(cfg, plain, accumulation=2)
    again = Trainer.build_model(cfg).train()
    again.load_state_dict(weights)
    distributed.init_process_group(
        "nccl", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        wrapped = DistributedDataParallel(again, device_ids=[0], broadcast_buffers=False)
        found = train(cfg, wrapped, accumulation=2)
    finally:
        distributed.destroy_process_group()
    assert found == pytest.approx(losses, rel=1e-5)
    changed = {k: v - weights[k] for k, v in plain.state_dict().items()}
    own = {k: v - weights[k] for k, v in again.state_dict().items()}
    # Without processes, two runs differ by 0.015: AdamW's first steps are signs of gradients.
    assert difference(own, changed) < 0.05


def test_torchrun_trains_and_evaluates_on_nccl(world, config, tmp_path):
    torchrun = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--local-addr",
        "localhost",
    )
    cfg = config("segmentation", "SOLVER.MAX_ITER", 2, "OUTPUT_DIR", str(tmp_path / "run"))
    file = tmp_path / "config.yaml"
    file.write_text(cfg.dump())
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "1", "train_net.py", "--config-file", str(file)],
        cwd=ROOT,
        env={**os.environ, "DETECTRON2_DATASETS": str(world), "PYTHONPATH": _python_path()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((tmp_path / "run" / "results.json").read_text())["metrics"]
    assert set(metrics) == set(cfg.DATASETS.TEST)


def _python_path():
    return os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("task", TASKS)
def test_evaluation_in_mixed_precision_rounds_the_features(config, task, precision):
    cfg = config(task)
    model = Trainer.build_model(cfg).eval()
    batch = next(iter(Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])))
    found = []
    for name in ("fp32", precision):
        find_diffusion_backbone(model).test_precision = name
        images = model.preprocess_image(batch) if task == "detection" else _normalized(model, batch)
        with torch.no_grad(), model._condition_on(batch):
            found.append(model.backbone(images.tensor))
        assert model(batch)
    assert all(maps.dtype == torch.float32 for maps in found[1].values())
    assert 0 < difference(found[1], found[0]) < 0.1


def _normalized(model, batch):
    from detectron2.structures import ImageList

    images = [(one["image"].to(model.device) - model.pixel_mean) / model.pixel_std for one in batch]
    return ImageList.from_tensors(images, model.backbone.size_divisibility)


def test_textual_inversion_learns_as_on_the_cpu(world, model_folder):
    paths = sorted((world / "watercolor" / "JPEGImages").glob("*.jpg"))[:2]
    pictures, _ = read_pictures(paths, 64)
    given = {"token": "<new>", "init": "painting", "size": 64, "accumulation": 2}
    losses = {}
    for device, precision in (("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "fp16")):
        model = TrainableDiffusion.load(str(model_folder)).to(torch.device(device))
        settings = dataclasses.replace(resolve("invert", "paper-text", given), precision=precision)
        source = LatentSource(model, Crops(pictures, 64))
        training = TrainingState(TextualInversion(model, source, settings))
        losses[device, precision] = [training.advance() for _ in range(3)]
    assert losses["cuda", "fp32"] == pytest.approx(losses["cpu", "fp32"], rel=1e-3)
    assert losses["cuda", "fp16"] == pytest.approx(losses["cpu", "fp32"], rel=2e-2)
