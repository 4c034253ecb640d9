"""The masks of the synthetic VOC sets: every file agrees with every other, pixel by pixel."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as run_lengths

from tadp_d2.synthetic.drawing.backdrops import SETTINGS, backdrop, region_map
from tadp_d2.synthetic.drawing.shapes import fill, rasterize
from tadp_d2.synthetic.voc_data_sets import VocSizes, write_voc_data_sets

SIZES = VocSizes(12, 6, 6, 2, 2, 2, 2)
SPLITS = (("VOC2007", "trainval"), ("VOC2007", "test"), ("VOC2012", "trainval"))
# As VOC's devkit names and numbers them.
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
STUFF = (
    *("sky", "hill", "building", "tree", "fence", "parasol", "sea", "sand"),
    *("grass", "path", "pavement", "road"),
)


@dataclass
class Files:
    """All that the files hold of one image: H x W maps, and rows of the JSON files."""

    image_id: str
    image: dict
    classes: np.ndarray
    objects: np.ndarray
    segments: np.ndarray
    stuff: np.ndarray
    instances: list[dict]
    infos: list[dict]
    xml: list[ElementTree.Element]


def read_json(folder: Path, kind: str, split: str) -> dict:
    return json.loads((folder / "coco" / "annotations" / f"{kind}_{split}.json").read_text())


def read_map(path: Path, mode: str) -> np.ndarray:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", mode)
        return np.asarray(image)


def read_files(root: Path) -> Iterator[Files]:
    for year, split in SPLITS:
        folder = root / year
        instances, panoptic = (read_json(folder, k, split) for k in ("instances", "panoptic"))
        assert instances["images"] == panoptic["images"]
        for image, row in zip(panoptic["images"], panoptic["annotations"], strict=True):
            name = row["file_name"]
            assert row["image_id"] == image["id"]
            rgb = read_map(folder / "coco" / f"panoptic_{split}" / name, "RGB").astype(int)
            yield Files(
                image_id=name.removesuffix(".png"),
                image=image,
                classes=read_map(folder / "SegmentationClass" / name, "P"),
                objects=read_map(folder / "SegmentationObject" / name, "P"),
                segments=rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2],
                stuff=read_map(folder / "coco" / f"panoptic_stuff_{split}" / name, "L"),
                instances=[r for r in instances["annotations"] if r["image_id"] == image["id"]],
                infos=row["segments_info"],
                xml=ElementTree.parse(
                    folder / "Annotations" / name.replace(".png", ".xml")
                ).findall("object"),
            )


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    write_voc_data_sets(folder, seed=5, sizes=SIZES)
    return folder


@pytest.fixture(scope="module")
def files(root) -> list[Files]:
    found = list(read_files(root))
    assert len(found) == 24
    return found


def bounds(mask: np.ndarray) -> list[int]:
    """x, y, width and height of the smallest box around a mask."""
    rows, columns = np.nonzero(mask)
    return [
        int(columns.min()),
        int(rows.min()),
        int(np.ptp(columns)) + 1,
        int(np.ptp(rows)) + 1,
    ]


def test_the_lists_of_segmented_images_are_those_of_all(root):
    for year in ("VOC2007", "VOC2012"):
        lists = root / year / "ImageSets"
        names = {path.name for path in (lists / "Main").iterdir()}
        assert names == {path.name for path in (lists / "Segmentation").iterdir()}
        for name in names:
            assert (lists / "Main" / name).read_bytes() == (
                lists / "Segmentation" / name
            ).read_bytes()


def test_images_are_listed_in_order_by_number_and_size(root):
    for year, split in SPLITS:
        ids = (root / year / "ImageSets" / "Main" / f"{split}.txt").read_text().split()
        images = read_json(root / year, "panoptic", split)["images"]
        assert [image["file_name"] for image in images] == [f"{i}.jpg" for i in ids]
        assert [image["id"] for image in images] == [int(i.replace("_", "")) for i in ids]
        for image in images:
            with Image.open(root / year / "JPEGImages" / image["file_name"]) as opened:
                assert opened.size == (image["width"], image["height"])


def test_objects_are_numbered_and_bounded_as_in_the_xml(files):
    for file in files:
        assert np.unique(file.objects[file.objects > 0]).tolist() == [
            n for n, _ in enumerate(file.xml, start=1)
        ]
        for number, element in enumerate(file.xml, start=1):
            left, top, right, bottom = (int(side.text) for side in element.find("bndbox"))
            box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
            assert bounds(file.objects == number) == box, f"{file.image_id}: {number}"
            (label,) = np.unique(file.classes[file.objects == number])
            assert CLASSES[label - 1] == element.findtext("name")


def test_every_pixel_is_an_object_or_background(files):
    for file in files:
        assert np.array_equal(file.classes > 0, file.objects > 0)
        assert file.classes.max() <= 20


def test_palettes_are_that_of_voc(root):
    # From the devkit's documentation.
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 7: (128, 128, 128), 8: (64, 0, 0)}
    known |= {15: (192, 128, 128), 20: (0, 64, 128), 21: (128, 64, 128), 255: (224, 224, 192)}
    for maps in ("SegmentationClass", "SegmentationObject"):
        with Image.open(root / "VOC2007" / maps / "000001.png") as image:
            palette = np.reshape(image.getpalette(), (256, 3))
        assert {index: tuple(palette[index].tolist()) for index in known} == known
        assert len(np.unique(palette, axis=0)) == 256


def test_instances_are_the_objects(files):
    for file in files:
        assert len(file.instances) == len(file.xml)
        for number, (row, element) in enumerate(
            zip(file.instances, file.xml, strict=True), start=1
        ):
            mask = file.objects == number
            assert row["segmentation"]["size"] == list(mask.shape)
            assert np.array_equal(run_lengths.decode(row["segmentation"]), mask)
            assert row["area"] == mask.sum()
            assert row["bbox"] == bounds(mask)
            assert row["iscrowd"] == 0
            assert CLASSES[row["category_id"] - 1] == element.findtext("name")


def test_ids_of_instances_are_unique_and_count_from_one(root):
    for year, split in SPLITS:
        rows = read_json(root / year, "instances", split)["annotations"]
        assert [row["id"] for row in rows] == list(range(1, len(rows) + 1))


def test_segments_of_png_and_json_are_the_same(files):
    for file in files:
        ids = [info["id"] for info in file.infos]
        assert len(set(ids)) == len(ids) and 0 not in ids
        assert set(ids) == set(np.unique(file.segments))
        for info in file.infos:
            mask = file.segments == info["id"]
            assert info["area"] == mask.sum()
            assert info["bbox"] == bounds(mask)
            assert info["iscrowd"] == 0
        assert sum(info["area"] for info in file.infos) == file.segments.size


def test_segments_are_the_objects_in_order_and_one_for_each_kind_of_stuff(files):
    for file in files:
        things = file.infos[: len(file.xml)]
        for number, (info, row) in enumerate(zip(things, file.instances, strict=True), start=1):
            assert np.array_equal(file.segments == info["id"], file.objects == number)
            assert {k: info[k] for k in ("category_id", "area", "bbox")} == {
                k: row[k] for k in ("category_id", "area", "bbox")
            }
        stuff = file.infos[len(file.xml) :]
        for info in stuff:
            mask = file.segments == info["id"]
            assert np.array_equal(mask, file.stuff == info["category_id"] - len(CLASSES))
        kinds = [info["category_id"] for info in stuff]
        assert kinds == sorted(set(kinds)) and kinds[0] > len(CLASSES)
        assert np.array_equal(file.stuff == 0, file.objects > 0)


def test_categories_are_vocs_and_the_stuff_behind_them(root):
    for year, split in SPLITS:
        instances = read_json(root / year, "instances", split)["categories"]
        assert [(c["id"], c["name"]) for c in instances] == list(enumerate(CLASSES, start=1))
        both = read_json(root / year, "panoptic", split)["categories"]
        assert [(c["id"], c["name"]) for c in both] == list(enumerate([*CLASSES, *STUFF], start=1))
        assert [c["isthing"] for c in both] == [1] * 20 + [0] * 12
        colors = {tuple(c["color"]) for c in both}
        assert len(colors) == 32 and all(0 <= v <= 255 for color in colors for v in color)


def test_all_kinds_of_stuff_occur_and_fit_the_captions(files, root):
    grounds = {
        "park": {"hill", "tree", "grass", "path"},
        "street": {"building", "pavement", "road"},
        "beach": {"sea", "sand", "parasol"},
        "meadow": {"hill", "tree", "fence", "grass"},
    }
    captions = {}
    for path in (root / "captions").glob("voc_*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
        captions |= {row["image_id"]: row["raw"] for row in rows}
    seen = set()
    for file in files:
        names = {STUFF[value - 1] for value in np.unique(file.stuff[file.stuff > 0])}
        setting = captions[file.image_id].split()[-1]
        assert names <= grounds[setting] | {"sky"}, file.image_id
        seen |= names
    assert seen == set(STUFF)


@pytest.mark.parametrize("setting", SETTINGS)
def test_stuff_is_where_it_is_drawn(setting):
    """Against the layer that the styles blend: a pixel of a single region is labeled as it."""

    def pen(draw, shape, points, unit):
        fill(draw, shape, points, unit, shape.color)

    for seed in range(8):
        size, horizon = (320, 240), 110.0
        drawn = backdrop(setting, "noon", size, horizon, seed)
        labels = region_map(drawn, size)
        shapes, numbers = [], {}
        for region in drawn.regions:
            numbers.setdefault(region.name, 1 + len(numbers))
            # Every kind in a color of full and absent components: a mixture has others.
            color = tuple(255 * (numbers[region.name] >> bit & 1) for bit in range(3))
            shapes += [replace(shape, color=color) for shape in region.shapes]
        layer = rasterize(shapes, size, pen, margin=0)
        inside = labels[layer.window]
        free = inside[layer.alpha == 0]
        ground = {"park": "grass", "street": "road", "beach": "sand", "meadow": "grass"}[setting]
        assert set(np.unique(free)) <= {21, 21 + STUFF.index(ground)}, f"seed {seed}"
        pure = 0
        for name, number in numbers.items():
            color = [number >> bit & 1 for bit in range(3)]
            alone = (layer.alpha == 1) & (layer.rgb == color).all(axis=2)
            assert (inside[alone] == 21 + STUFF.index(name)).all(), f"seed {seed}: {name}"
            pure += alone.sum()
        assert pure > 0.7 * (layer.alpha > 0).sum()
        assert (labels[: int(drawn.skyline) - 1] != 21 + STUFF.index(ground)).all()


@pytest.mark.parametrize("style, least", [("watercolor", 0.05), ("comic", 0.05)])
def test_where_a_target_is_bare_no_segment_is(root, style, least):
    """The margin of a watercolor is paper, the frame of a comic black and white."""
    folder = root / style
    panoptic = read_json(folder, "panoptic", "test")
    for image, row in zip(panoptic["images"], panoptic["annotations"], strict=True):
        rgb = read_map(folder / "coco" / "panoptic_test" / row["file_name"], "RGB").astype(int)
        segments = rgb @ (1, 256, 65536)
        void = segments == 0
        assert set(np.unique(segments)) - {0} == {info["id"] for info in row["segments_info"]}
        assert sum(info["area"] for info in row["segments_info"]) == (~void).sum()
        stuff = read_map(folder / "coco" / "panoptic_stuff_test" / row["file_name"], "L")
        assert np.array_equal(stuff == 255, void)
        assert least < void.mean() < 0.35
        # All around, up to objects that stand there.
        assert np.concatenate([void[0], void[-1], void[:, 0], void[:, -1]]).mean() > 0.7
        pixels = np.asarray(Image.open(folder / "JPEGImages" / image["file_name"]).convert("L"))
        if style == "watercolor":
            assert np.median(pixels[void]) > 215 > np.median(pixels[~void])
