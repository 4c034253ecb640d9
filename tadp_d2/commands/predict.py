"""`tadp-d2 predict`: images with what a trained model finds in them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tadp_d2.inference.model_options import add_model_options, config_file, read_config

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from tadp_d2.inference.predictions import PredictionJob


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "predict",
        help="detect, segment, measure depth or find what an expression names in images",
        description="Runs a trained model on images. Writes a drawing and a "
        "JSON file for each. It may be stopped at any moment: the same command goes on where it "
        "was.",
    )
    parser.add_argument("image", nargs="+", help="images, and folders of images")
    caption = parser.add_mutually_exclusive_group()
    caption.add_argument("--caption", metavar="TEXT", help="the caption of all images")
    caption.add_argument(
        "--captions", metavar="DATASET|FILE", help="a data set's captions, or a caption file"
    )
    caption.add_argument(
        "--captioner",
        metavar="MODEL",
        help="caption the images now: blip2, or another captioner's hub id or folder",
    )
    caption.add_argument(
        "--expression", metavar="TEXT", help='what to find in all images, such as "the left dog"'
    )
    caption.add_argument(
        "--expressions",
        metavar="FILE",
        type=Path,
        help='JSON file, {"image.jpg": ["the left dog", ...], ...}',
    )
    caption.add_argument(
        "--room", metavar="NAME", help="the room that all images show, such as kitchen"
    )
    caption.add_argument(
        "--rooms", metavar="FILE", type=Path, help='JSON file, {"image.jpg": "kitchen", ...}'
    )
    parser.add_argument(
        "--output", type=Path, default=Path("predictions"), help="folder (default: predictions)"
    )
    add_model_options(parser, weights_required=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tadp_d2.start_up import importing

    with importing():
        from tadp_d2.data.images import find_image_files
        from tadp_d2.engine.checkpoint import check_checkpoint, check_is_there
        from tadp_d2.errors import UserError
        from tadp_d2.inference.predictions import PredictionFolder, check_names, predict_pictures
        from tadp_d2.inference.predictor import Predictor
        from tadp_d2.progress import hide_library_bars

    hide_library_bars()
    cfg = read_config(args)
    # A damaged one is found when it is loaded, which is at once unless captions are made before.
    check = check_checkpoint if args.captioner else check_is_there
    check(cfg.MODEL.WEIGHTS)
    images = find_image_files(args.image, args.output)
    check_names(images.items())
    _check_texts(args, cfg)
    folder = PredictionFolder(args.output, cfg)
    jobs, unreadable = _jobs(args, cfg, images)
    if args.expression is not None or args.expressions:
        _check_expressions(jobs, cfg)
    predictor = Predictor(cfg)
    folder.open()
    unreadable |= predict_pictures(
        jobs,
        predictor,
        folder,
        {"config": config_file(args), "weights": args.weights},
    )
    if unreadable:
        names = "; ".join(f"{path} ({reason})" for path, reason in unreadable.items())
        raise UserError(
            f"{len(unreadable)} of {len(images)} images cannot be read: {names}. The others "
            "are done"
        )


# What a model needs -> the options that give it.
_OPTIONS = {
    "caption": ("caption", "captions", "captioner"),
    "expression": ("expression", "expressions"),
    "room": ("room", "rooms"),
}


def _check_texts(args: argparse.Namespace, cfg: "CfgNode") -> None:
    """
    Raises:
        UserError: the model needs another text than it is given.
    """
    from tadp_d2.data.loader import needed_texts
    from tadp_d2.errors import UserError

    needed = needed_texts(cfg)
    for text, options in _OPTIONS.items():
        given = [option for option in options if getattr(args, option) is not None]
        if bool(given) == (text in needed):
            continue
        names = " or ".join(f"--{option}" for option in options)
        if given:
            raise UserError(f"--{given[0]}: this model reads no {text}")
        raise UserError(f"this model reads {'an' if text[0] in 'aeiou' else 'a'} {text}: {names}")


def _check_expressions(jobs: list["PredictionJob"], cfg: "CfgNode") -> None:
    """Tells which are cut.

    Raises:
        UserError: one is empty, or longer than the text encoder reads.
    """
    from tadp_d2.conditioning.conditioner import get_conditioner_class
    from tadp_d2.errors import stop

    entries = [{"file_name": str(job.path), "expression": job.text} for job in jobs]
    for note in get_conditioner_class(cfg).check_entries(cfg, entries, False, stop):
        print(note)


def _jobs(
    args: argparse.Namespace, cfg: "CfgNode", images: dict[Path, str]
) -> tuple[list["PredictionJob"], dict[Path, str]]:
    """The predictions, and for each image that cannot be read the reason."""
    from tadp_d2.inference.image_captions import look_up_expressions, look_up_rooms
    from tadp_d2.inference.predictions import PredictionJob, check_names

    if args.expressions:
        jobs = [
            PredictionJob(path, f"{Path(images[path]).with_suffix('')}/{number}", text)
            for path, texts in look_up_expressions(images, args.expressions).items()
            for number, text in enumerate(texts, start=1)
        ]
        check_names((job.path, job.name) for job in jobs)
        return jobs, {}
    if args.rooms:
        rooms = look_up_rooms(images, args.rooms)
        return [PredictionJob(path, images[path], room) for path, room in rooms.items()], {}
    same = args.expression if args.expression is not None else args.room
    if same is not None:
        return [PredictionJob(path, name, same) for path, name in images.items()], {}
    captions, unreadable = _captions(args, cfg, images)
    return [PredictionJob(path, images[path], text) for path, text in captions.items()], unreadable


def _captions(
    args: argparse.Namespace, cfg: "CfgNode", images: dict[Path, str]
) -> tuple[dict[Path, str], dict[Path, str]]:
    """The images' captions, and for each one that cannot be read the reason."""
    if args.caption is not None:
        return dict.fromkeys(images, args.caption), {}
    if not args.captions and not args.captioner:
        return dict.fromkeys(images, ""), {}
    from tadp_d2.captioning.show import find_captions
    from tadp_d2.data.texts import read_captions
    from tadp_d2.inference import image_captions
    from tadp_d2.inference.predictions import CAPTIONS

    kind = cfg.TEXT.CAPTION_TEXT
    if args.captions:
        file = read_captions(find_captions(args.captions), kind)
        return image_captions.look_up(images, file), {}
    return image_captions.make(
        images, args.captioner, cfg.MODEL.DEVICE, args.output / CAPTIONS, cfg.TEXT.DOMAIN, kind
    )
