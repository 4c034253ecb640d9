"""What the commands `samples` and `variations` have in common: the model that draws.

Nothing here imports torch before a command runs.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tadp_d2.personalization.settings import PRECISIONS

if TYPE_CHECKING:
    from tadp_d2.personalization.model import TrainableDiffusion


def add_drawing(parser: argparse.ArgumentParser, output: str) -> None:
    """Adds the arguments of the commands that draw with a model and what it has learned.

    Args:
        output: the default of --output.
    """
    parser.add_argument(
        "--prompt", nargs="+", required=True, metavar="TEXT", help="a row of images for each"
    )
    parser.add_argument(
        "--weights",
        metavar="MODEL",
        help="diffusion model: a folder in diffusers' format or a hub id (default: Stable "
        "Diffusion 1.5)",
    )
    parser.add_argument(
        "--tokens", nargs="+", type=Path, default=[], metavar="FILE", help="of tadp-d2 invert"
    )
    parser.add_argument("--unet", type=Path, metavar="FOLDER", help="of tadp-d2 dreambooth")
    parser.add_argument("--size", type=int, default=512, help="shorter side, pixels (default: 512)")
    parser.add_argument("--steps", type=int, default=50, help="of the sampler (default: 50)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="of the UNet (default: fp32)"
    )
    parser.add_argument("--device", default="", help="such as cpu or cuda:1 (default: a GPU)")
    parser.add_argument(
        "--output", type=Path, default=Path(output), help=f"new file (default: {output})"
    )


def load_for_drawing(args: argparse.Namespace) -> "TrainableDiffusion":
    """The model that the arguments of `add_drawing` name.

    Raises:
        UserError: an argument is out of range, --output exists, or as `load_learned`.
    """
    from tadp_d2.device import find_device
    from tadp_d2.errors import UserError
    from tadp_d2.files import check_new_sheet
    from tadp_d2.personalization.learned import load_learned
    from tadp_d2.personalization.model import DEFAULT_WEIGHTS
    from tadp_d2.progress import hide_library_bars

    hide_library_bars()
    check_new_sheet(args.output)
    for name in ("size", "steps"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: expected at least 1")
    device = find_device(args.device)
    model = load_learned(args.weights or DEFAULT_WEIGHTS, args.tokens, args.unet, device)
    most = model.scheduler.config.num_train_timesteps
    if args.steps > most:
        raise UserError(f"--steps {args.steps}: this model knows {most} steps of noise")
    for prompt in args.prompt:
        # One that is too long is an error, and not cut.
        model.context([prompt])
    return model
