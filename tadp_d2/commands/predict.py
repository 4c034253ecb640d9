"""`tadp-d2 predict`: pictures with boxes or segments, by a trained model."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tadp_d2.inference.model_options import add_model_options, config_file, read_config

if TYPE_CHECKING:
    from detectron2.config import CfgNode


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "predict",
        help="detect or segment in pictures with a trained model",
        description="Detects or segments in pictures with a trained model. Writes a drawing and a "
        "JSON file for each. It may be stopped at any moment: the same command goes on where it "
        "was.",
    )
    parser.add_argument("image", nargs="+", help="pictures, and folders of pictures")
    caption = parser.add_mutually_exclusive_group(required=True)
    caption.add_argument("--caption", metavar="TEXT", help="the caption of all pictures")
    caption.add_argument(
        "--captions", metavar="DATASET|FILE", help="a data set's captions, or a caption file"
    )
    caption.add_argument(
        "--captioner",
        metavar="MODEL",
        help="caption the pictures now: blip2, or another captioner's hub id or folder",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("predictions"), help="folder (default: predictions)"
    )
    add_model_options(parser, weights_required=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tadp_d2.data.images import find_image_files
    from tadp_d2.engine.checkpoint import check_checkpoint
    from tadp_d2.errors import UserError
    from tadp_d2.inference.predictions import PredictionFolder, check_names, predict_pictures
    from tadp_d2.inference.predictor import Predictor
    from tadp_d2.progress import hide_library_bars

    hide_library_bars()
    cfg = read_config(args)
    check_checkpoint(cfg.MODEL.WEIGHTS)
    pictures = find_image_files(args.image, args.output)
    check_names(pictures)
    folder = PredictionFolder(args.output, cfg)
    captions, unreadable = _captions(args, cfg, pictures)
    predictor = Predictor(cfg)
    folder.open()
    unreadable |= predict_pictures(
        {path: name for path, name in pictures.items() if path in captions},
        captions,
        predictor,
        folder,
        {"config": config_file(args), "weights": args.weights},
    )
    if unreadable:
        names = "; ".join(f"{path} ({reason})" for path, reason in unreadable.items())
        raise UserError(
            f"{len(unreadable)} of {len(pictures)} pictures cannot be read: {names}. The others "
            "are done"
        )


def _captions(
    args: argparse.Namespace, cfg: "CfgNode", pictures: dict[Path, str]
) -> tuple[dict[Path, str], dict[Path, str]]:
    """The pictures' captions, and for each one that cannot be read the reason."""
    if args.caption is not None:
        return dict.fromkeys(pictures, args.caption), {}
    from tadp_d2.captioning.show import find_captions
    from tadp_d2.data.texts import read_captions
    from tadp_d2.inference import image_captions
    from tadp_d2.inference.predictions import CAPTIONS

    kind = cfg.TEXT.CAPTION_TEXT
    if args.captions:
        file = read_captions(find_captions(args.captions), kind)
        return image_captions.look_up(pictures, file), {}
    return image_captions.make(
        pictures, args.captioner, cfg.MODEL.DEVICE, args.output / CAPTIONS, cfg.TEXT.DOMAIN, kind
    )
