"""The same scenes in Pascal's, ADE20K's and COCO-Stuff's layouts: pixel for pixel the same."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

import tadp_d2.config  # noqa: F401
from tadp_d2.data.catalog import read_entries
from tadp_d2.data.datasets.voc_categories import STUFF
from tadp_d2.data.images import read_label_map
from tadp_d2.data.texts import read_captions
from tadp_d2.tasks.task import class_names

# The names of what is called otherwise than in the scenes.
OTHERS = {
    "ade20k": {
        **dict.fromkeys(("bird", "cat", "dog"), "animal"),
        **{"parasol": "awning", "pavement": "sidewalk"},
    },
    "coco_stuff": {
        **{"sky": "sky-other", "building": "building-other", "parasol": "umbrella"},
        "path": "dirt",
    },
}


@pytest.mark.parametrize("split", ["train", "val"])
def test_all_layouts_show_the_same(world, split):
    pascal = read_entries("pascal_trainaug" if split == "train" else "pascal_val")
    assert pascal
    for dataset, others in OTHERS.items():
        entries = read_entries(f"{dataset}_{split}")
        names = np.array(class_names(f"{dataset}_{split}", "stuff"))
        words = np.array(class_names("pascal_val", "stuff"))
        assert [Path(e["image_id"]).stem for e in entries] == [e["image_id"] for e in pascal]
        captions = read_captions(world / "captions" / f"{dataset}_{split}.jsonl").captions
        for ours, theirs in zip(entries, pascal, strict=True):
            assert Path(ours["file_name"]).read_bytes() == Path(theirs["file_name"]).read_bytes()
            own = read_label_map(ours["sem_seg_file_name"])
            classes = read_label_map(theirs["sem_seg_file_name"])
            # Every pixel has a class here.
            assert (own < len(names)).all()
            seen = names[own]
            stuff = read_label_map(
                world / "VOC2012/coco/panoptic_stuff_trainval" / f"{theirs['image_id']}.png"
            )
            expected = defaultdict(str)
            for index in np.unique(classes[classes > 0]):
                expected[words[index]] = others.get(words[index], words[index])
                assert (seen[classes == index] == expected[words[index]]).all()
            for index, name in enumerate(STUFF, start=1):
                assert (seen[stuff == index] == others.get(name, name)).all()
            assert captions[ours["image_id"]]
