"""Six modifiers on one target: `tadp-d2 benchmark` against six runs of `--eval-only`.

Both sides evaluate the same models, loaded before; the metrics must be equal before times are. With
`--distinct` each modifier has weights of its own, as after six trainings; without, they differ in
their prompts only ("modifiers in testing only", as released).

    tadp-d2 synth data
    python benchmarks/evaluation.py --data data --distinct
"""

import argparse
import os
import shlex
import sys
import tempfile
from pathlib import Path

import torch
from first_images import first_images
from measure import add_write, in_turns, report

DOMAINS = {
    "null": "null",
    "simple": "simple",
    "nearby": "nearby",
    "unrelated": "unrelated",
    # Artifacts cost nothing more: words stand for the learned ones.
    "ti": "a watercolor art style painting of {caption}",
    "dreambooth": "a sks style painting of {caption}",
}


def make_configs(args: argparse.Namespace, folder: Path) -> dict:
    data = folder / "data"
    first_images(args.data, data, args.images)
    # Detectron2 reads it when it registers data sets.
    os.environ["DETECTRON2_DATASETS"] = str(data)
    from tadp_d2.config.load import load_config
    from tadp_d2.engine.checkpoint import RunCheckpointer
    from tadp_d2.engine.trainer import Trainer
    from tadp_d2.records.provenance import Provenance

    base = [
        *("MODEL.DIFFUSION.WEIGHTS", args.weights or str(args.data / "stable-diffusion-tiny")),
        *("INPUT.FIXED_SIZE_TEST", (args.size, args.size)),
        *("DATASETS.TEST", ("watercolor_test",)),
        *("TEST.GALLERY_IMAGES", 0),
        # What a worker does is not seen where processor time is measured.
        *("DATALOADER.NUM_WORKERS", 0),
    ]
    quick = "" if args.weights else "quick_schedules/"
    cfgs = {}
    for number, (name, modifier) in enumerate(DOMAINS.items()):
        file = folder / f"{number if args.distinct else 0}.pth"
        own = [*base, "TEXT.MODIFIER", modifier, "OUTPUT_DIR", str(folder / name)]
        cfg = load_config(f"configs/{quick}voc2watercolor_simple.yaml", overrides=own)
        if not file.exists():
            torch.manual_seed(number)
            model = Trainer.build_model(cfg)
            RunCheckpointer(model, str(folder), Provenance(cfg, model)).save(file.stem)
        (folder / name).mkdir()
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = str(file)
        cfg.freeze()
        cfgs[name] = cfg
    return cfgs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="as tadp-d2 synth writes it")
    parser.add_argument(
        "--weights", help="default: the tiny model of the data, and its quick config"
    )
    parser.add_argument("--images", type=int, default=20, help="of the target's test set")
    parser.add_argument("--size", type=int, default=192, help="side of the images, pixels")
    parser.add_argument("--distinct", action="store_true", help="weights of each one's own")
    parser.add_argument("--repeats", type=int, default=3)
    add_write(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cfgs = make_configs(args, Path(folder))
        from tadp_d2.engine.trainer import Trainer
        from tadp_d2.frozen import Frozen
        from tadp_d2.inference.shared_evaluation import evaluate_together, load_contestants
        from tadp_d2.modeling.backbone import find_diffusion_backbone

        contestants = load_contestants(cfgs)
        backbones = [find_diffusion_backbone(contestant.model) for contestant in contestants]
        shared = [backbone.latent_encoder for backbone in backbones]

        def set_encoders(encoders: list) -> None:
            for backbone, encoder in zip(backbones, encoders, strict=True):
                backbone.latent_encoder = encoder

        def one_by_one() -> dict:
            # Each encodes for itself: what is shared remembers what another has encoded.
            set_encoders([Frozen(encoder.module) for encoder in shared])
            results = {c.name: Trainer.test(c.cfg, c.model) for c in contestants}
            set_encoders(shared)
            return results

        def together() -> dict:
            return evaluate_together(contestants)

        alone, joint = one_by_one(), together()
        if str(alone) != str(joint):
            raise SystemExit(f"the metrics differ: {alone} and {joint}")
        device = contestants[0].model.device.type
        sides = {"six times --eval-only": one_by_one, "tadp-d2 benchmark": together}
        found = in_turns(sides, args.repeats, device)
    lines = ["Metrics are equal.", "", "| | median (range) | images a second and model |"]
    lines += ["| --- | --- | --- |"]
    lines += [f"| {n} | {m} | {6 * args.images / m.median:.3g} |" for n, m in found.items()]
    first, second = (m.median for m in found.values())
    lines += ["", f"In one pass {second / first:.2f} of the time."]
    kind = "six models" if args.distinct else "one model"
    kind += f", {Path(args.weights).name if args.weights else 'tiny model'}"
    command = shlex.join(["python", "benchmarks/evaluation.py", *sys.argv[1:]])
    report(f"Evaluation, {kind}, {args.size} pixels, {device}", command, device, lines, args.write)


if __name__ == "__main__":
    main()
