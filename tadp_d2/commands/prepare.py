"""`tadp-d2 prepare`: published files of a data set in a form that is read quickly and safely."""

import argparse

COCO_STUFF, NYU = "coco_stuff", "nyu"
REFERENCES = ("refcoco", "refcoco+", "refcocog")


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "prepare",
        help="turn the published files of RefCOCO, RefCOCO+, RefCOCOg, NYU Depth V2 or COCO-Stuff "
        "into what is read, once",
        description="Of RefCOCO and the like: turns $DETECTRON2_DATASETS/<data set>/refs(*).p and "
        "instances.json into <split by>_<split>.json beside them. A pickle that holds anything but "
        "plain data is refused, and nothing of it is run. Of nyu: turns $DETECTRON2_DATASETS/"
        "nyu_depth_v2/nyu_depth_v2_labeled.mat and splits.mat into official_splits/ beside them; "
        "stopped, the same command goes on. Of coco_stuff: turns coco/stuffthingmaps into "
        "coco/stuffthingmaps_detectron2, whose values are the indices of the 171 classes.",
    )
    parser.add_argument("dataset", choices=(*REFERENCES, NYU, COCO_STUFF))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if args.dataset == NYU:
        _prepare_rooms()
    elif args.dataset == COCO_STUFF:
        _prepare_label_maps()
    else:
        _prepare_references(args.dataset)


def _prepare_rooms() -> None:
    from tadp_d2.data.readers.nyu_release import prepare_rooms
    from tadp_d2.data.root import datasets_root
    from tadp_d2.doctor.dataset_check import PUBLISHED
    from tadp_d2.progress import progress_line

    folder = datasets_root() / "nyu_depth_v2"
    names = {"train": "nyu_depth_v2_labeled_train", "test": "nyu_depth_v2_test"}
    for split, number in prepare_rooms(folder, progress_line("images")).items():
        print(f"{folder / 'official_splits' / split}: {number} images")
        if number != PUBLISHED[names[split]]:
            print(f"  note: as published, there are {PUBLISHED[names[split]]} images")


def _prepare_label_maps() -> None:
    from tadp_d2.data.readers.coco_stuff_release import prepare_label_maps
    from tadp_d2.data.root import datasets_root

    written = prepare_label_maps(datasets_root() / "coco")
    for folder, number in written.items():
        print(f"{folder}: {number} label maps")
    if not written:
        print("nothing to do: the label maps are there")


def _prepare_references(dataset: str) -> None:
    from tadp_d2.data.datasets.refcoco import EXPRESSIONS
    from tadp_d2.data.readers.refer_release import prepare_references
    from tadp_d2.data.root import datasets_root

    folder = datasets_root() / dataset
    for file, references in prepare_references(folder).items():
        found = sum(len(reference.expressions) for reference in references)
        images = len({reference.image_id for reference in references})
        print(
            f"{folder / file}: {len(references)} references, {found} expressions, {images} images"
        )
        published = EXPRESSIONS.get(f"{dataset}_{file.removesuffix('.json')}", found)
        if found != published:
            print(f"  note: as published, there are {published} expressions")
