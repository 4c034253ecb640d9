"""`tadp-d2 samples`: what a diffusion model draws by prompts."""

import argparse
import math

from tadp_d2.personalization.drawing_arguments import add_drawing, load_for_drawing


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "samples",
        help="draw images by prompts, with learned tokens or a fine-tuned UNet",
        description="Draws a sheet: a row of images for each prompt, a column for each seed. With "
        "--tokens the prompts may hold learned tokens, with --unet a fine-tuned UNet draws (TADP, "
        "figures S4 to S6).",
    )
    add_drawing(parser, output="samples.png")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2, 3], metavar="N", help="default: 0 1 2 3"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tadp_d2.personalization.samples import draw_samples, write_rows

    model = load_for_drawing(args)
    size = max(1, math.floor(args.size / model.divisor + 0.5)) * model.divisor
    rows = draw_samples(model, args.prompt, args.seeds, size, args.steps, args.precision)
    titles = [f"seed {seed}" for seed in args.seeds]
    write_rows(args.output, args.prompt, rows, titles)
    print(args.output)
