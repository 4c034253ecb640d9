"""Pictures of the world in all its styles, with captions, to train the tiny diffusion model on.

They are apart from the pictures of the data sets, which have seeds of their own.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from tadp_d2.synthetic import street_styles, styles
from tadp_d2.synthetic.scenes import describe, sample_scene
from tadp_d2.synthetic.streets import describe as describe_street
from tadp_d2.synthetic.streets import sample_street
from tadp_d2.text.modifiers import MODIFIERS, SLOT

# How a picture in each style is captioned when the caption names the style: in the targets' styles
# in the words of the simple modifier.
STYLE_TEMPLATES = {
    "photo": f"a photo of {SLOT}",
    "watercolor": MODIFIERS["watercolor"]["simple"].template,
    "comic": MODIFIERS["comic"]["simple"].template,
    "day": f"a dashcam photo of {SLOT}",
    "foggy": MODIFIERS["night"]["nearby"].template,
    "night": MODIFIERS["night"]["simple"].template,
}
# Width and height as the quick schedules see them, pixels.
SIZE, STREET_SIZE = (192, 192), (384, 192)


class Sample(NamedTuple):
    """A picture of 192 x 192 pixels, of 384 x 192 for a street; its caption without the style."""

    style: str
    image: Image.Image
    caption: str


def draw_sample(index: int, seed: int) -> Sample:
    """The `index`-th sample of a seed; styles take turns."""
    rng = np.random.default_rng((seed, 1_000_000 + index))
    style = tuple(STYLE_TEMPLATES)[index % len(STYLE_TEMPLATES)]
    if style in styles.STYLES:
        scene = sample_scene(rng)
        image, _ = styles.render(scene, style, rng)
        return Sample(style, image.resize(SIZE), describe(scene))
    street = sample_street(rng)
    image, labels = street_styles.render_street(street, style, rng)
    return Sample(style, image.resize(STREET_SIZE), describe_street(street, labels))
