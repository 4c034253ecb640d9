"""`tadp-d2 invert`: a new word from a few images (textual inversion)."""

import argparse
import re
from pathlib import Path

from tadp_d2.personalization.arguments import add_shared, run_personalization
from tadp_d2.personalization.settings import KINDS


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "invert",
        help="learn a token from images (textual inversion)",
        description="Learns the vectors of a new word from images, and nothing else. Writes "
        "learned_embeds.safetensors, which diffusers and TEXT.TOKENS read. It may be stopped at "
        "any moment: with --resume the same command goes on.",
    )
    add_shared(parser, output="artifacts/TOKEN", rate="5e-4", accumulation=4, save=100)
    token = parser.add_argument_group("the token")
    token.add_argument("--token", required=True, help="the new word, such as <watercolor>")
    token.add_argument("--init", required=True, help="a known word that it starts from")
    token.add_argument("--learn", choices=KINDS, help="what the word is of (default: style)")
    token.add_argument("--vectors", type=int, help="vectors of the word (default: 1)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tadp_d2.personalization.personalize import invert

    name = re.sub(r"\W+", "", args.token) or "token"
    file = run_personalization(
        args,
        "invert",
        own=("token", "init", "learn", "vectors"),
        # Where the configs look for it.
        output=Path("artifacts", name),
        personalize=invert,
    )
    print(f"{file}\nTo use it: TEXT.TOKENS \"('{file}',)\", and {args.token} in TEXT.MODIFIER")
