"""The synthetic data sets for detection: layout, determinism, boxes, captions."""

import hashlib
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tadp_d2.data.texts import read_captions
from tadp_d2.errors import UserError
from tadp_d2.synthetic.drawing.class_figures import CLASSES
from tadp_d2.synthetic.drawing.scenes import Scene, describe, sample_scene
from tadp_d2.synthetic.drawing.styles import STYLES, render
from tadp_d2.synthetic.voc_data_sets import VocSizes, write_voc_data_sets

SIZES = VocSizes(
    voc_2007_trainval=5,
    voc_2007_test=6,
    voc_2012_trainval=4,
    watercolor_train=3,
    watercolor_test=6,
    comic_train=3,
    comic_test=6,
)
# Data set name -> folder, split and how an id looks.
DATASETS = {
    "voc_2007_train": ("VOC2007", "train", r"\d{6}"),
    "voc_2007_val": ("VOC2007", "val", r"\d{6}"),
    "voc_2007_trainval": ("VOC2007", "trainval", r"\d{6}"),
    "voc_2007_test": ("VOC2007", "test", r"\d{6}"),
    "voc_2012_train": ("VOC2012", "train", r"2012_\d{6}"),
    "voc_2012_val": ("VOC2012", "val", r"2012_\d{6}"),
    "voc_2012_trainval": ("VOC2012", "trainval", r"2012_\d{6}"),
    "watercolor_train": ("watercolor", "train", r"[1-9]\d*"),
    "watercolor_test": ("watercolor", "test", r"[1-9]\d*"),
    "comic_train": ("comic", "train", r"[1-9]\d*"),
    "comic_test": ("comic", "test", r"[1-9]\d*"),
}
SINGULAR = {"people": "person"} | {f"{name}s": name for name in CLASSES}
# Those with masks, and how the names of the data sets end that hold them.
SEGMENTED = (
    *("voc_2007_trainval", "voc_2007_test", "voc_2012_trainval"),
    *("watercolor_test", "comic_test"),
)
KINDS = ("instances", "semantic", "panoptic", "panoptic_separated")
NUMBERS = {"a": 1, "two": 2, "three": 3, "four": 4, "five": 5}
SEEDS = range(6)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_voc_data_sets(root, seed=3, sizes=SIZES)
    return root


def file_hashes(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def split_ids(root: Path, dataset: str) -> list[str]:
    folder, split, _ = DATASETS[dataset]
    return (root / folder / "ImageSets" / "Main" / f"{split}.txt").read_text().split()


def annotation(root: Path, dataset: str, image_id: str) -> ElementTree.Element:
    path = root / DATASETS[dataset][0] / "Annotations" / f"{image_id}.xml"
    return ElementTree.parse(path).getroot()


def caption_counts(caption: str) -> Counter:
    """Class counts as a reader takes them from the sentence."""
    words = re.findall(r"\b(a|two|three|four|five) (\w+)", caption)
    known = [(n, SINGULAR.get(w, w)) for n, w in words]
    return Counter({name: NUMBERS[n] for n, name in known if name in CLASSES})


def all_images(root: Path):
    for dataset in DATASETS:
        for image_id in split_ids(root, dataset):
            yield dataset, image_id, annotation(root, dataset, image_id)


def test_same_seed_same_bytes(world, tmp_path):
    write_voc_data_sets(tmp_path, seed=3, sizes=SIZES)
    assert file_hashes(tmp_path) == file_hashes(world)


def test_other_seed_other_images(world, tmp_path):
    write_voc_data_sets(tmp_path, seed=4, sizes=SIZES)
    ours, others = file_hashes(world), file_hashes(tmp_path)
    assert ours.keys() == others.keys()
    assert all(ours[name] != others[name] for name in ours if name.endswith(".jpg"))


def test_a_larger_split_changes_nothing_else(world, tmp_path):
    write_voc_data_sets(tmp_path, seed=3, sizes=replace(SIZES, voc_2007_trainval=8, comic_train=5))
    before, after = file_hashes(world), file_hashes(tmp_path)
    images = [name for name in before if name.endswith((".jpg", ".xml", ".png"))]
    assert all(before[name] == after[name] for name in images)
    assert before["captions/voc_2007_test.jsonl"] == after["captions/voc_2007_test.jsonl"]


def test_splits_have_the_sizes_and_ids_of_their_set(world):
    expected = {"voc_2007_train": 2, "voc_2007_val": 3, "voc_2012_train": 2, "voc_2012_val": 2}
    for dataset, (_, _, pattern) in DATASETS.items():
        ids = split_ids(world, dataset)
        assert len(ids) == expected.get(dataset) or len(ids) == getattr(SIZES, dataset)
        assert all(re.fullmatch(pattern, image_id) for image_id in ids)
    for year in ("voc_2007", "voc_2012"):
        halves = split_ids(world, f"{year}_train") + split_ids(world, f"{year}_val")
        assert halves == split_ids(world, f"{year}_trainval")
    assert not set(split_ids(world, "comic_train")) & set(split_ids(world, "comic_test"))


def test_there_are_no_other_files(world):
    images = {(DATASETS[d][0], image_id) for d, image_id, _ in all_images(world)}
    expected = {f"{folder}/JPEGImages/{i}.jpg" for folder, i in images}
    expected |= {f"{folder}/Annotations/{i}.xml" for folder, i in images}
    expected |= {f"{folder}/ImageSets/Main/{split}.txt" for folder, split, _ in DATASETS.values()}
    expected |= {f"captions/{dataset}.jsonl" for dataset in DATASETS}
    for dataset, (folder, split, _) in DATASETS.items():
        if folder.startswith("VOC") or split == "test":
            expected.add(f"{folder}/ImageSets/Segmentation/{split}.txt")
        if dataset in SEGMENTED:
            png = {f"{image_id}.png" for image_id in split_ids(world, dataset)}
            for maps in ("SegmentationClass", "SegmentationObject"):
                expected |= {f"{folder}/{maps}/{name}" for name in png}
            for maps in ("panoptic", "panoptic_stuff"):
                expected |= {f"{folder}/coco/{maps}_{split}/{name}" for name in png}
            for kind in ("instances", "panoptic"):
                expected.add(f"{folder}/coco/annotations/{kind}_{split}.json")
            expected |= {f"captions/{dataset}_{kind}.jsonl" for kind in KINDS}
    assert set(file_hashes(world)) == expected


def test_xml_states_size_and_boxes_of_its_image(world):
    for dataset, image_id, root in all_images(world):
        folder = DATASETS[dataset][0]
        assert root.findtext("filename") == f"{image_id}.jpg"
        assert root.findtext("folder") == folder
        width, height = (int(root.findtext(f"size/{side}")) for side in ("width", "height"))
        with Image.open(world / folder / "JPEGImages" / f"{image_id}.jpg") as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (width, height))
        assert 1 <= len(root.findall("object")) <= 5
        for box in root.iterfind("object/bndbox"):
            xmin, ymin, xmax, ymax = (
                int(box.findtext(n)) for n in ("xmin", "ymin", "xmax", "ymax")
            )
            assert 1 <= xmin < xmax <= width
            assert 1 <= ymin < ymax <= height


def test_optional_fields_are_those_of_the_real_sets(world):
    for dataset, _, root in all_images(world):
        photo = dataset.startswith("voc")
        for item in root.iterfind("object"):
            assert (item.findtext("pose") in ("Left", "Right")) == photo
            assert (item.findtext("truncated") in ("0", "1")) == photo
            assert (item.findtext("difficult") == "0") == photo


def test_every_test_split_has_all_classes(world):
    for dataset in ("voc_2007_test", "watercolor_test", "comic_test"):
        roots = [annotation(world, dataset, image_id) for image_id in split_ids(world, dataset)]
        assert {e.text for root in roots for e in root.iterfind("object/name")} == set(CLASSES)


def test_captions_say_what_the_xml_says(world):
    for dataset in DATASETS:
        captions = read_captions(world / "captions" / f"{dataset}.jsonl")
        assert list(captions.captions) == split_ids(world, dataset)
        assert captions.made_by == {"tool": "tadp_d2 synthetic world", "seed": 3}
        for image_id, caption in captions.captions.items():
            names = annotation(world, dataset, image_id).iterfind("object/name")
            assert caption_counts(caption) == Counter(e.text for e in names), caption


def test_captions_have_correct_grammar_and_no_word_on_style():
    number = r"(a (bicycle|bird|car|cat|dog|person)|(two|three|four|five) (people|[a-z]+s))"
    pattern = rf"{number}(, {number})*( and {number})? (in|on) a (park|street|beach|meadow)"
    for seed in range(200):
        caption = describe(sample_scene(np.random.default_rng(seed)))
        assert re.fullmatch(pattern, caption), f"seed {seed}: {caption}"
        assert caption.count(",") == 0 or " and " in caption, f"seed {seed}: {caption}"


def test_classes_are_about_equally_frequent():
    scenes = [sample_scene(np.random.default_rng(seed)) for seed in range(400)]
    counts = Counter(o.name for scene in scenes for o in scene.objects)
    share = {name: counts[name] / counts.total() for name in CLASSES}
    assert all(0.12 < s < 0.22 for s in share.values()), share


def last_object_mask(scene: Scene, style: str, seed: int) -> np.ndarray:
    """Where the nearest object changes the image: H x W bool."""
    without = replace(scene, objects=scene.objects[:-1])
    pair = [render(s, style, np.random.default_rng(seed))[0] for s in (scene, without)]
    first, second = (np.asarray(image).astype(int) for image in pair)
    return np.abs(first - second).max(axis=2) > 0


@pytest.mark.parametrize("style", ["watercolor", "comic"])
def test_box_of_the_nearest_object_is_where_it_changes_the_image(style):
    """The box is that of half covered pixels, so faint ones reach two pixels further at most."""
    for seed in SEEDS:
        scene = sample_scene(np.random.default_rng(seed))
        box = render(scene, style, np.random.default_rng(seed))[1][-1]
        rows, columns = np.nonzero(last_object_mask(scene, style, seed))
        changed = (columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1)
        off = np.abs(np.subtract(changed, box[:4]))
        assert off.max() <= 2, f"seed {seed}: changed {changed}, box {box}"


@pytest.mark.parametrize("style", STYLES)
def test_boxes_are_the_tight_bounds_of_the_visible_masks(style):
    for seed in SEEDS:
        scene = sample_scene(np.random.default_rng(seed))
        painting = STYLES[style](scene, np.random.default_rng(seed))
        boxes = render(scene, style, np.random.default_rng(seed))[1]
        assert len(boxes) == len(scene.objects)
        for k, box in enumerate(boxes):
            visible = painting.alphas[k].astype(np.float64)
            for nearer in painting.alphas[k + 1 :]:
                visible = visible * (1 - nearer)
            inside = visible[box.ymin - 1 : box.ymax, box.xmin - 1 : box.xmax] >= 0.5
            assert inside.sum() == (visible >= 0.5).sum() > 0, f"seed {seed}, object {k}"
            for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
                assert edge.any(), f"seed {seed}, object {k}"


@pytest.mark.parametrize("style", STYLES)
def test_masks_have_the_boxes_as_their_bounds_and_share_no_pixel(style):
    for seed in range(40):
        scene = sample_scene(np.random.default_rng(seed))
        _, boxes, masks, _ = render(scene, style, np.random.default_rng(seed))
        assert len(masks) == len(boxes) == len(scene.objects)
        assert np.sum(masks, axis=0).max() == 1, f"seed {seed}"
        for box, mask in zip(boxes, masks, strict=True):
            assert mask.shape == (scene.height, scene.width)
            rows, columns = np.nonzero(mask)
            bounds = (columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1)
            assert bounds == box[:4], f"seed {seed}"


@pytest.mark.parametrize("style", STYLES)
def test_objects_have_their_size_and_are_mostly_visible(style):
    for seed in SEEDS:
        scene = sample_scene(np.random.default_rng(seed))
        painting = STYLES[style](scene, np.random.default_rng(seed))
        for item, alpha, visible in zip(
            scene.objects, painting.alphas, painting.visible(), strict=True
        ):
            assert visible.sum() > 0.7 * alpha.sum(), f"seed {seed}: {item.name}"
            rows, columns = np.nonzero(alpha >= 0.5)
            side = max(np.ptp(rows), np.ptp(columns)) + 1
            assert abs(side - item.size) <= 6, f"seed {seed}: {item.name}"


def test_styles_render_the_same_scene_differently():
    for seed in SEEDS:
        scene = sample_scene(np.random.default_rng(seed))
        images = [
            np.asarray(render(scene, style, np.random.default_rng(seed))[0]).astype(float)
            for style in STYLES
        ]
        for i, first in enumerate(images):
            for second in images[i + 1 :]:
                assert np.abs(first - second).mean() > 12, f"seed {seed}"


def test_include_names_a_class_that_is_there():
    for name in CLASSES:
        scenes = [sample_scene(np.random.default_rng(seed), include=name) for seed in SEEDS]
        assert all(name in {o.name for o in scene.objects} for scene in scenes)


def test_progress_counts_every_image(tmp_path):
    calls = []
    sizes = VocSizes(*[2] * 7)
    write_voc_data_sets(tmp_path, 0, sizes, progress=lambda *call: calls.append(call))
    assert calls == [(n, 14) for n in range(1, 15)]


@pytest.mark.parametrize("size", [0, 1, 5001])
def test_a_size_out_of_range_is_named(size):
    with pytest.raises(UserError, match=f"comic_test.*{size}"):
        VocSizes(comic_test=size)


def test_a_negative_seed_is_named(tmp_path):
    with pytest.raises(UserError, match="seed.*-1"):
        write_voc_data_sets(tmp_path, seed=-1)
    assert not any(tmp_path.iterdir())
