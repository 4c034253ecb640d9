"""Synthetic referring data: unambiguous expressions, the layout, masks, determinism."""

import hashlib
import json
import pickle
import re
from collections import Counter

import numpy as np
import pytest

from tadp_d2.data.readers.refer import draw_mask, load_refer
from tadp_d2.synthetic.drawing.class_figures import POSES
from tadp_d2.synthetic.drawing.color_words import _WORDS, clothes_word, color_word
from tadp_d2.synthetic.drawing.scenes import Scene, SceneObject, sample_scene_of
from tadp_d2.synthetic.drawing.styles import STYLES
from tadp_d2.synthetic.refer_data_sets import ReferSizes, _outline, write_refer_data_sets
from tadp_d2.synthetic.unambiguous import expressions

SIZES = ReferSizes(
    refcoco_train=8,
    refcoco_val=3,
    refcoco_testA=4,
    refcoco_testB=4,
    refcoco_watercolor_test=2,
    refcoco_comic_test=2,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refer")
    write_refer_data_sets(folder, seed=5, sizes=SIZES)
    return folder


def scene(*objects):
    """Objects as (class, x, size) or (class, x, size, grounded) in an image 300 wide.

    Those of one class have one color.
    """
    items = tuple(
        SceneObject(name, POSES[name][0], x, 200, size, "left", 0, 0.5, *grounded)
        for name, x, size, *grounded in objects
    )
    return Scene(300, 240, "park", "day", 100, 0, items)


def texts(*objects):
    return {index: set(found) for index, found in expressions(scene(*objects)).items()}


def test_expressions_by_hand():
    assert texts(("dog", 50, 80), ("cat", 200, 80)) == {
        0: {"dog", "a dog"},
        1: {"cat", "a cat"},
    }
    sides = {"left dog", "dog on left"}, {"right dog", "dog on right"}
    assert texts(("dog", 50, 80), ("dog", 200, 80)) == {0: sides[0], 1: sides[1]}
    assert texts(("dog", 50, 80), ("dog", 75, 80)) == {}
    assert texts(("dog", 50, 80), ("dog", 60, 150)) == {0: {"small dog"}, 1: {"large dog"}}
    assert texts(("dog", 50, 80), ("dog", 150, 80), ("dog", 250, 80)) == {
        0: sides[0],
        1: {"dog in middle"},
        2: sides[1],
    }
    assert texts(("bird", 50, 80, True), ("bird", 60, 80, False)) == {
        0: {"bird on ground"},
        1: {"bird in air"},
    }


def test_a_color_is_told_where_no_other_of_the_class_has_it():
    colors = {variation: color_word(dog(variation)) for variation in range(12)}
    one, other = (
        next(v for v, word in colors.items() if word == own) for own in ("white", "brown")
    )
    scenes = [Scene(300, 240, "park", "day", 100, 0, tuple(map(dog, own))) for own in (
        (one, other), (one, one), (one, one, other)
    )]  # fmt: skip
    colored = [
        {i: [t for t in texts if t.endswith(" dog") and t.split()[0] in colors.values()]
         for i, texts in expressions(own).items()}
        for own in scenes
    ]  # fmt: skip
    found = [{i: texts for i, texts in own.items() if texts} for own in colored]
    assert found == [{0: ["white dog"], 1: ["brown dog"]}, {}, {2: ["brown dog"]}]


def dog(variation):
    return SceneObject("dog", POSES["dog"][0], 100, 200, 80, "left", variation, 0.5)


def test_people_are_told_by_the_largest_of_their_clothes():
    """Whose color is one of the palette for tops; pink has no word."""
    seen = set()
    for variation in range(40):
        person = SceneObject("person", POSES["person"][0], 100, 200, 80, "left", variation, 0.5)
        seen.add(clothes_word(person))
        assert color_word(person) == ""
    assert {"", "red", "blue", "yellow"} <= seen <= {"", *_WORDS}
    assert clothes_word(dog(0)) == ""


def test_an_object_just_beside_another_is_on_neither_side():
    clear = texts(("dog", 50, 80), ("dog", 250, 80), ("car", 150, 80))
    assert "dog left of car" in clear[0] and "dog right of car" in clear[1]
    # 20 of 300 pixels are too little to be left of it, and too much to exclude it.
    near = texts(("dog", 50, 80), ("dog", 130, 80), ("car", 150, 80))
    assert not [text for found in near.values() for text in found if "of car" in text]


@pytest.mark.parametrize("seed", range(20))
def test_an_expression_is_true_of_its_object_only(seed):
    """Read again by other rules than those that wrote it."""
    rng = np.random.default_rng(seed)
    one = sample_scene_of(rng, [["dog", "bird", "car"][i] for i in rng.integers(3, size=4)])
    for index, found in expressions(one).items():
        for text in found:
            assert understand(text, one) == [index], text


def understand(text, one):
    """Indices of the objects that a sentence may mean, nearest readings first."""
    objects = list(enumerate(one.objects))
    name = re.search(r"dog|bird|car", text)[0]
    kin = [(i, o) for i, o in objects if o.name == name]
    relation = re.search(r"(left|right) of (\w+)", text)
    if relation:
        (anchor,) = [o for _, o in objects if o.name == relation[2]]
        return [i for i, o in kin if (o.x < anchor.x) == (relation[1] == "left")]
    color = re.match(r"(\w+) \w+$", text)
    if color and color[1] in _WORDS:
        return [i for i, o in kin if color_word(o) == color[1]]
    if "ground" in text or "air" in text:
        return [i for i, o in kin if o.grounded == ("ground" in text)]
    by_place = sorted(kin, key=lambda pair: pair[1].x)
    by_size = sorted(kin, key=lambda pair: pair[1].size)
    for word, order, place in (
        *(("left", by_place, 0), ("right", by_place, -1)),
        *(("small", by_size, 0), ("large", by_size, -1), ("middle", by_place, 1)),
    ):
        if word in text:
            return [order[place][0]]
    return [i for i, _ in kin]


def test_the_layout_is_that_of_the_published_sets(root):
    refs = pickle.loads((root / "refcoco" / "refs(unc).p").read_bytes())
    assert {ref["split"] for ref in refs} == {"train", "val", "testA", "testB"}
    assert set(refs[0]) == {
        *("ref_id", "ann_id", "category_id", "image_id", "file_name", "split", "sent_ids"),
        "sentences",
    }
    assert set(refs[0]["sentences"][0]) == {"sent", "raw", "sent_id", "tokens"}
    content = json.loads((root / "refcoco" / "instances.json").read_text())
    assert set(content) == {"images", "annotations", "categories"}
    people = {c["id"] for c in content["categories"] if c["name"] == "person"}
    kinds = {
        split: {ref["category_id"] for ref in refs if ref["split"] == split}
        for split in ("testA", "testB")
    }
    assert kinds["testA"] == people and not kinds["testB"] & people
    # Something to choose from in every image: two objects of a class; in testA it is people.
    shown = {image["id"]: Counter() for image in content["images"]}
    for annotation in content["annotations"]:
        shown[annotation["image_id"]][annotation["category_id"]] += 1
    assert all(max(counts.values()) > 1 for counts in shown.values())
    of_people = {ref["image_id"] for ref in refs if ref["split"] == "testA"}
    assert all(shown[image][number] > 1 for image in of_people for number in people)
    assert {len(ref["sentences"]) for ref in refs} <= {1, 2, 3}


def test_it_is_read_as_the_published_sets_are(root):
    entries = load_refer(root / "refcoco" / "unc_train.json", root / "coco" / "train2014")
    assert len({entry["image_id"] for entry in entries}) == 8
    for style in ("watercolor", "comic"):
        folder = root / f"refcoco_{style}"
        assert load_refer(folder / "synthetic_test.json", folder / "images")


@pytest.mark.parametrize("style", STYLES)
def test_polygons_draw_the_mask_that_is_seen(style):
    """Holes are filled, and the rim is drawn through the middles of its pixels."""
    rng = np.random.default_rng(3)
    one = sample_scene_of(rng, ["dog", "car", "person", "cat"])
    for item, visible in zip(one.objects, STYLES[style](one, rng).visible(), strict=True):
        mask = visible >= 0.5
        polygons, area, box = _outline(mask)
        entry = {"polygons": polygons, "height": one.height, "width": one.width}
        drawn = draw_mask(entry)
        rows, columns = np.nonzero(mask)
        assert box == [
            *(columns.min(), rows.min()),
            *(columns.max() + 1 - columns.min(), rows.max() + 1 - rows.min()),
        ]
        assert (drawn & mask).sum() / mask.sum() > 0.9, item.name
        assert (drawn & mask).sum() / (drawn | mask).sum() > 0.75, item.name


def test_the_same_seed_gives_the_same_bytes(root, tmp_path):
    def hashes(folder):
        return {
            path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file()
        }

    write_refer_data_sets(tmp_path, seed=5, sizes=SIZES)
    assert hashes(tmp_path) == hashes(root)
