"""RefCOCO, RefCOCO+ and RefCOCOg as they are published, turned into files of references.

A folder holds `instances.json`, in COCO's format, and pickles `refs(unc).p`, `refs(google).p`,
`refs(umd).p` of references, each with a split.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tadp_d2.data.readers.plain_pickle import read_plain_pickle
from tadp_d2.data.readers.refer import (
    Reference,
    check_reference,
    check_unique,
    is_id,
    read_json,
    write_references,
)
from tadp_d2.data.root import data_set_guide
from tadp_d2.errors import UserError, reason
from tadp_d2.files import sha256

_PICKLE = re.compile(r"refs\((\w+)\)\.p")


def prepare_references(folder: Path) -> dict[str, list[Reference]]:
    """Writes `<split by>_<split>.json` beside the pickles of a folder, such as `unc_train.json`.

    Returns:
        Name of the file -> its references.

    Raises:
        UserError: a file is absent, damaged or holds something else; a reference has no annotation,
            or that of a crowd. Nothing is written then.
    """
    pickles = {
        found[1]: path
        for path in sorted(folder.glob("refs(*).p"))
        if (found := _PICKLE.fullmatch(path.name))
    }
    instances = folder / "instances.json"
    if not pickles or not instances.is_file():
        raise UserError(
            f"{folder}: expected instances.json and refs(unc).p, refs(umd).p or refs(google).p; "
            f"{data_set_guide()} lists the sources"
        )
    images, annotations = _read_instances(instances)
    prepared, made_of = {}, {}
    for name, path in pickles.items():
        made_of[name] = {file.name: sha256(file) for file in (path, instances)}
        for split, references in _read_pickle(path, images, annotations, instances).items():
            prepared[f"{name}_{split}.json"] = references
    for file, references in prepared.items():
        write_references(folder / file, references, made_of[file.split("_")[0]])
    return prepared


def _read_instances(path: Path) -> tuple[dict[int, Mapping], dict[int, Mapping]]:
    """Images and annotations by their ids."""
    content = read_json(path)
    return tuple(_by_id(content, key, path) for key in ("images", "annotations"))


def _by_id(content: Any, key: str, path: Path) -> dict[int, Mapping]:
    items = content.get(key) if isinstance(content, dict) else None
    if not isinstance(items, list):
        raise UserError(f"{path}: has no list of {key}; expected COCO's format")
    found = {}
    for item in items:
        if not isinstance(item, dict) or not is_id(item.get("id")):
            raise UserError(f"{path}: one of its {key} has no id; expected COCO's format")
        if found.setdefault(item["id"], item) is not item:
            raise UserError(f"{path}: has two {key} with the id {item['id']}")
    return found


def _read_pickle(
    path: Path, images: Mapping[int, Mapping], annotations: Mapping[int, Mapping], instances: Path
) -> dict[str, list[Reference]]:
    """References by split, in the order of the file."""
    content = read_plain_pickle(path)
    if not isinstance(content, list):
        raise UserError(f"{path}: holds no list of references")
    splits: dict[str, list[Reference]] = {}
    everything = []
    for ref in content:
        split, record = _join(ref, path, images, annotations, instances)
        reference = check_reference(record, str(path))
        splits.setdefault(split, []).append(reference)
        everything.append(reference)
    check_unique(everything, str(path))
    return splits


def _join(
    ref: Any,
    path: Path,
    images: Mapping[int, Mapping],
    annotations: Mapping[int, Mapping],
    instances: Path,
) -> tuple[str, dict[str, Any]]:
    """The split of a published reference, and it with its annotation and image."""
    try:
        where = f"{path}: reference {ref['ref_id']!r}"
        split, ann_id, image_id = ref["split"], ref["ann_id"], ref["image_id"]
        sentences = [[sentence["sent_id"], sentence["sent"]] for sentence in ref["sentences"]]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: a reference is not as published ({reason(error)}); expected ref_id, ann_id, "
            "image_id, split and sentences, each with sent_id and sent"
        ) from None
    if not isinstance(split, str) or not re.fullmatch(r"\w+", split):
        raise UserError(f"{where}: its split is {split!r}, expected a name such as train or testA")
    annotation = annotations.get(ann_id) if is_id(ann_id) else None
    if annotation is None:
        raise UserError(f"{where}: its annotation {ann_id!r} is not in {instances}")
    image = images.get(image_id) if is_id(image_id) else None
    if image is None:
        raise UserError(f"{where}: its image {image_id!r} is not in {instances}")
    if annotation.get("image_id") != image_id:
        raise UserError(
            f"{where}: is of image {image_id}, but {instances} has its annotation {ann_id} in "
            f"image {annotation.get('image_id')!r}"
        )
    if annotation.get("iscrowd", 0):
        raise UserError(
            f"{where}: its annotation {ann_id} is a crowd; an expression refers to one object"
        )
    return split, {
        "ref_id": ref["ref_id"],
        "ann_id": ann_id,
        "image_id": image_id,
        "file_name": image.get("file_name"),
        "width": image.get("width"),
        "height": image.get("height"),
        "polygons": annotation.get("segmentation"),
        "expressions": sentences,
    }
