"""Crops of latents, with captions of what they show.

Close-ups teach what a word looks like: in a whole scene an object is a few latent pixels, and most
of what there is to say about the noise has nothing to do with it.
"""

import torch
from torch import Tensor

from tadp_d2.synthetic.drawing.scenes import sentence

# A thing is named when this share of its box is in the crop.
_VISIBLE = 0.5


def random_index(size: int) -> int:
    return int(torch.randint(size, ()))


def close_up(
    latents: Tensor, setting: str, things: list[tuple], mirrored: bool, size: int
) -> tuple[Tensor, str]:
    """A crop around one of the things of a scene, and the sentence about what it shows.

    Args:
        latents: 4 x h x w.
        setting: of the scene.
        things: (name, left, top, right, bottom), shares of the image that is not mirrored.
        mirrored: whether the latents are those of the mirror image.
        size: of the crop, latent pixels.
    """
    height, width = latents.shape[-2:]
    boxes = [_in_latents(thing[1:], mirrored, width, height) for thing in things]
    chosen = random_index(len(things))
    left, top, right, bottom = boxes[chosen]
    x, y = _start(left, right, size, width), _start(top, bottom, size, height)
    names = [
        thing[0]
        for index, (thing, box) in enumerate(zip(things, boxes, strict=True))
        if index == chosen or _share_within(box, x, y, size) >= _VISIBLE
    ]
    return latents[:, y : y + size, x : x + size], sentence(names, setting)


def whole(latents: Tensor) -> Tensor:
    """A square crop of the full height: 4 x h x h."""
    height, width = latents.shape[-2:]
    left = random_index(width - height + 1)
    return latents[:, :, left : left + height]


def _in_latents(
    box: tuple[float, ...], mirrored: bool, width: int, height: int
) -> tuple[float, ...]:
    left, top, right, bottom = box
    if mirrored:
        left, right = 1 - right, 1 - left
    return left * width, top * height, right * width, bottom * height


def _start(first: float, last: float, size: int, limit: int) -> int:
    """Where a window begins that holds a side of a thing, or lies within it; at random."""
    low, high = sorted((last - size, first))
    start = low + (high - low) * float(torch.rand(()))
    return min(max(round(start), 0), limit - size)


def _share_within(box: tuple[float, ...], x: int, y: int, size: int) -> float:
    left, top, right, bottom = box
    width = max(0.0, min(right, x + size) - max(left, x))
    height = max(0.0, min(bottom, y + size) - max(top, y))
    return width * height / ((right - left) * (bottom - top))
