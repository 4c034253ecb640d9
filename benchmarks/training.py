"""A training epoch from image files to updated weights, with and without the latent cache.

It runs the real mapper, model, batch and optimizer on images of the synthetic data sets. In the
cached epoch, any but the first, no VAE runs and no image is decoded. Both sides get the same
images, mirrored alike. How far half precision moves their features is printed first.

    tadp-d2 synth data
    python benchmarks/full_size.py /tmp/sd15-random
    python benchmarks/training.py --data data --weights /tmp/sd15-random --size 512
"""

import argparse
import functools
import itertools
import os
import shlex
import sys
import tempfile
from pathlib import Path

import torch
from detectron2.utils.events import EventStorage
from measure import add_write, in_turns, report


def make_sides(args: argparse.Namespace, folder: str) -> tuple:
    """The model, its optimizer, and side -> a function that gives an epoch's inputs in batches."""
    # Detectron2 reads it when it registers data sets.
    os.environ["DETECTRON2_DATASETS"] = str(args.data)
    from tadp_d2.config.load import load_config
    from tadp_d2.data.loader import load_dataset
    from tadp_d2.data.mapper import ConditionedMapper
    from tadp_d2.engine.trainer import Trainer
    from tadp_d2.randomness import seeded

    weights = args.weights or str(args.data / "stable-diffusion-tiny")
    settings = (
        *("MODEL.DIFFUSION.WEIGHTS", weights),
        *("INPUT.FIXED_SIZE_TRAIN", (args.size, args.size)),
    )
    cfg = load_config("configs/voc2watercolor_simple.yaml", overrides=settings)
    model = Trainer.build_model(cfg).train()
    entries = load_dataset(cfg, "voc_2007_trainval", training=True)[: args.images]

    def mapped(mapper):
        for number, entry in enumerate(entries):
            with seeded("benchmark", number):
                inputs = mapper(entry)
            yield inputs

    def batches(mapper):
        inputs = mapped(mapper)
        while batch := list(itertools.islice(inputs, cfg.SOLVER.IMS_PER_BATCH)):
            yield batch

    sides = {}
    for name, cache in (("no cache", ""), ("cache", folder)):
        own = load_config(
            "configs/voc2watercolor_simple.yaml",
            overrides=[*settings, "MODEL.DIFFUSION.LATENT_CACHE.FOLDER", cache],
        )
        sides[name] = functools.partial(batches, ConditionedMapper(own, is_train=True))
    return model, Trainer.build_optimizer(cfg, model), sides


def epoch(model, optimizer, batches, device: str, bf16: bool) -> None:
    for batch in batches():
        optimizer.zero_grad(set_to_none=False)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
            losses = model(batch)
        sum(losses.values()).backward()
        optimizer.step()


@torch.no_grad()
def difference(model, sides) -> float:
    """The largest relative difference of a feature map that the cache makes; fills it."""
    largest = 0.0
    for plain, _, cached in zip(*(sides[n]() for n in ("no cache", "cache", "cache")), strict=True):
        maps = []
        for batch in (plain, cached):
            images = model.preprocess_image(batch)
            with model._condition_on(batch):
                maps.append(model.backbone(images.tensor))
        for name, exact in maps[0].items():
            largest = max(largest, ((maps[1][name] - exact).norm() / exact.norm()).item())
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="as tadp-d2 synth writes it")
    parser.add_argument("--weights", help="default: the tiny model of the data")
    parser.add_argument("--size", type=int, default=192, help="side of the images, pixels")
    parser.add_argument("--images", type=int, default=4, help="of an epoch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="mixed precision")
    add_write(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, optimizer, sides = make_sides(args, folder)
        device = next(model.parameters()).device.type
        moved = difference(model, sides)
        epochs = {
            name: functools.partial(epoch, model, optimizer, batches, device, args.bf16)
            for name, batches in sides.items()
        }
        # Detectron2's heads log into it.
        with EventStorage():
            found = in_turns(epochs, args.repeats, device)
    lines = [f"Half precision moves the features by {moved:.1e} (relative)."]
    lines += ["", "| epoch | median (range) | MiB above weights |", "| --- | --- | --- |"]
    lines += [f"| {n} | {m} | {m.peak / 2**20:.0f} |" for n, m in found.items()]
    ratio = found["no cache"].median / found["cache"].median
    lines += ["", f"With the cache {ratio:.2f} times as fast."]
    title = f"Training epoch, {args.size} pixels, {'bf16' if args.bf16 else 'fp32'}, {device}"
    weights = Path(args.weights).name if args.weights else "tiny model"
    command = shlex.join(["python", "benchmarks/training.py", *sys.argv[1:]])
    report(f"{title}, {weights}", command, device, lines, args.write)


if __name__ == "__main__":
    main()
