"""Words for the colors of objects, before a style or the light changes them."""

from collections import Counter

import numpy as np

from tadp_d2.synthetic.drawing.scenes import SceneObject
from tadp_d2.synthetic.drawing.shapes import Color, Shape

# Of these classes the largest surface gives the color; people wear several, bicycles are thin.
_OF_ONE_COLOR = ("bird", "car", "cat", "dog")
_WORDS: dict[str, tuple[Color, ...]] = {
    "white": ((246, 242, 236),),
    "gray": ((128, 130, 142), (176, 180, 186)),
    "black": ((50, 48, 56),),
    "brown": ((150, 92, 52), (122, 74, 46), (196, 160, 122), (222, 178, 106)),
    "orange": ((236, 142, 52),),
    "yellow": ((250, 206, 62),),
    "red": ((206, 56, 50),),
    "green": ((70, 140, 84),),
    "blue": ((66, 132, 214), (38, 84, 158)),
    "purple": ((132, 62, 150),),
}
# Squared distance of a color from that of its word: pink is no purple.
_CLEAR = 4000


def color_word(item: SceneObject) -> str:
    """Such as "red"; "" of a class whose objects are of several colors."""
    return _nearest(_largest(item))[0] if item.name in _OF_ONE_COLOR else ""


def clothes_word(item: SceneObject) -> str:
    """What a person wears, such as "red"; "" of a color without a word, and of all else."""
    if item.name != "person":
        return ""
    word, distance = _nearest(_largest(item))
    return word if distance <= _CLEAR else ""


def _largest(item: SceneObject) -> Color:
    """The color of the largest surface; of a person it is that of the shirt or dress."""
    surface: Counter[Color] = Counter()
    for shape in item.shapes():
        surface[shape.color] += 0 if shape.width else _area(shape)
    ((color, _),) = surface.most_common(1)
    return color


def _nearest(color: Color) -> tuple[str, int]:
    """The word of the nearest color, and its squared distance."""
    distances = {word: min(_distance(color, own) for own in _WORDS[word]) for word in _WORDS}
    word = min(distances, key=distances.__getitem__)
    return word, distances[word]


def _area(shape: Shape) -> float:
    x, y = shape.points.T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


def _distance(one: Color, other: Color) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))
