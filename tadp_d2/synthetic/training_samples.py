"""Images in all styles of the synthetic data sets, to train the tiny diffusion model on.

They are apart from the images of the data sets, which have seeds of their own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from tadp_d2.conditioning.domains import DOMAINS, SLOT
from tadp_d2.synthetic.drawing import street_styles, styles
from tadp_d2.synthetic.drawing.scenes import Scene, describe, largest_first, sample_scene
from tadp_d2.synthetic.drawing.streets import describe as describe_street
from tadp_d2.synthetic.drawing.streets import sample_street

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
SIZE, STREET_SIZE = (192, 192), (384, 192)


class BoxedThing(NamedTuple):
    """An object of a scene: its class and its box, as shares of the image from its top left."""

    name: str
    left: float
    top: float
    right: float
    bottom: float


class Sample(NamedTuple):
    """An image for training.

    Attributes:
        style: one of `STYLE_TEMPLATES`.
        image: 192 x 192 pixels, 384 x 192 of a street.
        caption: without the style.
        setting: one of `backdrops.SETTINGS`, "" of a street.
        things: the objects of a scene, largest first; none of a street.
    """

    style: str
    image: Image.Image
    caption: str
    setting: str
    things: tuple[BoxedThing, ...]


def draw_sample(index: int, seed: int, style: str) -> Sample:
    """The `index`-th sample of a seed, in a style of `STYLE_TEMPLATES`."""
    rng = np.random.default_rng((seed, 1_000_000 + index))
    if style in styles.STYLES:
        scene = sample_scene(rng)
        image, boxes, *_ = styles.render(scene, style, rng)
        things = _things(scene, boxes)
        return Sample(style, image.resize(SIZE), describe(scene), scene.setting, things)
    street = sample_street(rng)
    image, labels = street_styles.render_street(street, style, rng)
    caption = describe_street(street, labels)
    return Sample(style, image.resize(STREET_SIZE), caption, setting="", things=())


def _things(scene: Scene, boxes: Sequence[styles.Box]) -> tuple[BoxedThing, ...]:
    width, height = scene.width, scene.height
    shares = {
        item: BoxedThing(
            item.name,
            (box.xmin - 1) / width,
            (box.ymin - 1) / height,
            box.xmax / width,
            box.ymax / height,
        )
        for item, box in zip(scene.objects, boxes, strict=True)
    }
    return tuple(shares[item] for item in largest_first(scene))
