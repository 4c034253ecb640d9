"""The word for the color of an object, before a style or the light changes it."""

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


def color_word(item: SceneObject) -> str:
    """Such as "red"; "" of a class whose objects are of several colors."""
    if item.name not in _OF_ONE_COLOR:
        return ""
    surface: Counter[Color] = Counter()
    for shape in item.shapes():
        surface[shape.color] += 0 if shape.width else _area(shape)
    ((color, _),) = surface.most_common(1)
    return min(_WORDS, key=lambda word: min(_distance(color, own) for own in _WORDS[word]))


def _area(shape: Shape) -> float:
    x, y = shape.points.T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


def _distance(one: Color, other: Color) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))
