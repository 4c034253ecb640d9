"""`tadp-d2 attention`: what each word of a prompt looks at in an image."""

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from tadp_d2.inference.model_options import add_model_options, config_file, read_config

if TYPE_CHECKING:
    from tadp_d2.conditioning.caption_prompt import CaptionPrompt
    from tadp_d2.conditioning.text_adapter import TextAdapter
    from tadp_d2.inference.word_maps import Prompt


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "attention",
        help="draw what each word of a prompt looks at",
        description="Draws the cross-attention of each word over an image, at each stride and "
        "averaged, for several prompts: the caption, the classes' names, their averaged "
        "embeddings, and the objects if they are named. Before training, and with --weights after "
        "it. With --prompts as in TADP's figure 4: one panel for each word, averaged over all "
        "heads and scales. The maps are also written as numbers, into a .safetensors file beside "
        "the sheet.",
    )
    parser.add_argument("image", type=Path, help="an image")
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--caption", metavar="TEXT", help="its caption")
    text.add_argument(
        "--expression", metavar="TEXT", help="what a model of referring segmentation is asked for"
    )
    parser.add_argument(
        "--objects", nargs="+", default=[], metavar="NAME", help="what is in it (the oracle prompt)"
    )
    parser.add_argument(
        "--prompts",
        nargs="+",
        choices=("oracle", "caption", "class-names", "class-embeddings", "expression"),
        help="only these, in one panel for each word (default: all, in a row for each stride)",
    )
    parser.add_argument(
        "--diffusion",
        metavar="MODEL",
        help="diffusion model, a folder or hub id (default: that of the config; without a config "
        "the default, and the classes of Pascal VOC)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("attention.png"),
        help="new file (default: attention.png)",
    )
    add_model_options(parser, weights_required=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    import numpy as np

    from tadp_d2.data.images import read_rgb
    from tadp_d2.data.loader import needed_texts
    from tadp_d2.engine.checkpoint import check_checkpoint
    from tadp_d2.errors import UserError
    from tadp_d2.files import check_new_sheet
    from tadp_d2.inference.word_map_files import NUMBERS, write_attention
    from tadp_d2.inference.word_maps import choose_prompts, compare, make_prompts
    from tadp_d2.progress import hide_library_bars
    from tadp_d2.tasks.task import get_task

    hide_library_bars()
    check_new_sheet(args.output, NUMBERS)
    cfg = read_config(args, *_overrides(args))
    check_checkpoint(cfg.MODEL.WEIGHTS)
    image, digest = read_rgb(args.image)
    reads = "caption" if args.expression is None else "expression"
    if reads == "expression" and reads not in needed_texts(cfg):
        raise UserError("--expression: this model reads no expression")
    make_all = functools.partial(
        make_prompts,
        said=getattr(args, reads),
        objects=args.objects,
        classes=get_task(cfg).classes(),
        reads=reads,
    )

    def make(conditioner: "CaptionPrompt | TextAdapter") -> "dict[str, Prompt]":
        prompts = make_all(conditioner)
        return choose_prompts(prompts, args.prompts) if args.prompts else prompts

    prompts, maps = compare(cfg, np.asarray(image), make, reads, everywhere=bool(args.prompts))
    for name, prompt in prompts.items():
        print(f"{name}: {prompt.text!r}")
    origin = {"file": str(args.image), "sha256": digest, "config": config_file(args)}
    origin |= {"weights": cfg.MODEL.WEIGHTS, "diffusion": cfg.MODEL.DIFFUSION.WEIGHTS}
    numbers = write_attention(args.output, image, prompts, maps, origin)
    print(f"{args.output} and {numbers}")


def _overrides(args: argparse.Namespace) -> list[str]:
    pairs = ["MODEL.DIFFUSION.WEIGHTS", args.diffusion] if args.diffusion else []
    if not config_file(args):
        # The diffusion model alone; the data sets only name the classes.
        pairs += ["DATASETS.TRAIN", "('voc_2007_trainval',)", "DATASETS.TEST", "('voc_2007_test',)"]
    return pairs
