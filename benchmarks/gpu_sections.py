"""What is measured on a GPU, section by section; `gpu_check.py` runs them.

Every section takes the run and a clock, and leaves its findings in the run's record.
"""

import contextlib
import copy
import dataclasses
import functools
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gpu_sides as sides
import torch
from backbone import SIZES, disagreement, forward, forward_backward, operations
from detectron2.evaluation import inference_on_dataset
from detectron2.utils.events import EventStorage
from diffusers import UNet2DConditionModel
from gpu_record import Clock, Record, free, timed
from PIL import Image
from reference import ReferenceFeatures
from scale import blip2_config
from torch import Tensor, nn
from transformers import AutoProcessor, Blip2ForConditionalGeneration

from tadp_d2.captioning.blip2 import Captioner
from tadp_d2.diffusion.compiling import compile_passes
from tadp_d2.diffusion.diffusion_model import Context, MapOptions
from tadp_d2.diffusion.unet_features import UNetFeatures
from tadp_d2.engine.setup import load_config
from tadp_d2.engine.train_step import AccumulatingTrainer
from tadp_d2.engine.trainer import Trainer
from tadp_d2.modeling.backbone import DiffusionBackbone, find_diffusion_backbone
from tadp_d2.personalization.dreambooth import DreamBooth
from tadp_d2.personalization.latents import LatentSource
from tadp_d2.personalization.model import TrainableDiffusion
from tadp_d2.personalization.settings import resolve
from tadp_d2.personalization.textual_inversion import TextualInversion
from tadp_d2.personalization.training import TrainingState
from tadp_d2.personalization.training_images import Crops, read_pictures

ROOT = Path(__file__).parents[1]
CONFIGS = {"detection": "voc2watercolor_simple", "segmentation": "cityscapes2darkzurich_simple"}
TARGETS = {"detection": "watercolor_test", "segmentation": "dark_zurich_val"}
# Test files whose properties may depend on the device, besides those in tests/cuda.
SUITE = ("tests/modeling", "tests/engine", "tests/inference", "tests/personalization")
# Characters of a test run's output that are kept.
_OUTPUT = 20000
# Steps that are profiled: a hundred thousand events take long to read.
_PROFILED = 2
# Of a caption, for its speed.
CAPTION_TOKENS = 30


@dataclasses.dataclass
class Run:
    """What all sections share.

    Attributes:
        size: "tiny" or "full".
        device: "cuda" or "cpu".
        folder: for whatever is written.
        data: the synthetic data sets, with tiny models.
        weights: a Stable Diffusion folder of the size.
        rates: precision -> floating-point operations per second of the device's matrix product.
    """

    size: str
    device: str
    folder: Path
    data: Path
    weights: Path
    record: Record
    rates: dict[str, float] = dataclasses.field(default_factory=dict)
    models: dict[str, "TaskModel"] = dataclasses.field(default_factory=dict)

    @property
    def full(self) -> bool:
        return self.size == "full"

    @property
    def batches(self) -> tuple[int, ...]:
        return (2, 1, 8) if self.full else (2,)

    def cap(self, seconds: float) -> float:
        """Seconds after which a measurement is given up: those of a GPU, or enough for a CPU."""
        return seconds if self.device == "cuda" else 120

    def time(self, run: Callable[[], object], **options: Any) -> dict[str, Any]:
        # Tiny: only whether it works.
        own = {"seconds": 1.5} if self.full else {"seconds": 0.1, "least": 1}
        fixed = {} if self.full else {"warm": 1, "calls": 1}
        return timed(run, self.device, **{**own, **options, **fixed})

    @contextlib.contextmanager
    def model(self, task: str) -> Iterator["TaskModel"]:
        """The model of a task, built when first asked for; no other is on the device."""
        for other, model in self.models.items():
            if other != task:
                model.model.cpu()
        if task in self.models:
            self.models[task].model.to(self.device)
        else:
            start = time.perf_counter()
            self.models[task] = TaskModel(self, task)
            self.record.add(
                {"section": "loading", "task": task, "seconds": time.perf_counter() - start}
            )
        try:
            yield self.models[task]
        finally:
            self.models[task].drop_optimizer()
            free()


class TaskModel:
    """The model of a config with inputs as its training loader makes them."""

    def __init__(self, run: Run, task: str, *keys: Any):
        """
        Args:
            keys: what differs from the config, keys and values in turns.
        """
        quick = "" if run.full else "quick_schedules/"
        self.run, self.task = run, task
        self._file = str(ROOT / "configs" / f"{quick}{CONFIGS[task]}.yaml")
        self._settings = [
            *("MODEL.DIFFUSION.WEIGHTS", str(run.weights)),
            *("MODEL.DEVICE", run.device),
            *("DATASETS.TEST", (TARGETS[task],)),
            *("SOLVER.IMS_PER_BATCH", 8 if run.full else 2),
            # Random weights must not run away while they are timed.
            *("SOLVER.BASE_LR", 1e-8),
            *("TEST.GALLERY_IMAGES", 0),
            *("OUTPUT_DIR", str(run.folder / task)),
            *keys,
        ]
        self.cfg = self.config("DATALOADER.NUM_WORKERS", 0)
        self.model = Trainer.build_model(self.cfg).train()
        self.inputs = next(iter(Trainer.build_train_loader(self.cfg)))
        self._optimizer: torch.optim.Optimizer | None = None

    def config(self, *overrides: Any) -> Any:
        return load_config(self._file, overrides=[*self._settings, *overrides])

    @property
    def backbone(self) -> DiffusionBackbone:
        return find_diffusion_backbone(self.model)

    def drop_optimizer(self) -> None:
        self._optimizer = None
        self.model.zero_grad(set_to_none=True)

    def batch(self, count: int) -> list[dict]:
        return list(itertools.islice(itertools.cycle(self.inputs), count))

    @contextlib.contextmanager
    def replaced(self, make: Callable[[UNetFeatures], nn.Module]) -> Iterator[None]:
        """Inside it the model computes with another UNet, and trains that."""
        self.drop_optimizer()
        with sides.replaced_unet(self.backbone, make):
            try:
                yield
            finally:
                self.drop_optimizer()
        free()

    @contextlib.contextmanager
    def compiled(self, how: str) -> Iterator[None]:
        """Inside it the model computes as with this value of `MODEL.DIFFUSION.COMPILE`."""
        self.compute_as(how)
        try:
            yield
        finally:
            self.compute_as("")

    def compute_as(self, how: str) -> None:
        compile_passes(how, self.backbone.latent_encoder.module, self.backbone.unet)

    @contextlib.contextmanager
    def stepping(self, precision: str, count: int) -> Iterator[Callable[[], None]]:
        """A whole training step, as a run makes it: data to the device, losses, optimizer, log."""
        self.model.train()
        if self._optimizer is None:
            self._optimizer = Trainer.build_optimizer(self.cfg, self.model)
        trainer = AccumulatingTrainer(
            self.model,
            itertools.repeat(self.batch(count)),
            self._optimizer,
            precision=sides.mixed(precision),
        )
        with EventStorage(0) as trainer.storage, sides.tf32(precision):
            trainer.iter = 0

            def step() -> None:
                trainer.run_step()
                trainer.iter += 1
                trainer.storage.step()

            yield step

    def time_step(self, precision: str, count: int, **options: Any) -> dict[str, Any]:
        with self.stepping(precision, count) as step:
            found = self.run.time(step, **options)
        return {**found, "images_per_second": count / found["seconds"]}


def matrix(run: Run, clock: Clock) -> None:
    """The device's own rates, which bound all others: of matrix products, and of its memory."""
    size = 8192 if run.full else 512
    for precision in sides.precisions(run.device):
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
        a, b = (torch.randn(size, size, device=run.device, dtype=dtype) for _ in range(2))

        def measure(a: Tensor = a, b: Tensor = b, precision: str = precision) -> dict:
            with sides.tf32(precision):
                found = timed(lambda: a @ b, run.device, seconds=0.5, calls=3)
            run.rates[precision] = 2 * size**3 / found["fastest"]
            return {**found, "tflops": run.rates[precision] / 1e12}

        run.record.cell(clock, {"section": "matrix", "precision": precision}, measure)
    block = torch.empty(2**30 if run.full else 2**20, dtype=torch.uint8, device=run.device)
    target = torch.empty_like(block)

    def copy() -> dict:
        found = timed(lambda: target.copy_(block), run.device, seconds=0.3, calls=3)
        return {**found, "gb_per_second": 2 * len(block) / found["fastest"] / 1e9}

    run.record.cell(clock, {"section": "matrix", "what": "copy"}, copy)


def features(run: Run, clock: Clock) -> None:
    """The UNet's features, forward and forward with backward, beside the released wrapper's."""
    config, width = SIZES["full"] if run.full else (SIZES["small"][0], 16)
    torch.manual_seed(0)
    with torch.device(run.device):
        twin = UNet2DConditionModel(**config)
    ours = copy.deepcopy(twin)
    # The gradient through the maps is cut, as the released wrapper does.
    pair = {
        "reference": ReferenceFeatures(twin),
        "tadp_d2": UNetFeatures(ours, maps=MapOptions(gradient=False)),
    }

    def inputs(batch: int) -> tuple[Tensor, Tensor]:
        return (
            torch.randn(batch, 4, width, width, device=run.device),
            torch.randn(batch, 77, config["cross_attention_dim"], device=run.device),
        )

    add = functools.partial(run.record.cell, clock)
    with sides.tf32("fp32"):
        add(
            {"section": "features", "what": "disagreement"},
            lambda: {"difference": disagreement(pair, *inputs(1))},
        )
        exact_inputs = inputs(1)
        exact = forward(pair["tadp_d2"], *exact_inputs)
        work = operations(functools.partial(forward, pair["reference"], *exact_inputs))

    def rounding(precision: str) -> dict:
        with sides.computing_in(run.device, precision):
            found = forward(pair["tadp_d2"], *exact_inputs)
        wrong = [((found[k].float() - e).norm() / e.norm()).item() for k, e in exact.items()]
        return {"difference": max(wrong)}

    for precision in sides.precisions(run.device)[1:]:
        names = {"section": "features", "what": "rounding", "precision": precision}
        add(names, functools.partial(rounding, precision))

    def measure(side: str, precision: str, batch: int, call: Callable) -> dict:
        arguments = inputs(batch)
        with sides.computing_in(run.device, precision):
            found = run.time(functools.partial(call, pair[side], *arguments), seconds=1.0, calls=2)
        pair[side].zero_grad(set_to_none=True)
        # A backward pass is two products for each one forward.
        passes = batch * (1 if call is forward else 3)
        rate = run.rates.get(precision, float("nan"))
        return {**found, "share_of_matrix_rate": passes * work / found["seconds"] / rate}

    order = [p for p in ("bf16", "fp16", "fp32", "tf32") if p in sides.precisions(run.device)]
    for precision, batch in itertools.product(order, run.batches):
        for side, call in itertools.product(pair, (forward_backward, forward)):
            names = {"section": "features", "what": call.__name__, "side": side}
            names |= {"precision": precision, "batch": batch}
            # The reference at batch 8 in half precision, for the trend.
            if side == "tadp_d2" or batch < 8 or precision in ("bf16", "fp16"):
                add(names, functools.partial(measure, side, precision, batch, call))


# A side of a training step, its precision and batch, the most valuable first.
_STEPS = (
    *(("tadp_d2", "bf16", 2), ("tadp_d2", "fp32", 2), ("tadp_d2", "tf32", 2)),
    *(("tadp_d2", "fp16", 2), ("tadp_d2", "bf16", 8), ("tadp_d2", "bf16", 1)),
    *(("reference", "bf16", 2), ("reference", "fp32", 2), ("reference", "tf32", 2)),
    *(("reference", "bf16", 8), ("reference", "bf16", 1), ("reference", "fp16", 2)),
    *(("reference", "fp16", 8), ("reference", "fp32", 1), ("reference", "fp16", 1)),
    *(("tadp_d2", "fp16", 8), ("tadp_d2", "fp16", 1), ("tadp_d2", "fp32", 1)),
    *(("tadp_d2", "fp32", 8), ("tadp_d2", "tf32", 8), ("tadp_d2", "tf32", 1)),
)


def steps(run: Run, clock: Clock, task: str) -> None:
    """Whole training steps, and what the device does in them."""
    with run.model(task) as model:
        # Both sides have the same VAE, prompts cached alike, heads, optimizer: only the UNet's
        # features differ. Ours lets the gradient through the maps besides.
        for side, group in itertools.groupby(_STEPS, lambda step: step[0]):
            reference = side == "reference"
            with model.replaced(sides.ReferenceUNet) if reference else contextlib.nullcontext():
                for _, precision, batch in group:
                    if precision not in sides.precisions(run.device):
                        continue
                    if batch not in run.batches:
                        continue
                    names = {"section": "steps", "task": task, "side": side}
                    names |= {"precision": precision, "batch": batch}
                    measure = functools.partial(model.time_step, precision, batch)
                    run.record.cell(clock, names, measure)
        names = {"section": "busy", "task": task, "option": "eager"}
        names |= {"precision": "bf16", "batch": 2}
        run.record.cell(clock, names, functools.partial(_busy, model, "bf16", 2))


def _busy(model: TaskModel, precision: str, batch: int) -> dict:
    """The share of a step's time in which the device computes, and what takes longest there."""
    on_gpu = model.run.device == "cuda"
    activity = torch.profiler.ProfilerActivity
    # Of Python's side nothing is asked: its events are many, and slow it down.
    activities = [activity.CUDA if on_gpu else activity.CPU]
    with model.stepping(precision, batch) as step:
        found = model.run.time(step)
        with torch.profiler.profile(activities=activities) as profile:
            for _ in range(_PROFILED):
                step()
            if on_gpu:
                torch.cuda.synchronize()
    events = profile.events()
    kernels = [
        e
        for e in events
        if e.device_type == torch.autograd.DeviceType.CUDA
        and not getattr(e, "is_user_annotation", False)
        # Those are ranges of Python on the device's time line.
        and not e.name.startswith(("Optimizer.", "ProfilerStep"))
    ]
    span, end = 0.0, 0.0
    for begin, stop in sorted((e.time_range.start, e.time_range.end) for e in kernels):
        span += max(0.0, stop - max(begin, end))
        end = max(end, stop)
    names: dict[str, list[float]] = {}
    for kernel in kernels:
        names.setdefault(kernel.name[:120], []).append(kernel.time_range.elapsed_us())
    longest = sorted(names.items(), key=lambda item: -sum(item[1]))[:25]
    return {
        **found,
        "busy_seconds": span / 1e6 / _PROFILED,
        "busy_share": span / 1e6 / _PROFILED / found["seconds"],
        "kernels_per_step": len(kernels) / _PROFILED,
        "longest_kernels": [
            [n, len(times) / _PROFILED, sum(times) / 1e6 / _PROFILED] for n, times in longest
        ],
    }


# What trains in less memory: name in the tables -> key and value.
LESS_MEMORY = {
    "LORA_RANK 16": ("MODEL.DIFFUSION.LORA_RANK", 16),
    "ADAM_8BIT": ("SOLVER.ADAM_8BIT", True),
}


def memory(run: Run, clock: Clock) -> None:
    """Training steps in less memory, and the largest batch that fits without, all in bf16."""
    for task, (option, keys) in itertools.product(CONFIGS, LESS_MEMORY.items()):
        names = {"section": "memory", "task": task, "option": option, "precision": "bf16"}
        if option == "ADAM_8BIT" and find_spec("bitsandbytes") is None:
            run.record.add({**names, "skipped": "bitsandbytes is not installed"})
            continue
        for other in run.models.values():
            other.model.cpu()
        model = TaskModel(run, task, *keys)
        for batch in (1, 8) if run.full else run.batches:
            measure = functools.partial(model.time_step, "bf16", batch)
            run.record.cell(clock, {**names, "batch": batch}, measure, run.cap(20))
        del model, measure
        free()
    for task in CONFIGS if run.device == "cuda" else ():
        with run.model(task) as model:
            _largest(run, clock, model)


def _largest(run: Run, clock: Clock, model: TaskModel) -> None:
    """The largest batch that fits, by the memory of two smaller ones."""
    peaks = {
        batch: model.time_step("bf16", batch, seconds=0.1, warm=1)["peak_mib"] for batch in (2, 8)
    }
    each = max((peaks[8] - peaks[2]) / 6, 1)
    room = torch.cuda.mem_get_info()[1] / 2**20 * 0.93 - peaks[2]
    batch = min(2 + int(room / each), 256)
    for share in (1.0, 0.85, 0.7):
        count = int(batch * share)
        names = {"section": "steps", "task": model.task, "side": "tadp_d2", "what": "largest"}
        names |= {"precision": "bf16", "batch": count}
        measure = functools.partial(model.time_step, "bf16", count, seconds=0.1, warm=1)
        if run.record.cell(clock, names, measure):
            return


# The values of `MODEL.DIFFUSION.COMPILE` with a batch, the most valuable first; "" is eager.
_GRAPHED = (("graphs", 2), ("graphs", 8), ("", 8))
# The second compiles again, as autocast's cache is on in it; most of it comes from a cache on disk.
_COMPILED = (("blocks+graphs", 2), ("blocks", 2))
_REFERENCE = (("bf16", 2), ("fp32", 2))


def graphs(run: Run, clock: Clock) -> None:
    """Training steps in bf16, eager and by CUDA graphs, and the reference's."""
    for task in CONFIGS:
        with run.model(task) as model:
            # Before CUDA graphs, whose faults may end all that comes behind.
            _compiled_steps(run, clock, model, (("", 2),))
            with model.replaced(sides.ReferenceUNet):
                for precision, batch in _REFERENCE:
                    names = {"section": "steps", "task": task, "side": "reference"}
                    names |= {"precision": precision, "batch": batch}
                    measure = functools.partial(model.time_step, precision, batch)
                    run.record.cell(clock, names, measure, run.cap(20))
            _compiled_steps(run, clock, model, _GRAPHED)


def blocks(run: Run, clock: Clock) -> None:
    """The same by compiled blocks; most blocks of the second task are those of the first."""
    for task in CONFIGS if run.device == "cuda" else ():
        with run.model(task) as model:
            _compiled_steps(run, clock, model, _COMPILED, cap=170)


def _compiled_steps(
    run: Run, clock: Clock, model: TaskModel, values: Sequence[tuple[str, int]], cap: float = 25
) -> None:
    for how, batch in values:
        if ("graphs" in how and run.device != "cuda") or batch not in run.batches:
            continue
        names = {"task": model.task, "option": how or "eager", "precision": "bf16", "batch": batch}
        measure = functools.partial(_compiled_step, model, how, batch)
        with model.compiled(how):
            found = run.record.cell(clock, {"section": "compiling", **names}, measure, run.cap(cap))
            if found and batch == 2:
                # Apart, as it may take too long.
                profiled = functools.partial(_busy, model, "bf16", batch)
                run.record.cell(clock, {"section": "busy", **names}, profiled, run.cap(20))


def _compiled_step(model: TaskModel, how: str, batch: int) -> dict:
    """A step, and by how much features and gradients of the UNet move."""
    run, backbone = model.run, model.backbone
    model.model.train()
    generator = torch.Generator().manual_seed(0)
    side = model.inputs[0]["image"].shape[-1] // backbone.size_divisibility
    width = backbone.unet.unet.config.cross_attention_dim
    images = torch.rand(batch, 3, *[side * backbone.size_divisibility] * 2, generator=generator)
    context = torch.randn(batch, backbone.unet.maps.tokens, width, generator=generator)
    images, context = (2 * images - 1).to(run.device), context.to(run.device)
    trained = [weight for weight in backbone.unet.parameters() if weight.requires_grad]

    def compute() -> tuple[list[Tensor], list[Tensor]]:
        with sides.computing_in(run.device, "bf16"):
            latents = backbone.latent_encoder(images)
            features = backbone.unet(latents, Context(context), backbone.timestep).values()
        loss = sum(maps.float().square().mean() for maps in features)
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        return [maps.detach() for maps in features], [g for g in gradients if g is not None]

    model.compute_as("")
    exact = compute()
    model.compute_as(how)
    start = time.perf_counter()
    found = compute()
    moved = [_distance(*pair) for pair in zip(found, exact, strict=True)]
    until_ready = time.perf_counter() - start
    del found, exact
    return {
        **model.time_step("bf16", batch),
        "difference": moved[0],
        "gradient_difference": moved[1],
        "until_ready": until_ready,
    }


def _distance(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Relative, of all tensors together."""
    pairs = list(zip(found, exact, strict=True))
    wrong = sum((own.float() - e.float()).square().sum() for own, e in pairs)
    return (wrong / sum(e.float().square().sum() for e in exact)).sqrt().item()


# Name of a side of an evaluation -> precision, and keys of the config.
_WHOLE = ("TEST.WINDOW_SIZE", 0)
_GRAPHS = ("MODEL.DIFFUSION.COMPILE", "graphs")
_EVALUATIONS = {
    "detection": {
        "bf16": ("bf16", ()),
        "bf16, graphs": ("bf16", _GRAPHS),
        "bf16, latents cached": ("bf16", ("cache",)),
        "fp32": ("fp32", ()),
    },
    "segmentation": {
        "windows, bf16": ("bf16", ()),
        "windows, bf16, graphs": ("bf16", _GRAPHS),
        "whole image, bf16": ("bf16", _WHOLE),
        "whole image, bf16, latents cached": ("bf16", ("cache", *_WHOLE)),
        "windows, fp32": ("fp32", ()),
    },
}


def evaluation(run: Run, clock: Clock, task: str) -> None:
    """Images per second of `--eval-only`, from image files to metrics."""
    with run.model(task) as model:
        model.model.eval()
        for name, how in {
            "bf16, images in memory": "",
            "bf16, images in memory, graphs": "graphs",
        }.items():
            if how and run.device != "cuda":
                continue
            names = {"section": "evaluation", "task": task, "side": name, "precision": "bf16"}
            run.record.cell(clock, names, functools.partial(_in_memory, model, how), run.cap(25))
        for name, (precision, keys) in _EVALUATIONS[task].items():
            if precision not in sides.precisions(run.device):
                continue
            if keys == _GRAPHS and run.device != "cuda":
                continue
            names = {"section": "evaluation", "task": task, "side": name, "precision": precision}
            call = functools.partial(_evaluate, model, precision, keys)
            run.record.cell(clock, names, call, run.cap(30))
        model.model.train()


def _evaluate(model: TaskModel, precision: str, keys: tuple) -> dict:
    run, cache = model.run, "cache" in keys
    overrides = [key for key in keys if key != "cache"]
    if cache:
        overrides += ["MODEL.DIFFUSION.LATENT_CACHE.FOLDER", str(run.folder / "latents")]
    workers = min(8, (os.cpu_count() or 2) - 1)
    cfg = model.config(*overrides, "DATALOADER.NUM_WORKERS", workers if run.full else 0)
    model.backbone.test_precision = sides.mixed(precision)
    if model.task == "segmentation":
        model.model.window_size = cfg.TEST.WINDOW_SIZE
    how = cfg.MODEL.DIFFUSION.COMPILE
    dataset = TARGETS[model.task]

    def evaluate() -> tuple[float, int]:
        loader = Trainer.build_test_loader(cfg, dataset)
        evaluator = Trainer.build_evaluator(cfg, dataset)
        start = time.perf_counter()
        with sides.tf32(precision):
            inference_on_dataset(model.model, loader, evaluator)
        return time.perf_counter() - start, len(loader.dataset)

    with model.compiled(how):
        # It fills the caches, of prompts and of latents; in fp32, slow, those of prompts are full.
        first = None if precision == "fp32" else evaluate()[0]
        seconds, count = evaluate()
    return {
        "seconds": seconds,
        "first": first,
        "images": count,
        "images_per_second": count / seconds,
        "workers": cfg.DATALOADER.NUM_WORKERS,
    }


@torch.no_grad()
def _in_memory(model: TaskModel, how: str) -> dict:
    """The model alone, on images that are decoded already."""
    cfg = model.config("DATALOADER.NUM_WORKERS", 0)
    model.backbone.test_precision = "bf16"
    if model.task == "segmentation":
        model.model.window_size = cfg.TEST.WINDOW_SIZE
    loader = iter(Trainer.build_test_loader(cfg, TARGETS[model.task]))
    inputs = list(itertools.islice(loader, 16 if model.run.full else 2))
    with model.compiled(how):
        found = model.run.time(lambda: [model.model(one) for one in inputs], seconds=2)
    return {**found, "images_per_second": len(inputs) / found["seconds"]}


def personalization(run: Run, clock: Clock) -> None:
    """Steps per second of textual inversion and DreamBooth with the settings of the paper."""
    size = 512 if run.full else 64
    paths = sorted((run.data / "watercolor" / "JPEGImages").glob("*.jpg"))[:5]
    images, _ = read_pictures(paths, size)
    kinds = {
        "invert": (TextualInversion, {"token": "<new-style>", "init": "painting"}),
        "dreambooth": (DreamBooth, {"prompt": "a sks style painting"}),
    }
    for method, (kind, given) in kinds.items():
        model = TrainableDiffusion.load(str(run.weights)).to(torch.device(run.device))
        settings = resolve(method, "paper-text", {**given, "size": size})
        source = LatentSource(model, Crops(images, size, settings.flip, settings.center_crop))
        objective = kind(model, source, settings)

        def measure(precision: str, objective: Any = objective, settings: Any = settings) -> dict:
            objective.settings = dataclasses.replace(settings, precision=sides.mixed(precision))
            training = TrainingState(objective)
            with sides.tf32(precision):
                found = run.time(training.advance, seconds=2)
            images = settings.batch * settings.accumulation
            return {**found, "steps_per_second": 1 / found["seconds"], "images_per_step": images}

        for precision in ("bf16", "fp32", "tf32"):
            if precision in sides.precisions(run.device):
                names = {"section": "personalization", "what": method, "precision": precision}
                run.record.cell(clock, names, functools.partial(measure, precision))
        del model, source, objective, measure
        free()


def captioning(run: Run, clock: Clock) -> None:
    """Captions per second of a model of BLIP-2's size with random weights, 30 tokens each."""
    processor = AutoProcessor.from_pretrained(run.data / "blip2-tiny")
    start = time.perf_counter()
    if run.full:
        config = blip2_config()
        config.image_token_index = processor.tokenizer.convert_tokens_to_ids("<image>")
        side = config.vision_config.image_size
        processor.image_processor.size = {"height": side, "width": side}
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device(run.device):
                model = Blip2ForConditionalGeneration(config)
        finally:
            torch.set_default_dtype(torch.float32)
        captioner = Captioner(model.to(run.device, torch.bfloat16), processor)
    else:
        captioner = Captioner.from_pretrained(str(run.data / "blip2-tiny"), device=run.device)
    weights = sum(p.numel() for p in captioner.model.parameters())
    built = {"section": "captioning", "what": "building", "weights": weights}
    run.record.add({**built, "seconds": time.perf_counter() - start})
    paths = sorted((run.data / "watercolor" / "JPEGImages").glob("*.jpg"))[:16]
    images = [Image.open(path).convert("RGB") for path in paths]
    for batch in (1, 8, 16) if run.full else (2,):
        chosen = list(itertools.islice(itertools.cycle(images), batch))

        def measure(chosen: list[Image.Image] = chosen) -> dict:
            call = functools.partial(
                captioner.captions, chosen, min_new_tokens=CAPTION_TOKENS,
                max_new_tokens=CAPTION_TOKENS,
            )  # fmt: skip
            found = run.time(call, warm=1)
            return {**found, "images_per_second": len(chosen) / found["seconds"]}

        names = {"section": "captioning", "precision": "bf16" if run.full else "fp32"}
        run.record.cell(clock, {**names, "batch": batch}, measure)


class Tests:
    """A run of pytest beside this process."""

    def __init__(self, run: Run, paths: tuple[str, ...], workers: int = 0):
        command = [sys.executable, "-m", "pytest", *paths, "--tb=short", "--durations=15"]
        command += ["-p", "no:cacheprovider", "-rfE"]
        if workers and find_spec("xdist"):
            command += ["-n", str(workers)]
        self._log = run.folder / f"tests_{time.monotonic_ns()}.txt"
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {k: v for k, v in os.environ.items() if k != "DETECTRON2_DATASETS"}
        with open(self._log, "w") as out:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**environment, "PYTHONPATH": path},
            )

    def wait(self, seconds: float) -> dict[str, Any]:
        """What it said; it is ended after so many seconds."""
        try:
            code: int | str = self._process.wait(max(seconds, 1))
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            code = "ended by the clock"
        text = self._log.read_text("utf-8", "replace")
        lines = text.strip().splitlines()
        return {"code": code, "result": lines[-1] if lines else "", "output": text[-_OUTPUT:]}
