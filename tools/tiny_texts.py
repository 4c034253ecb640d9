"""What can be said about an image: in varied wording, and with some of it left out.

Words, not only sentences, are to carry meaning. So some texts are the data sets' captions, and
others name colors, places in the image, stuff or the style alone, or list bare words.
"""

import re

import torch
from tiny_crops import chance, random_index

from tadp_d2.conditioning.domains import DOMAINS, SLOT
from tadp_d2.conditioning.templates import TEMPLATES
from tadp_d2.data.datasets.cityscapes_categories import CLASSES as CITYSCAPES
from tadp_d2.data.datasets.nyu_categories import ROOMS
from tadp_d2.data.datasets.voc_categories import STUFF, THINGS
from tadp_d2.synthetic.drawing.rooms import KINDS
from tadp_d2.synthetic.drawing.scenes import place, sentence
from tadp_d2.synthetic.sentences import counted, listed, plural
from tadp_d2.synthetic.training_samples import STYLE_TEMPLATES, BoxedThing

# Ways to name a style, beside its template in the data sets' captions, which is used half of the
# time.
WORDINGS = {
    "photo": ("a photograph of {}", "{}, a photo"),
    "watercolor": ("a watercolor painting of {}", "a watercolor of {}", "{} in watercolor"),
    "comic": ("a comic of {}", "a comic book picture of {}", "{} as a comic"),
    "day": ("a photo of {} by day", "{} by day"),
    "foggy": ("{} in fog", "a photo of {} on a foggy day"),
    "night": ("{} at night", "a photo of {} in the dark"),
}
# What stands around in a scene, beside the sky.
AROUND = {
    "park": ("trees", "grass", "a path", "hills"),
    "street": ("buildings", "a road", "a pavement"),
    "beach": ("sand", "sea", "parasols"),
    "meadow": ("grass", "hills", "a fence"),
}
STYLED, STYLE_ALONE, EMPTY = 0.55, 0.04, 0.08
# Shares of the forms of a text; the rest are the caption's own form.
COLORED, PLACED, REFERRING, BARE, SETTING = 0.12, 0.12, 0.08, 0.12, 0.06
# A thing is left out of a text, or its surroundings are put in.
LEFT_OUT, SURROUNDED = 0.25, 0.25
# Where the middle of a thing is on the left, on the right; how far apart two sides are.
LEFT, RIGHT, APART = 0.38, 0.62, 0.15
# Height of what is called small, and large, as shares of the image.
SMALL, LARGE = 0.22, 0.5


def caption(image: dict, things: list[BoxedThing] | None) -> str:
    """The data sets' sentence about an image, or about the things of a crop of it."""
    if things is None:
        return image["caption"]
    names = [thing.name for thing in things]
    return sentence(names, image["setting"] or "street")


def varied(image: dict, things: list[BoxedThing], mirrored: bool, whole: bool) -> str:
    """A text about an image or a crop of it, without the style.

    Args:
        image: as `kept_samples` returns it.
        things: of a scene or street, within the crop; boxes as shares of the crop.
        mirrored: whether it is the mirror image.
        whole: whether it is no crop.
    """
    where = _where(image)
    form = _uniform()
    for share, make in (
        (COLORED, lambda: _colored(things, where)),
        (PLACED, lambda: _placed(things, whole)),
        (REFERRING, lambda: _expression(image, mirrored) if whole else ""),
        (BARE, lambda: _bare(image, things)),
        (SETTING, lambda: _setting(image)),
    ):
        form -= share
        if form < 0:
            return make() or _plain(image, things, where, whole)
    return _plain(image, things, where, whole)


def styled(text: str, style: str) -> str:
    """The text with the style's name around it or alone, without it, or nothing."""
    form = _uniform()
    if form < EMPTY:
        return ""
    ways = (STYLE_TEMPLATES[style].replace(SLOT, "{}"), *WORDINGS[style])
    template = ways[0] if chance(0.5) else _one_of(ways)
    if form < EMPTY + STYLE_ALONE:
        return template.replace(" of {}", "").replace("{} ", "").replace("{}, ", "")
    return template.format(text) if form < EMPTY + STYLE_ALONE + STYLED else text


def vocabulary(images: list[dict]) -> set[str]:
    """What the tokenizer learns its words from: every word that any of the texts can hold.

    And the names of the classes and rooms, and the words of all modifiers and templates.
    """
    told = {
        text
        for image in images
        for text in (image["caption"], *image["expressions"], *(t[5] for t in image["things"]))
    }
    nouns = {phrase.split(" ", 1)[-1] for image in images for phrase in _phrases(image)}
    nouns |= {thing[0] for image in images for thing in image["things"]}
    told |= nouns | {plural(noun) for noun in nouns if not noun.endswith("s") and noun != "people"}
    told |= {template for ways in WORDINGS.values() for template in ways}
    told |= {phrase for ways in AROUND.values() for phrase in ways}
    told |= {modifier.template for d in DOMAINS.values() for modifier in d.modifiers.values()}
    told |= {template for ways in TEMPLATES.values() for template in ways}
    told |= {*STYLE_TEMPLATES.values(), *ROOMS, *KINDS, *THINGS, *STUFF, *CITYSCAPES}
    told |= {"left right middle air ground small large of the on in to a an no the and with sks"}
    told |= {"one two three four five six seven eight sky trees hill hills above below"}
    # Words, without learned tokens; each becomes one token.
    words = {word for text in told for word in re.findall(r"[^\W\d_]+", text)}
    return words - {"caption", SLOT}


# --- forms --------------------------------------------------------------------------------------


def _plain(image: dict, things: list[BoxedThing], where: str, whole: bool) -> str:
    """The caption, often with things left out, in another order or with what is around."""
    if whole and chance(0.4):
        return image["caption"]
    if image["setting"] in KINDS or not things:
        phrases = [phrase for phrase in _phrases(image) if not chance(LEFT_OUT)]
        if image["setting"] in KINDS:
            return " with ".join(filter(None, [where[3:], _list(_shuffled(phrases))]))
        return f"{_list(_shuffled(phrases))} {where}".strip()
    names = [thing.name for thing in things if not chance(LEFT_OUT)] or [things[0].name]
    counts = [counted(names.count(name), name) for name in _shuffled(list(dict.fromkeys(names)))]
    text = f"{_list(counts)} {where}" if chance(0.8) else _list(counts)
    if chance(SURROUNDED) and whole:
        text += f" with {_list(_shuffled(_around(image))[: 1 + random_index(2)])}"
    return text


def _colored(things: list[BoxedThing], where: str) -> str:
    parts = [
        f"{_article(thing.color or thing.name)} {f'{thing.color} {thing.name}'.strip()}"
        for thing in _shuffled(things)
        if not chance(LEFT_OUT)
    ]
    return f"{_list(parts)} {where}" if parts and chance(0.6) else _list(parts)


def _placed(things: list[BoxedThing], whole: bool) -> str:
    """Where things are in the image, or beside each other, or how large they are."""
    if not things:
        return ""
    one, *others = _shuffled(things)
    middle = (one.left + one.right) / 2
    height = one.bottom - one.top
    if whole and chance(0.3) and not SMALL < height < LARGE:
        return f"a {'small' if height <= SMALL else 'large'} {one.name}"
    if others and chance(0.5):
        gap = (others[0].left + others[0].right) / 2 - middle
        if abs(gap) > APART:
            side = "left" if gap > 0 else "right"
            a, b = counted(1, one.name), counted(1, others[0].name)
            return f"{a} {side} of {b}" if chance(0.5) else f"{a} to the {side} of {b}"
    side = "on the left" if middle < LEFT else "on the right" if middle > RIGHT else "in the middle"
    return f"{counted(1, one.name)} {side}"


def _expression(image: dict, mirrored: bool) -> str:
    if not image["expressions"]:
        return ""
    text = _one_of(image["expressions"])
    if not mirrored:
        return text
    return re.sub(r"\bleft\b|\bright\b", lambda m: {"left": "right"}.get(m[0], "left"), text)


def _bare(image: dict, things: list[BoxedThing]) -> str:
    """Names without a sentence, as an oracle lists them; often a single one."""
    names = list(dict.fromkeys(thing.name for thing in things))
    if not names or chance(0.3):
        names += [phrase.removeprefix("a ").removeprefix("an ") for phrase in _around(image)]
    names = _shuffled(names)
    return " ".join(names[:1] if chance(0.5) else names[: 1 + random_index(4)])


def _setting(image: dict) -> str:
    setting = image["setting"] or "street"
    text = counted(1, setting)
    around = _around(image)
    return f"{text} with {_list(_shuffled(around)[:2])}" if chance(0.5) and around else text


def _where(image: dict) -> str:
    setting = image["setting"] or "street"
    return f"in {counted(1, setting)}" if setting in KINDS else place(setting)


def _phrases(image: dict) -> list[str]:
    """The counted things that the caption of a street or room names, and of a scene all of it."""
    head, _, tail = image["caption"].partition(" with ")
    if image["setting"] in KINDS:
        return _split(tail)
    things = head.removesuffix(_where(image)).strip()
    return _split(things) if things != "a street" else []


def _around(image: dict) -> list[str]:
    if image["setting"] in AROUND:
        return [*AROUND[image["setting"]], "sky"]
    return _split(image["caption"].partition(" with ")[2])


def _split(phrases: str) -> list[str]:
    return [phrase for phrase in re.split(", | and ", phrases) if phrase]


def _list(parts: list[str]) -> str:
    return listed(parts) if parts else ""


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _shuffled(items: list) -> list:
    items = list(items)
    for last in range(len(items) - 1, 0, -1):
        other = random_index(last + 1)
        items[last], items[other] = items[other], items[last]
    return items


def _one_of(items):
    return items[random_index(len(items))]


def _uniform() -> float:
    return float(torch.rand(()))
