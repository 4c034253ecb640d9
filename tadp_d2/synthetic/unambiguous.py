"""Expressions that refer to exactly one object of a scene: by class, color, place or size.

They are as terse as most of RefCOCO's: "left dog", "dog on left". Clear differences only: of two
dogs, one is the left one if their middles are a tenth of the image apart.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from tadp_d2.synthetic.drawing.color_words import clothes_word, color_word
from tadp_d2.synthetic.drawing.scenes import Scene, SceneObject

# Share of the image's width by which places differ.
_APART = 0.1
# Ratio by which sizes differ.
_LARGER = 1.4


def expressions(scene: Scene) -> dict[int, list[str]]:
    """Index of an object of the scene -> the expressions that are true of it and of no other."""
    true_of: dict[str, list[int]] = defaultdict(list)
    for index, one in enumerate(scene.objects):
        for text in _true_of(one, scene):
            true_of[text].append(index)
    found: dict[int, list[str]] = defaultdict(list)
    for text, indices in true_of.items():
        if len(indices) == 1:
            found[indices[0]].append(text)
    return dict(found)


def _true_of(one: SceneObject, scene: Scene) -> Iterator[str]:
    name, apart = one.name, _APART * scene.width
    others = [o for o in scene.objects if o.name == name and o is not one]
    yield name
    if not others:
        yield f"a {name}"
        return
    yield from _colored(one, others)
    gaps = [other.x - one.x for other in others]
    if min(gaps) >= apart:
        yield from (f"left {name}", f"{name} on left")
    if max(gaps) <= -apart:
        yield from (f"right {name}", f"{name} on right")
    if len(gaps) == 2 and min(gaps) <= -apart and max(gaps) >= apart:
        yield f"{name} in middle"
    ratios = [one.size / other.size for other in others]
    if min(ratios) >= _LARGER:
        yield f"large {name}"
    if max(ratios) <= 1 / _LARGER:
        yield f"small {name}"
    if {o.grounded for o in (one, *others)} == {True, False}:
        yield f"{name} {'on ground' if one.grounded else 'in air'}"
    yield from _beside(one, scene.objects, apart)


def _colored(one: SceneObject, others: Sequence[SceneObject]) -> Iterator[str]:
    """The color of an animal or car, or what a person wears, if no other has that color."""
    for word, forms in (
        (color_word, (f"{{}} {one.name}",)),
        (clothes_word, ("person in {}", "{} person")),
    ):
        own = word(one)
        if own and own not in map(word, others):
            yield from (form.format(own) for form in forms)


def _beside(one: SceneObject, objects: Sequence[SceneObject], apart: float) -> Iterator[str]:
    """Places beside an object of another class that occurs once."""
    counts = Counter(o.name for o in objects)
    for anchor in objects:
        if anchor.name == one.name or counts[anchor.name] > 1:
            continue
        for side, distance in (("left", anchor.x - one.x), ("right", one.x - anchor.x)):
            text = f"{one.name} {side} of {anchor.name}"
            if distance >= apart:
                yield text
            elif distance > -apart:
                # Neither clearly there nor clearly not: said twice, it refers to no single object.
                yield from (text, text)
