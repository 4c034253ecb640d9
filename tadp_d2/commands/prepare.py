"""`tadp-d2 prepare`: published archives of a data set as the folders that are read."""

import argparse
from pathlib import Path

# Those that can be made of what lies in $DETECTRON2_DATASETS already; the others need --from.
_IN_PLACE = ("ade20k", "coco_stuff", "nyu", "refcoco", "refcoco+", "refcocog")
DATASETS = (
    *("voc_2007", "voc_2012", "pascal", "watercolor", "comic", "coco_2017", "dark_zurich"),
    *("nighttime_driving", *_IN_PLACE),
)


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "prepare",
        help="unpack the published archives of a data set and turn them into what is read",
        description="Unpacks the published archives of a data set into $DETECTRON2_DATASETS and "
        "makes of them what is read. Archives are compared with the published ones where their "
        "size or digest is known. Nothing of an archive is written before all of it is checked: "
        "paths that lead outside, links and files that do not belong there are refused. Stopped, "
        "the same command goes on. Without --from, what lies there unpacked is turned into what "
        f"is read ({', '.join(_IN_PLACE)}).",
    )
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument(
        "--from",
        dest="archives",
        nargs="+",
        type=Path,
        default=[],
        metavar="ARCHIVE",
        help="archives under their published names, or folders that hold them",
    )
    parser.add_argument(
        "--unverified",
        action="store_true",
        help="take archives that are not byte for byte the published ones, such as ones that were "
        "packed again",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tadp_d2.data.published_archives import RELEASES, prepare
    from tadp_d2.data.root import datasets_root
    from tadp_d2.errors import UserError

    if not args.archives and args.dataset not in _IN_PLACE:
        names = " ".join(archive.name for archive in RELEASES[args.dataset].archives)
        raise UserError(f"prepare {args.dataset} needs its archives: --from {names}")
    root = datasets_root()
    for line in prepare(args.dataset, args.archives, root, args.unverified):
        print(line, flush=True)
    here = [
        name
        for folder in RELEASES[args.dataset].folders
        if (root / folder.path).exists()
        for name in folder.registered
    ]
    if here:
        print(f"To check all of it: tadp-d2 doctor {' '.join(here)}")
