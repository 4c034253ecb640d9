"""`tadp-d2 caption`: captions for the images of a data set that have none."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tadp_d2.captioning.caption import Report
    from tadp_d2.captioning.sets import CaptionImage
    from tadp_d2.captioning.sources import Source

# Source -> the options that belong to it, with their defaults; ... for one that must be given.
OPTIONS = {
    "blip2": {
        "model": "Salesforce/blip2-opt-2.7b",
        "revision": "",
        "dtype": "fp32",
        "device": "",
        "batch_size": 8,
        "min_new_tokens": 0,
        "max_new_tokens": 77,
        "skip_unreadable": False,
    },
    "tags": {
        "model": "openai/clip-vit-large-patch14",
        "revision": "",
        "dtype": "fp32",
        "device": "",
        "batch_size": 32,
        "names": None,
        "template": "a photo of a {}.",
        "threshold": None,
        "top_k": None,
        "skip_unreadable": False,
    },
    "tag-file": {"from": ..., "names": None},
    "oracle": {"precision": 1.0, "recall": 1.0, "seed": 0},
    "class-names": {},
    "nouns": {"from": ...},
    "text": {"text": ...},
    "published": {"from": ...},
}


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "caption",
        help="make the captions that a data set lacks",
        description="Makes the captions that a data set lacks. It may be stopped at any moment: "
        "the same command goes on where it was.",
    )
    parser.add_argument("dataset", help="a registered data set, or a folder of images")
    parser.add_argument(
        "--source",
        choices=OPTIONS,
        default="blip2",
        help="blip2: a captioning model (default). tags: names that CLIP or SigLIP finds. "
        "tag-file: RAM's or Tag2Text's output. oracle: the classes in the annotation. "
        "class-names: all classes. nouns: the nouns of other captions. text: the same for all. "
        "published: a file as published with TADP",
    )
    parser.add_argument(
        "--caption-dir",
        type=Path,
        help="folder of the caption file (default: $DETECTRON2_DATASETS/captions)",
    )
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="only part I of N, into a file of its own; see captions merge",
    )
    _add_models(parser.add_argument_group("--source blip2 and --source tags"))
    blip2 = parser.add_argument_group("--source blip2")
    blip2.add_argument("--min-new-tokens", type=int, help="TADP: 0 (default), 20 or 40")
    blip2.add_argument("--max-new-tokens", type=int, help="default: 77")
    tags = parser.add_argument_group("--source tags, of which --threshold or --top-k is needed")
    tags.add_argument(
        "--names",
        metavar="FILE",
        type=Path,
        help="what to look for, one a line (default: the classes of the data set); for --source "
        "tag-file the tags of Tag2Text's numbers",
    )
    tags.add_argument("--template", help=f"around a name (default: {OPTIONS['tags']['template']})")
    tags.add_argument("--threshold", type=float, help="names of this probability are tags")
    tags.add_argument("--top-k", type=int, help="so many names are tags")
    oracle = parser.add_argument_group("--source oracle")
    oracle.add_argument("--precision", type=float, help="share of right names (default: 1)")
    oracle.add_argument("--recall", type=float, help="share of names that are kept (default: 1)")
    oracle.add_argument("--seed", type=int, help="of the errors (default: 0)")
    text = parser.add_argument_group("--source text")
    text.add_argument("--text", help="the caption of every image")
    other = parser.add_argument_group("--source nouns, published and tag-file")
    other.add_argument(
        "--from",
        metavar="DATASET|FILE",
        help="the captions to take: a .json or .jsonl file, or those of a data set in "
        "$DETECTRON2_DATASETS/captions; for tag-file the file of the tags",
    )
    parser.set_defaults(run=run)


def _add_models(group: argparse._ArgumentGroup) -> None:
    defaults = " or ".join(OPTIONS[source]["model"] for source in ("blip2", "tags"))
    group.add_argument("--model", help=f"hub id or folder (default: {defaults})")
    group.add_argument("--revision", help="branch, tag or commit of the hub's model")
    group.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="default: fp32")
    group.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    group.add_argument("--batch-size", type=int, help="images at once (default: 8 or 32)")
    group.add_argument(
        "--skip-unreadable",
        action="store_true",
        default=None,
        help="leave out images that cannot be read, and list them at the end",
    )


def run(args: argparse.Namespace) -> None:
    from tadp_d2.captioning.caption import caption_images
    from tadp_d2.captioning.sets import dataset_name, find_images
    from tadp_d2.captioning.shards import Shard

    options = read_options(args)
    shard = Shard.parse(args.shard) if args.shard else None
    whole = output_path(args.dataset, args.caption_dir)
    images = find_images(args.dataset)
    source = make_source(args.source, options, images, whole)
    path = shard.path(whole) if shard else whole
    report = caption_images(
        shard.take(images) if shard else images,
        source,
        path,
        dataset_name(args.dataset),
        batch_size=options.get("batch_size", 64),
        skip_unreadable=options.get("skip_unreadable", False),
        progress=_progress(),
    )
    _print_report(report, path)


def _progress():
    from tadp_d2.progress import hide_library_bars, progress_line

    hide_library_bars()
    return progress_line("captions")


def read_options(args: argparse.Namespace) -> dict:
    """The options of the chosen source.

    Raises:
        UserError: one belongs to another source, or one is missing.
    """
    from tadp_d2.errors import UserError

    own = OPTIONS[args.source]
    for name in dict.fromkeys(name for options in OPTIONS.values() for name in options):
        given, flag = getattr(args, name), "--" + name.replace("_", "-")
        if given is not None and name not in own:
            owners = " or ".join(source for source, options in OPTIONS.items() if name in options)
            raise UserError(f"{flag} belongs to --source {owners}, not to --source {args.source}")
    options = {
        name: default if getattr(args, name) is None else getattr(args, name)
        for name, default in own.items()
    }
    for name, value in options.items():
        if value is ...:
            raise UserError(f"--source {args.source} needs --{name}")
    return options


def output_path(dataset: str, folder: Path | None) -> Path:
    """Where the captions go.

    Raises:
        UserError: the data set has a file in the published format there, or a caption file is
            named instead of a data set.
    """
    from tadp_d2.captioning.sets import caption_path
    from tadp_d2.errors import UserError

    path = caption_path(dataset, folder)
    if path == Path(dataset):
        raise UserError(f"{dataset}: expected a data set or a folder of images, not a caption file")
    published = path.with_suffix(".json")
    if published.exists():
        raise UserError(
            f"{published} exists: a data set has one caption file. Move it away, or choose another "
            "folder with --caption-dir"
        )
    return path


def make_source(source: str, options: dict, images: "list[CaptionImage]", path: Path) -> "Source":
    """The source of texts that was chosen."""
    from tadp_d2.captioning import sources

    if source == "blip2":
        from tadp_d2.captioning.blip2 import Blip2Settings, blip2

        settings = Blip2Settings(
            options["dtype"], options["min_new_tokens"], options["max_new_tokens"]
        )
        return blip2(options["model"], options["revision"], options["device"], settings)
    if source == "tags":
        from tadp_d2.captioning.zero_shot_tagger import tags

        names = _read_names(options["names"]) or images[0].vocabulary
        others = ("model", "revision", "device", "dtype", "template", "threshold", "top_k")
        return tags(names, **{name: options[name] for name in others})
    if source == "tag-file":
        return sources.tag_file(Path(options["from"]), images, _read_names(options["names"]))
    if source == "oracle":
        return sources.oracle(**options)
    if source == "class-names":
        return sources.class_names()
    if source == "text":
        return sources.fixed_text(options["text"])
    captions = _read_from(options["from"], path)
    return {"nouns": sources.nouns, "published": sources.published}[source](captions, images)


def _read_names(path: Path | None) -> list[str] | None:
    from tadp_d2.data.tags import read_names

    return read_names(path) if path else None


def _read_from(name: str, path: Path):
    from tadp_d2.captioning.show import find_captions
    from tadp_d2.data.texts import read_captions
    from tadp_d2.errors import UserError

    found = find_captions(name)
    if found.resolve() == path.resolve():
        raise UserError(
            f"--from {name}: {found} is the file that would be written; choose another folder for "
            "the new captions with --caption-dir"
        )
    return read_captions(found)


def _print_report(report: "Report", path: Path) -> None:
    print(f"{path}: {report.made} captions made, {report.present} were there")
    if report.empty:
        print(f"empty captions: {len(report.empty)}, such as that of {report.empty[0]}")
    if report.skipped:
        print(f"{len(report.skipped)} images could not be read and have no caption:")
        for image_id, reason in report.skipped.items():
            print(f"  {image_id}: {reason}")
