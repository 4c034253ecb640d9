"""Time and memory of whole training steps on a CPU, one image each, by what they train and how.

All that training holds counts: weights, gradients, AdamW's two moments, activations, data. Each row
has a process of its own, whose peak includes the libraries; its seconds are those of the processor
in the second step, when AdamW has its moments. What the checkpoint holds besides that state is
written as training would write it.

    tadp-d2 synth data
    python benchmarks/full_size.py /tmp/sd15-random
    python benchmarks/training_step.py --data data --weights /tmp/sd15-random --size 512
"""

import argparse
import os
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from loading import in_fresh_process
from measure import add_write, report

STEPS = 2  # the second has AdamW's moments
# Task -> config, keys.
TASKS: dict[str, tuple[str, tuple]] = {
    "detection": ("voc2watercolor_simple", ("DATASETS.TRAIN", ("voc_2007_trainval",))),
    "segmentation": ("cityscapes2darkzurich_simple", ("INPUT.CROP.ENABLED", False)),
    "panoptic": (
        "coco_panoptic/unconditional",
        (
            *("DATASETS.TRAIN", ("voc_2007_trainval_panoptic",)),
            *("DATASETS.TEST", ("voc_2007_test_panoptic",)),
            *("MODEL.MASK_FORMER.NUM_CLASSES", 32),
        ),
    ),
}
SETTINGS: dict[str, tuple] = {
    "all weights": (),
    "ADAM_8BIT": ("SOLVER.ADAM_8BIT", True),
    "LORA_RANK 16": ("MODEL.DIFFUSION.LORA_RANK", 16),
    "GRADIENT_CHECKPOINTING": ("MODEL.DIFFUSION.GRADIENT_CHECKPOINTING", True),
}


def measure(task: str, setting: str, precision: str, args: argparse.Namespace) -> str:
    """A row of the table; to be called in a fresh process."""
    # Detectron2 reads it when it registers data sets.
    os.environ["DETECTRON2_DATASETS"] = str(args.data)
    from detectron2.utils.events import EventStorage

    from tadp_d2.config.load import load_config
    from tadp_d2.data.loader import build_train_loader
    from tadp_d2.engine.trainer import Trainer
    from tadp_d2.precision import autocast

    config, keys = TASKS[task]
    weights = args.weights or str(args.data / "stable-diffusion-tiny")
    cfg = load_config(
        f"configs/{config}.yaml",
        overrides=[
            *("MODEL.DIFFUSION.WEIGHTS", weights, "MODEL.DEVICE", "cpu"),
            *("INPUT.FIXED_SIZE_TRAIN", (args.size,) * 2, "DATALOADER.NUM_WORKERS", 0),
            *("SOLVER.IMS_PER_BATCH", 1, *keys, *SETTINGS[setting]),
        ],
    )
    model = Trainer.build_model(cfg).train()
    optimizer = Trainer.build_optimizer(cfg, model)
    batches = iter(build_train_loader(cfg))
    for _ in range(STEPS):
        batch, start = next(batches), time.process_time()
        optimizer.zero_grad()
        with EventStorage(), autocast("cpu", precision):
            loss = sum(model(batch).values())
        loss.backward()
        optimizer.step()
        seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    size = checkpoint_size(cfg, model) / 2**20
    return (
        f"| {task} | {setting} | {precision} | {trained:.1f} | {seconds:.1f} | {peak:.1f} | "
        f"{size:.0f} |"
    )


def checkpoint_size(cfg: Any, model: Any) -> int:
    """Bytes of a checkpoint without the optimizer's state."""
    from tadp_d2.engine.checkpoint import RunCheckpointer
    from tadp_d2.records.provenance import Provenance

    with tempfile.TemporaryDirectory() as folder:
        RunCheckpointer(model, folder, Provenance(cfg, model)).save("model")
        return Path(folder, "model.pth").stat().st_size


def rows(args: argparse.Namespace) -> Iterable[str]:
    for task in args.tasks:
        for setting in args.settings:
            for precision in args.precisions:
                row = in_fresh_process(measure, task, setting, precision, args)
                print(row, file=sys.stderr, flush=True)
                yield row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="as tadp-d2 synth writes it")
    parser.add_argument("--weights", help="default: the tiny model of the data")
    parser.add_argument("--size", type=int, default=192, help="side of the image, pixels")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=[*SETTINGS])
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32"])
    add_write(parser)
    args = parser.parse_args()
    lines = [
        "| task | trained | precision | trained weights, millions | a step, processor seconds | "
        "peak, GiB | checkpoint without optimizer, MiB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *rows(args),
    ]
    command = shlex.join(["python", "benchmarks/training_step.py", *sys.argv[1:]])
    weights = Path(args.weights).name if args.weights else "tiny model"
    report(f"Training step, {args.size} pixels, cpu, {weights}", command, "cpu", lines, args.write)


if __name__ == "__main__":
    main()
