"""`tadp-d2 variations`: what a diffusion model makes of an image under prompts."""

import argparse
from pathlib import Path

from tadp_d2.personalization.drawing_arguments import add_drawing, load_for_drawing


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "variations",
        help="draw variations of an image under prompts (image-to-image)",
        description="Draws a sheet: the image and its variations, a row for each prompt, a column "
        "for each strength. The stronger, the more noise the image gets before it is removed under "
        "the prompt (TADP, figure S1). All begin with the same noise.",
    )
    parser.add_argument("image", type=Path, help="an image")
    add_drawing(parser, output="variations.png")
    parser.add_argument(
        "--strengths",
        nargs="+",
        type=float,
        default=[0.1, 0.3, 0.5, 0.7, 0.9],
        metavar="SHARE",
        help="share of the steps that are done (default: 0.1 0.3 0.5 0.7 0.9)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tadp_d2.data.images import read_rgb
    from tadp_d2.personalization.samples import write_rows
    from tadp_d2.personalization.variations import check_strengths, draw_variations, fit

    check_strengths(args.strengths, args.steps)
    picture, _ = read_rgb(args.image)
    model = load_for_drawing(args)
    image = fit(picture, args.size, model.divisor)
    drawn = draw_variations(
        *(model, image, args.prompt, args.strengths, args.steps, args.precision, args.seed)
    )
    rows = [[image, *row] for row in drawn]
    titles = ["image", *(f"strength {strength:g}" for strength in args.strengths)]
    write_rows(args.output, args.prompt, rows, titles)
    print(args.output)
