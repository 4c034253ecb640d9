"""Street scenes: classes, labels, distances, styles, sentences."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tadp_d2.data.datasets.cityscapes_categories import CLASSES, IDS, IGNORE_LABEL
from tadp_d2.synthetic.drawing.street_styles import STYLES, render_street
from tadp_d2.synthetic.drawing.streets import Street, describe, sample_street

SEEDS = range(4)
# A scene for each class, twice.
CYCLE = range(2 * len(CLASSES))
# No word about time of day, weather or light.
FORBIDDEN = {
    *("night", "nighttime", "dark", "darkness", "day", "daytime", "fog", "foggy", "mist", "haze"),
    *("lamp", "lamps", "light", "lit", "lights", "glow", "rain", "sunny", "evening", "noisy"),
}
NOUN = (
    r"(?:car|truck|tram|person|people|bus|buses|bicyclist|motorcyclist|bicycle|motorcycle|"
    r"traffic light|traffic sign)s?"
)
COUNT = rf"(?:a|two|three|four|five|six|seven|eight) {NOUN}"


def scene(seed: int, size: tuple[int, int] = (512, 256)) -> Street:
    rng = np.random.default_rng(seed)
    return sample_street(rng, size, include=CLASSES[seed % len(CLASSES)])


def rendered(street: Street, style: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Image (H x W x 3 float) and labels."""
    image, labels = render_street(street, style, np.random.default_rng(seed))
    return np.asarray(image, dtype=float), labels


@pytest.fixture(scope="module")
def cycle() -> list[tuple[Street, np.ndarray]]:
    return [(scene(seed), rendered(scene(seed), "day")[1]) for seed in CYCLE]


def test_labels_are_the_same_in_all_styles():
    for seed in SEEDS:
        first, *others = (rendered(scene(seed), style, seed)[1] for style in STYLES)
        assert all(np.array_equal(first, other) for other in others), f"seed {seed}"


def test_the_style_draws_from_its_own_stream_only():
    street = scene(1)
    for style in STYLES:
        first, second = (rendered(street, style, seed)[0] for seed in (0, 0))
        assert np.array_equal(first, second)
        assert not np.array_equal(first, rendered(street, style, 1)[0])


@pytest.mark.parametrize("size", [(512, 256), (480, 270)])
def test_every_pixel_has_a_class_or_is_ignored(size):
    for seed in SEEDS:
        image, labels = rendered(scene(seed, size), "day")
        assert image.shape == (size[1], size[0], 3)
        assert (labels.shape, labels.dtype) == ((size[1], size[0]), np.uint8)
        assert set(np.unique(labels)) <= {*range(len(CLASSES)), IGNORE_LABEL}, f"seed {seed}"


def test_all_classes_are_frequent_and_large(cycle):
    """In at least a quarter of the scenes with 100 pixels, and there mostly with 300."""
    areas = np.array([np.bincount(labels.ravel(), minlength=256) for _, labels in cycle])
    for name, number in IDS.items():
        present = areas[:, number][areas[:, number] >= 100]
        assert len(present) >= 0.25 * len(cycle), name
        assert np.median(present) >= 300, f"{name}: {np.median(present)}"


def test_include_names_a_class_that_is_there(cycle):
    missing = [
        f"seed {seed}: {CLASSES[seed % len(CLASSES)]}"
        for seed, (_, labels) in zip(CYCLE, cycle, strict=True)
        if (labels == seed % len(CLASSES)).sum() < 100
    ]
    assert not missing


def test_pixels_of_a_class_are_where_its_label_is():
    """Painting a class magenta changes the image there, faintly within two pixels of the rim.

    Pixels that shapes cover by less than half have the label of what is behind them.
    """
    for seed in SEEDS:
        street = scene(seed)
        before, labels = rendered(street, "day")
        for number in np.unique(labels[labels != IDS["sky"]]):
            parts = tuple(
                replace(part, shapes=tuple(replace(s, color=(255, 0, 255)) for s in part.shapes))
                if part.label == number
                else part
                for part in street.parts
            )
            after, _ = rendered(replace(street, parts=parts), "day")
            change = np.abs(after - before).max(axis=2)
            mask = Image.fromarray(((labels == number) * 255).astype(np.uint8))
            outside = np.asarray(mask.filter(ImageFilter.MaxFilter(5))) == 0
            inside = np.asarray(mask.filter(ImageFilter.MinFilter(3))) > 0
            assert change[outside].max() < 64, f"seed {seed}, class {number}"
            assert (change[inside] > 12).all(), f"seed {seed}, class {number}"


def test_nearer_people_are_larger_as_perspective_has_it():
    for seed in range(12):
        street = scene(seed)
        for part in street.parts:
            if part.label == IDS["person"]:
                points = np.concatenate([shape.points for shape in part.shapes])
                meters = np.ptp(points[:, 1]) / (street.camera.focal * part.surface[2])
                assert 1.55 < meters < 1.95, f"seed {seed}"
                foot = points[:, 1].max() - street.camera.horizon
                distance = 1 / part.surface[2]
                expected = street.camera.focal * street.camera.height / distance
                assert abs(foot - expected) < 0.06 * street.camera.focal / distance


def test_night_is_dark():
    for seed in SEEDS:
        day, night = (rendered(scene(seed), style)[0] for style in ("day", "night"))
        assert night.mean() < 0.65 * day.mean(), f"seed {seed}"
        sky = rendered(scene(seed), "night")[1] == IDS["sky"]
        assert night[sky].mean() < 0.25 * day[sky].mean(), f"seed {seed}"


def test_fog_takes_the_more_contrast_the_farther():
    """Deviation from the fog's color, as a share of the day's, on the road near and far."""
    for seed in SEEDS:
        street = scene(seed)
        day, labels = rendered(street, "day")
        foggy, _ = rendered(street, "foggy")
        rows = np.arange(street.height)[:, None] - street.camera.horizon
        road = labels == IDS["road"]
        fog = foggy[labels == IDS["sky"]].mean()
        kept = [
            np.abs(foggy[road & zone] - fog).mean() / np.abs(day[road & zone] - fog).mean()
            for zone in (rows > 90, (rows > 4) & (rows < 22))
        ]
        assert kept[0] > 1.4 * kept[1], f"seed {seed}: {kept}"


def test_captions_have_correct_grammar_and_no_word_on_light_or_weather(cycle):
    around = rf"(?:buildings|trees|a wall|a fence|grass|{COUNT})"
    things, place = (rf"{one}(, {one})*( and {one})?" for one in (COUNT, around))
    pattern = rf"{things} on a street with {place}"
    for street, labels in cycle:
        caption = describe(street, labels)
        assert re.fullmatch(pattern, caption), caption
        words = set(re.findall(r"\w+", re.sub(r"traffic lights?", "", caption)))
        assert not words & FORBIDDEN, caption


def test_captions_count_what_the_labels_show(cycle):
    """A noun stands in the sentence only if its class is in the image."""
    shown = {
        "car": "car",
        "truck": "truck",
        "bus": "bus",
        "tram": "train",
        "person": "person",
        "people": "person",
        "bicyclist": "rider",
        "motorcyclist": "rider",
        "bicycle": "bicycle",
        "motorcycle": "motorcycle",
        "wall": "wall",
        "fence": "fence",
        "trees": "vegetation",
        "grass": "terrain",
        "traffic light": "traffic light",
        "traffic sign": "traffic sign",
    }
    counts = Counter()
    for street, labels in cycle:
        caption = describe(street, labels)
        for noun, name in shown.items():
            if re.search(rf"\b{noun}", caption):
                counts[name] += 1
                assert (labels == IDS[name]).sum() >= 20, f"{caption}: {name}"
    assert set(counts) == set(shown.values())
