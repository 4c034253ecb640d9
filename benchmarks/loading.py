"""What `tadp-d2 predict` holds of a trained model: seconds to load it, memory, weights by part.

The checkpoint is that of a training, with its optimizer's moments, as `model_final.pth` is. It is
written, and the model loaded, in fresh processes.

    tadp-d2 synth data
    python benchmarks/loading.py --data data
    python benchmarks/full_size.py /tmp/sd15-random
    python benchmarks/loading.py --data data --weights /tmp/sd15-random
"""

import argparse
import multiprocessing
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from measure import add_write, clock, report, status

MIB = 2**20


def read(args: argparse.Namespace, folder: str) -> Any:
    os.environ["DETECTRON2_DATASETS"] = str(args.data)
    from tadp_d2.config.load import load_config

    weights = args.weights or str(args.data / "stable-diffusion-tiny")
    return load_config(
        f"configs/{args.config}.yaml",
        overrides=[
            *("MODEL.DIFFUSION.WEIGHTS", weights),
            *("MODEL.WEIGHTS", str(Path(folder, "model_final.pth"))),
            *("OUTPUT_DIR", folder),
        ],
    )


def write_checkpoint(args: argparse.Namespace, folder: str) -> None:
    """As after a first iteration without gradients."""
    import torch

    cfg = read(args, folder)
    from tadp_d2.engine.checkpoint import RunCheckpointer
    from tadp_d2.engine.trainer import Trainer
    from tadp_d2.records.provenance import Provenance

    model = Trainer.build_model(cfg)
    optimizer = Trainer.build_optimizer(cfg, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    provenance = Provenance(cfg, model)
    RunCheckpointer(model, folder, provenance, optimizer=optimizer).save("model_final")


def load(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Loads a predictor and predicts; what was seen on the way."""
    import numpy as np

    cfg = read(args, folder)
    from tadp_d2.inference.predictor import Predictor

    now = clock(cfg.MODEL.DEVICE)
    seen: dict[str, Any] = {"device": cfg.MODEL.DEVICE, "before": status("VmRSS")}
    start = now()
    predictor = Predictor(cfg)
    seen |= {"loading": now() - start, "peak": status("VmHWM"), "settled": status("VmRSS")}
    width, height = cfg.INPUT.FIXED_SIZE_TEST
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for turn in ("first", "second"):
        start = now()
        predictor(pixels, "a dog and a bird")
        seen[turn] = now() - start
    seen["predicting"] = status("VmHWM")
    return seen | {"parts": parts(predictor.model)}


def parts(model: Any) -> dict[str, int]:
    """Part of the model -> bytes of its weights and buffers; each tensor is counted once."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    names = {
        "backbone.bottom_up.unet": "UNet",
        "backbone.bottom_up.latent_encoder": "VAE, encoding half",
        "conditioner.text": "text encoder",
        "backbone": "FPN",
    }
    sizes: dict[str, int] = {}
    for name, tensor in named.items():
        part = next((p for start, p in names.items() if name.startswith(f"{start}.")), "heads")
        sizes[part] = sizes.get(part, 0) + tensor.nbytes
    return sizes


def in_fresh_process(run: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="as tadp-d2 synth writes it")
    parser.add_argument("--weights", help="default: the tiny model of the data")
    parser.add_argument("--config", default="voc2watercolor_simple", help="name below configs/")
    add_write(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        in_fresh_process(write_checkpoint, args, folder)
        size = Path(folder, "model_final.pth").stat().st_size
        seen = in_fresh_process(load, args, folder)
    held = sum(seen["parts"].values())
    lines = [
        "| | |",
        "| --- | --- |",
        f"| checkpoint with its optimizer, MiB | {size / MIB:.0f} |",
        f"| loading, s | {seen['loading']:.3g} |",
        f"| first image, s | {seen['first']:.3g} |",
        f"| second image, s | {seen['second']:.3g} |",
        f"| resident before loading, MiB | {seen['before'] / MIB:.0f} |",
        f"| at the peak of loading | {seen['peak'] / MIB:.0f} |",
        f"| loaded | {seen['settled'] / MIB:.0f} |",
        f"| at the peak of the two images | {seen['predicting'] / MIB:.0f} |",
        f"| weights and buffers, all parts | {held / MIB:.0f} |",
        *(f"| of these {name} | {part / MIB:.1f} |" for name, part in seen["parts"].items()),
    ]
    weights = Path(args.weights).name if args.weights else "tiny model"
    command = shlex.join(["python", "benchmarks/loading.py", *sys.argv[1:]])
    title = f"Loading a model, {args.config}, {seen['device']}, {weights}"
    report(title, command, seen["device"], lines, args.write)


if __name__ == "__main__":
    main()
