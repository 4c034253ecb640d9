"""Peak memory of training steps of Mask2Former on the diffusion backbone, one image each, on a CPU.

All that training holds counts: weights, gradients, AdamW's two moments, activations, data.

    tadp-d2 synth data
    python benchmarks/full_size.py /tmp/sd15-random
    python benchmarks/panoptic_step.py --data data --weights /tmp/sd15-random --size 512
"""

import argparse
import os
import resource
import shlex
import sys
import time
from pathlib import Path

from measure import add_write, report

STEPS = 2  # the second has AdamW's moments


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="as tadp-d2 synth writes it")
    parser.add_argument("--weights", help="default: the tiny model of the data")
    parser.add_argument("--size", type=int, default=192, help="side of the image, pixels")
    parser.add_argument("--checkpointing", action="store_true", help="recompute the UNet's blocks")
    add_write(parser)
    args = parser.parse_args()
    # Detectron2 reads it when it registers data sets.
    os.environ["DETECTRON2_DATASETS"] = str(args.data)
    from tadp_d2.config.load import load_config
    from tadp_d2.data.loader import build_train_loader
    from tadp_d2.engine.trainer import Trainer

    cfg = load_config(
        "configs/coco_panoptic/unconditional.yaml",
        overrides=[
            *("MODEL.DIFFUSION.WEIGHTS", args.weights or str(args.data / "stable-diffusion-tiny")),
            *("MODEL.DIFFUSION.GRADIENT_CHECKPOINTING", args.checkpointing, "MODEL.DEVICE", "cpu"),
            *("MODEL.MASK_FORMER.NUM_CLASSES", 32, "INPUT.FIXED_SIZE_TRAIN", (args.size,) * 2),
            *("DATASETS.TRAIN", ("voc_2007_trainval_panoptic",), "SOLVER.IMS_PER_BATCH", 1),
            *("DATASETS.TEST", ("voc_2007_test_panoptic",), "DATALOADER.NUM_WORKERS", 0),
        ],
    )
    model = Trainer.build_model(cfg).train()
    optimizer = Trainer.build_optimizer(cfg, model)
    batches = iter(build_train_loader(cfg))
    seconds = []
    for _ in range(STEPS):
        batch, start = next(batches), time.process_time()
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()
        seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    lines = ["| trained weights, millions | peak, GiB | seconds of the processor |"]
    lines += ["| --- | --- | --- |", f"| {trained / 1e6:.1f} | {peak:.1f} | {seconds[-1]:.0f} |"]
    command = shlex.join(["python", "benchmarks/panoptic_step.py", *sys.argv[1:]])
    weights = Path(args.weights).name if args.weights else "tiny model"
    report(
        f"Panoptic training step, {args.size} pixels, cpu, {weights}",
        command,
        "cpu",
        lines,
        args.write,
    )


if __name__ == "__main__":
    main()
