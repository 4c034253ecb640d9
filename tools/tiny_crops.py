"""Crops of images or latents, with what they show.

Close-ups teach what a word looks like: in a whole scene an object is a few latent pixels, and most
of what there is to say about the noise has nothing to do with it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tadp_d2.synthetic.training_samples import BoxedThing

# A thing is named when this share of its box is in the crop.
_VISIBLE = 0.5


def random_index(size: int) -> int:
    return int(torch.randint(size, ()))


def chance(share: float) -> bool:
    """True in this share of the calls, 0 to 1."""
    return float(torch.rand(())) < share


def seen(things: Sequence[tuple], mirrored: bool) -> list[BoxedThing]:
    """The things of a whole image, or of its mirror image.

    Args:
        things: fields of `BoxedThing` in the image that is not mirrored.
        mirrored: whether it is the mirror image that is asked for.
    """
    boxed = [BoxedThing(*thing) for thing in things]
    if not mirrored:
        return boxed
    return [thing._replace(left=1 - thing.right, right=1 - thing.left) for thing in boxed]


def close_up(pixels: Tensor, things: Sequence[BoxedThing], size: int) -> tuple[Tensor, list]:
    """A square crop around one of the things of an image, and the things that it shows.

    Args:
        pixels: C x h x w, of the image or its latents.
        things: as `seen` returns them.
        size: of the crop, pixels or latent pixels.

    Returns:
        C x size x size, and the things with their boxes as shares of the crop, cut at its rim.
    """
    height, width = pixels.shape[-2:]
    chosen = random_index(len(things))
    one = things[chosen]
    x = _start(one.left * width, one.right * width, size, width)
    y = _start(one.top * height, one.bottom * height, size, height)
    shown = _within(things, x / width, y / height, size / width, size / height, always=chosen)
    return pixels[..., y : y + size, x : x + size], shown


def whole(pixels: Tensor, things: Sequence[BoxedThing]) -> tuple[Tensor, list[BoxedThing]]:
    """A square crop of the full height, C x h x h, and the things that it shows."""
    height, width = pixels.shape[-2:]
    left = random_index(width - height + 1)
    shown = _within(things, left / width, 0.0, height / width, 1.0)
    return pixels[..., left : left + height], shown


def _within(
    things: Sequence[BoxedThing],
    x: float,
    y: float,
    width: float,
    height: float,
    always: int | None = None,
) -> list[BoxedThing]:
    """The things of which a window shows enough, in its own coordinates; all sides are shares."""
    shown = []
    for index, thing in enumerate(things):
        left, right = max(thing.left, x), min(thing.right, x + width)
        top, bottom = max(thing.top, y), min(thing.bottom, y + height)
        area = max(0.0, right - left) * max(0.0, bottom - top)
        share = area / ((thing.right - thing.left) * (thing.bottom - thing.top))
        if index == always or share >= _VISIBLE:
            sides = ((left - x) / width, (top - y) / height)
            sides += ((right - x) / width, (bottom - y) / height)
            shown.append(BoxedThing(thing.name, *sides, thing.color))
    return shown


def _start(first: float, last: float, size: int, limit: int) -> int:
    """Where a window begins that holds a side of a thing, or lies within it; at random."""
    low, high = sorted((last - size, first))
    start = low + (high - low) * float(torch.rand(()))
    return min(max(round(start), 0), limit - size)
