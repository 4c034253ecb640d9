"""`tadp-d2 prepare`: published files of a data set in a form that is read quickly and safely."""

import argparse

FOLDERS = ("refcoco", "refcoco+", "refcocog")


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "prepare",
        help="turn the published pickles of RefCOCO, RefCOCO+ or RefCOCOg into JSON, once",
        description="Turns $DETECTRON2_DATASETS/<data set>/refs(*).p and instances.json into "
        "<split by>_<split>.json beside them. A pickle that holds anything but plain data is "
        "refused, and nothing of it is run.",
    )
    parser.add_argument("dataset", choices=FOLDERS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tadp_d2.data.datasets.refcoco import EXPRESSIONS
    from tadp_d2.data.readers.refer_release import prepare_references
    from tadp_d2.data.root import datasets_root

    folder = datasets_root() / args.dataset
    for file, references in prepare_references(folder).items():
        found = sum(len(reference.expressions) for reference in references)
        images = len({reference.image_id for reference in references})
        print(
            f"{folder / file}: {len(references)} references, {found} expressions, {images} images"
        )
        published = EXPRESSIONS.get(f"{args.dataset}_{file.removesuffix('.json')}", found)
        if found != published:
            print(f"  note: as published, there are {published} expressions")
