"""What the commands `invert` and `dreambooth` have in common: arguments, and what becomes of them.

Nothing here imports torch before a command runs.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tadp_d2.personalization.settings import PRECISIONS, PRESETS, resolve

if TYPE_CHECKING:
    from tadp_d2.personalization.personalize import PersonalizationRun
    from tadp_d2.personalization.training import Watch

_SHARED = (
    *("steps", "rate", "batch", "accumulation", "size", "flip", "center_crop", "weight_decay"),
    *("clip", "precision", "gradient_checkpointing", "seed"),
)


def add_shared(
    parser: argparse.ArgumentParser, output: str, rate: str, accumulation: int, save: int
) -> None:
    """Adds the arguments of both commands.

    Args:
        output, rate, accumulation, save: the defaults; all but the last for the help only.
    """
    parser.add_argument("images", nargs="+", type=Path, help="images, or folders of them")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=f"default: {output}")
    parser.add_argument(
        "--weights",
        metavar="MODEL",
        help="base model: a folder in diffusers' format or a hub id (default: Stable Diffusion "
        "1.5, as in the configs)",
    )
    parser.add_argument("--revision", default="", help="branch, tag or commit of the hub's model")
    parser.add_argument("--device", default="", help="such as cpu or cuda:1 (default: a GPU)")
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in the output folder, if any"
    )
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave out images that cannot be read"
    )
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="paper-text",
        help="settings of TADP's text (default), its tables or its released code; flags win",
    )
    _add_training(parser.add_argument_group("training"), rate, accumulation)
    _add_watch(parser.add_argument_group("on the way; 0 is never"), save)


def _add_training(group: argparse._ArgumentGroup, rate: str, accumulation: int) -> None:
    # None is "not given": a preset's value stays.
    switch = {"action": "store_true", "default": None}
    group.add_argument("--steps", type=int, help="default: 1000")
    group.add_argument("--rate", type=float, help=f"constant learning rate (default: {rate})")
    group.add_argument("--batch", type=int, help="images at once (default: 1)")
    group.add_argument(
        "--accumulation", type=int, help=f"batches per step (default: {accumulation})"
    )
    group.add_argument("--size", type=int, help="side of the square crops (default: 512)")
    group.add_argument("--center-crop", **switch, help="the middle, no random part of an image")
    group.add_argument(
        "--no-flip", action="store_false", default=None, dest="flip", help="mirror no image"
    )
    group.add_argument("--weight-decay", type=float, help="of AdamW (default: 0.01)")
    group.add_argument("--clip", type=float, help="greatest norm of the gradient; 0: no limit")
    group.add_argument(
        "--precision", choices=PRECISIONS, help="bf16 on GPU and CPU, fp16 on GPU (default: fp32)"
    )
    group.add_argument("--gradient-checkpointing", **switch, help="less memory, more time")
    group.add_argument("--seed", type=int, help="default: 0")


def _add_watch(group: argparse._ArgumentGroup, save: int) -> None:
    for name, default, meaning in (
        ("evaluate", 100, "loss on a fixed set"),
        ("sample", 250, "images into samples.png"),
        ("save", save, "checkpoint, for --resume"),
    ):
        group.add_argument(
            f"--{name}-every",
            type=int,
            default=default,
            metavar="N",
            help=f"{meaning} (default: {default})",
        )
    group.add_argument("--sample-steps", type=int, default=25, metavar="N", help="default: 25")
    group.add_argument(
        "--sample-prompt", action="append", metavar="TEXT", help="what to draw; may be repeated"
    )


def run_personalization(
    args: argparse.Namespace,
    method: str,
    own: tuple[str, ...],
    output: Path,
    personalize: "Callable[[PersonalizationRun, Any, Watch], Path]",
) -> Path:
    """Runs a method with the arguments of its command; returns the artifact.

    Args:
        own: the method's own settings among the arguments.
        output: the default of --output.
    """
    from tadp_d2.personalization.model import DEFAULT_WEIGHTS
    from tadp_d2.personalization.personalize import PersonalizationRun
    from tadp_d2.personalization.training import Watch
    from tadp_d2.progress import hide_library_bars

    hide_library_bars()
    given = {name: getattr(args, name) for name in (*_SHARED, *own)}
    settings = resolve(method, args.preset, given)
    run = PersonalizationRun(
        images=args.images,
        output=args.output or output,
        weights=args.weights or DEFAULT_WEIGHTS,
        revision=args.revision,
        device=args.device,
        preset=args.preset,
        resume=args.resume,
        skip_unreadable=args.skip_unreadable,
    )
    watch = Watch(
        evaluate=args.evaluate_every,
        sample=args.sample_every,
        save=args.save_every,
        sample_steps=args.sample_steps,
        sample_prompts=tuple(args.sample_prompt or ()),
    )
    try:
        return personalize(run, settings, watch)
    except KeyboardInterrupt:
        print(
            "\ninterrupted: the same command with --resume goes on from the last save in "
            f"{run.output}",
            file=sys.stderr,
        )
        sys.exit(130)
