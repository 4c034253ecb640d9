"""Images in all styles of the synthetic data sets, to train the tiny CLIP and diffusion model on.

They are apart from the images of the data sets, which have seeds of their own.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from tadp_d2.conditioning.domains import DOMAINS, SLOT
from tadp_d2.synthetic.drawing import rooms, street_styles, streets, styles
from tadp_d2.synthetic.drawing.color_words import color_word
from tadp_d2.synthetic.drawing.room_views import render_room
from tadp_d2.synthetic.drawing.scenes import Scene, describe, largest_first, sample_scene
from tadp_d2.synthetic.unambiguous import expressions

# How an image in each style is captioned when the caption names the style: in the targets' styles
# in the words of the simple modifier.
STYLE_TEMPLATES = {
    "photo": f"a photo of {SLOT}",
    "watercolor": DOMAINS["watercolor"].modifiers["simple"].template,
    "comic": DOMAINS["comic"].modifiers["simple"].template,
    "day": f"a dashcam photo of {SLOT}",
    "foggy": DOMAINS["night"].modifiers["nearby"].template,
    "night": DOMAINS["night"].modifiers["simple"].template,
}
# Width and height as the quick schedules see them, pixels.
SIZE, STREET_SIZE, ROOM_SIZE = (192, 192), (384, 192), (256, 192)
# Style -> that of `room_views`.
_ROOM_STYLES = {"photo": "day", "night": "night", "watercolor": "watercolor"}
# What takes turns where all kinds of images are asked for: scenes have most to say.
TURNS = (
    *(3 * tuple(("scene", style) for style in styles.STYLES)),
    *(("street", style) for style in ("day", "foggy", "night")),
    *(("room", style) for style in _ROOM_STYLES),
)
# A thing on a street has a box if it is as high as this share of the image.
_HIGH = 0.12


class BoxedThing(NamedTuple):
    """An object: its class, its box as shares of the image from its top left, and its color.

    The color is a word, or "" of what is of several colors.
    """

    name: str
    left: float
    top: float
    right: float
    bottom: float
    color: str = ""


class Sample(NamedTuple):
    """An image for training.

    Attributes:
        style: one of `STYLE_TEMPLATES`.
        image: 192 x 192 pixels, 384 x 192 of a street, 256 x 192 of a room.
        caption: without the style.
        setting: one of `backdrops.SETTINGS`, "" of a street, and the kind of a room.
        things: the objects of a scene, largest first, or what is large enough on a street, nearest
            first; none of a room.
        expressions: that refer to one of the objects of a scene each.
    """

    style: str
    image: Image.Image
    caption: str
    setting: str
    things: tuple[BoxedThing, ...]
    expressions: tuple[str, ...] = ()


def draw_turn(index: int, seed: int) -> Sample:
    """The `index`-th sample of a seed, of the kind whose turn it is."""
    kind, style = TURNS[index % len(TURNS)]
    return (draw_room if kind == "room" else draw_sample)(index, seed, style)


def draw_sample(index: int, seed: int, style: str) -> Sample:
    """The `index`-th sample of a seed, a scene or a street in a style of `STYLE_TEMPLATES`."""
    rng = _source(index, seed)
    if style in styles.STYLES:
        scene = sample_scene(rng)
        image, boxes, *_ = styles.render(scene, style, rng)
        told = tuple(text for texts in expressions(scene).values() for text in texts)
        things = _things(scene, boxes)
        return Sample(style, image.resize(SIZE), describe(scene), scene.setting, things, told)
    street = streets.sample_street(rng)
    image, labels = street_styles.render_street(street, style, rng)
    things = tuple(_on_street(street, labels))
    caption = streets.describe(street, labels)
    return Sample(style, image.resize(STREET_SIZE), caption, setting="", things=things)


def draw_room(index: int, seed: int, style: str) -> Sample:
    """The `index`-th room of a seed, as a photo by day, at night or as a watercolor."""
    rng = _source(index, seed)
    kinds = tuple(rooms.KINDS)
    kind = kinds[rng.integers(len(kinds))]
    room = rooms.sample_room(rng, kind)
    seen = render_room(room, _ROOM_STYLES[style], rng)
    caption = rooms.describe(room, seen.shares)
    return Sample(style, seen.image.resize(ROOM_SIZE), caption, setting=kind, things=())


def _source(index: int, seed: int) -> np.random.Generator:
    return np.random.default_rng((seed, 1_000_000 + index))


def _things(scene: Scene, boxes: Sequence[styles.Box]) -> tuple[BoxedThing, ...]:
    width, height = scene.width, scene.height
    shares = {
        item: BoxedThing(
            item.name,
            (box.xmin - 1) / width,
            (box.ymin - 1) / height,
            box.xmax / width,
            box.ymax / height,
            color_word(item),
        )
        for item, box in zip(scene.objects, boxes, strict=True)
    }
    return tuple(shares[item] for item in largest_first(scene))


def _on_street(street: streets.Street, labels: np.ndarray) -> Iterator[BoxedThing]:
    for thing in street.things:
        left, top, right, bottom = (
            min(max(side / size, 0.0), 1.0)
            for side, size in zip(thing.box, 2 * (street.width, street.height), strict=True)
        )
        if bottom - top >= _HIGH and thing.is_visible(labels):
            yield BoxedThing(thing.noun, left, top, right, bottom)
