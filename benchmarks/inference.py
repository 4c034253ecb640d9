"""Images a second of `--eval-only`, for detection and for segmentation.

The sides of a task are one model: with and without cached prompts and latents, whole images and
windows, full and mixed precision. Nothing is trained, so the metrics say only how far the sides are
apart.

    tadp-d2 synth data
    python benchmarks/inference.py --data data
    python benchmarks/full_size.py /tmp/sd15-random
    python benchmarks/inference.py --data data --weights /tmp/sd15-random --images 2 --openvino
"""

import argparse
import functools
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from first_images import first_images
from measure import Measurement, add_write, in_turns, report

CONFIGS = {"detection": "voc2watercolor_simple", "segmentation": "cityscapes2darkzurich_simple"}
TARGETS = {"detection": "watercolor_test", "segmentation": "dark_zurich_val"}
NO_PROMPTS = ("TEXT.CACHE_SIZE", 0)
WHOLE = ("TEST.WINDOW_SIZE", 0)
BF16 = ("TEST.PRECISION", "bf16")
OPENVINO = ("MODEL.DIFFUSION.COMPILE", "openvino")


def sides(task: str, cache: str, openvino: bool) -> dict[str, tuple]:
    """Side -> the overrides that make it; sides of one first word are compared with its first."""
    base = {"detection": "prompts cached", "segmentation": "windows together"}[task]
    found = _sides(task, cache)
    if openvino:
        found |= {f"{base}, OpenVINO": OPENVINO, f"{base}, OpenVINO, bf16": (*OPENVINO, *BF16)}
    return found


def _sides(task: str, cache: str) -> dict[str, tuple]:
    latents = ("MODEL.DIFFUSION.LATENT_CACHE.FOLDER", cache)
    if task == "detection":
        return {
            "prompts encoded anew": NO_PROMPTS,
            "prompts cached": (),
            "prompts cached, bf16": BF16,
            "prompts and latents cached": latents,
            "prompts and latents cached, bf16": (*latents, *BF16),
        }
    return {
        "whole image": WHOLE,
        "whole image, bf16": (*WHOLE, *BF16),
        "whole image, latents cached": (*WHOLE, *latents),
        "windows one by one": ("TEST.WINDOW_BATCH", 1),
        "windows together": (),
        "windows together, bf16": BF16,
    }


def evaluations(args: argparse.Namespace, task: str, folder: Path) -> tuple[str, dict]:
    """The device, and side -> a function that evaluates and returns the metrics."""
    import torch

    from tadp_d2.conditioning.conditioner import Conditioner, build_conditioner
    from tadp_d2.config.load import load_config
    from tadp_d2.diffusion.compiling import compile_passes
    from tadp_d2.engine.trainer import Trainer
    from tadp_d2.modeling.backbone import find_diffusion_backbone

    quick = "" if args.weights else "quick_schedules/"
    base = (
        *("MODEL.DIFFUSION.WEIGHTS", args.weights or str(args.data / "stable-diffusion-tiny")),
        *("DATASETS.TEST", (TARGETS[task],)),
        *("TEST.GALLERY_IMAGES", 0),
        # What a worker does is not seen where processor time is measured.
        *("DATALOADER.NUM_WORKERS", 0),
        *("SOLVER.AMP.ENABLED", False),
        *("OUTPUT_DIR", str(folder)),
    )
    read = functools.partial(load_config, f"configs/{quick}{CONFIGS[task]}.yaml")
    torch.manual_seed(0)  # of the heads
    model = Trainer.build_model(read(overrides=[*base])).eval()
    backbone = find_diffusion_backbone(model)
    networks = backbone.latent_encoder.module, backbone.unet
    if args.openvino:
        compile_passes("openvino", *networks)
    by_openvino = [vars(network).pop("forward", None) for network in networks]

    def evaluate(cfg: Any, conditioner: Conditioner) -> dict:
        model.conditioner = conditioner
        backbone.test_precision = cfg.TEST.PRECISION
        for network, forward in zip(networks, by_openvino, strict=True):
            vars(network).pop("forward", None)
            if cfg.MODEL.DIFFUSION.COMPILE:
                network.forward = forward
        if task == "segmentation":
            model.window_size, model.window_batch = cfg.TEST.WINDOW_SIZE, cfg.TEST.WINDOW_BATCH
        return Trainer.test(cfg, model)

    calls, conditioners, cache = {}, {}, str(folder / f"latents_{task}")
    for name, overrides in sides(task, cache, args.openvino).items():
        cfg = read(overrides=[*base, *overrides])
        size = cfg.TEXT.CACHE_SIZE
        if size not in conditioners:
            conditioners[size] = build_conditioner(cfg).to(model.device).eval()
        calls[name] = functools.partial(evaluate, cfg, conditioners[size])
    return model.device.type, calls


def numbers(results: Any) -> list[float]:
    """All metrics, in order, without those that are not defined."""
    if isinstance(results, dict):
        return [number for value in results.values() for number in numbers(value)]
    return [results] if results == results else []


def rows(task: str, found: dict[str, Measurement], metrics: dict[str, Any], count: int) -> list:
    lines, base, likes = [], [], ""
    for name, measurement in found.items():
        like = name.split(" ")[0]
        if like != likes:
            base, likes = numbers(metrics[name]), like
        apart = max((abs(a - b) for a, b in zip(numbers(metrics[name]), base, strict=True)))
        rate = count / measurement.median
        lines.append(f"| {task} | {name} | {measurement} | {rate:.3g} | {apart:.2g} |")
    return lines


def measured(args: argparse.Namespace, task: str, folder: Path) -> tuple[str, list[str]]:
    """The device and a task's rows; its model is gone when they are there."""
    device, calls = evaluations(args, task, folder)
    metrics: dict[str, Any] = {}

    def keep(name: str) -> None:
        metrics[name] = calls[name]()

    found = in_turns({n: functools.partial(keep, n) for n in calls}, args.repeats, device)
    return device, rows(task, found, metrics, args.images)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="as tadp-d2 synth writes it")
    parser.add_argument(
        "--weights", help="default: the tiny model of the data, and its quick configs"
    )
    parser.add_argument("--tasks", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--images", type=int, default=20, help="of each test set")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--openvino", action="store_true", help="also by OpenVINO, on a CPU")
    add_write(parser)
    args = parser.parse_args()
    if args.images < 2:
        parser.error("--images: at least 2, because the backbone keeps the last image's latents")
    lines = [
        "| | | an evaluation: median (range) | images a second | metrics: largest difference |",
        "| --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        first_images(args.data, folder / "data", args.images)
        # Detectron2 reads it when it registers data sets.
        os.environ["DETECTRON2_DATASETS"] = str(folder / "data")
        for task in args.tasks:
            device, own = measured(args, task, folder)
            print(*own, sep="\n", file=sys.stderr, flush=True)
            lines += own
    weights = Path(args.weights).name if args.weights else "tiny model"
    command = shlex.join(["python", "benchmarks/inference.py", *sys.argv[1:]])
    report(f"Inference, {device}, {weights}", command, device, lines, args.write)


if __name__ == "__main__":
    main()
