"""Target domains: what a modifier writes around a caption, and what is removed from one.

A domain is a row of `DOMAINS`: its caption modifiers M(P), its words that are removed from captions
by rules, and what a language model is instructed to remove. A modifier is data: a template, and for
two of them an artifact that makes its words mean something. Adding a domain is adding a row; a
template may also be written into a config. Filling templates in and cleaning is not done here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tadp_d2.conditioning.style_words import ART, NIGHT, Grammar
from tadp_d2.errors import UserError

SLOT = "{caption}"
# A learned token in a template.
PLACEHOLDER = re.compile(r"<[^<>\s]+>")


@dataclass(frozen=True)
class Modifier:
    """One caption modifier.

    Attributes:
        name: as in the TADP paper (section 4.3), or "template" for one written into a config.
        template: the prompt, with `{caption}` where the image's caption goes.
        needs: the artifact without which the words mean nothing: a learned token
            (`TEXT.TOKENS`), a fine-tuned UNet (`MODEL.DIFFUSION.UNET`), or none.
    """

    name: str
    template: str
    needs: Literal["token", "unet"] | None = None


def _table(
    simple: str, textual_inversion: str, dreambooth: str, nearby: str, unrelated: str
) -> dict[str, Modifier]:
    modifiers = (
        Modifier("null", SLOT),
        Modifier("simple", simple),
        Modifier("ti", textual_inversion, needs="token"),
        Modifier("dreambooth", dreambooth, needs="unet"),
        Modifier("nearby", nearby),
        Modifier("unrelated", unrelated),
    )
    return {modifier.name: modifier for modifier in modifiers}


def _art(style: str) -> dict[str, Modifier]:
    return _table(
        simple=f"a {style} style painting of {SLOT}",
        textual_inversion=f"a <{style}> style painting of {SLOT}",
        dreambooth=f"a sks style painting of {SLOT}",
        nearby=f"a constructivism painting of {SLOT}",
        unrelated=f"a dashcam photo of {SLOT}",
    )


@dataclass(frozen=True)
class Instruction:
    """The instructions of a domain to a language model that cleans captions.

    Attributes:
        what: is to be removed.
        objects: what stays, because it is a thing in the scene.
        examples: of captions before and after.
    """

    what: str
    objects: str
    examples: str


@dataclass(frozen=True)
class Domain:
    """A target domain.

    Attributes:
        modifiers: by name (TADP, section 4.3 and supplement).
        words: that are removed from captions of the domain.
        instruction: the same for a language model.
    """

    modifiers: Mapping[str, Modifier]
    words: Grammar
    instruction: Instruction


_ART_OBJECTS = (
    "Where such a work is an object in the scene, call it a picture, and call paint a color."
)
_ART_EXAMPLES = (
    '"a watercolor painting of a dog and a bird" becomes "a dog and a bird"; "- a drawing of an '
    'old man" becomes "an old man"; "a woman holding a painting of a cat" becomes "a woman holding '
    'a picture of a cat"'
)
DOMAINS: Mapping[str, Domain] = {
    "watercolor": Domain(
        _art("watercolor"),
        ART,
        Instruction(
            "every mention that the image is a watercolor or any work of art: painting, "
            "drawing, illustration, sketch, portrait, depiction, print, its style, medium and "
            "artist",
            _ART_OBJECTS,
            _ART_EXAMPLES,
        ),
    ),
    "comic": Domain(
        _art("comic"),
        ART,
        Instruction(
            "every mention that the image is a comic or any work of art: cartoon, manga, "
            "drawing, illustration, painting, sketch, poster, its style, medium and artist",
            _ART_OBJECTS,
            _ART_EXAMPLES,
        ),
    ),
    "night": Domain(
        _table(
            simple=f"a dark night photo of {SLOT}",
            textual_inversion=f"a dark <night> photo of {SLOT}",
            dreambooth=f"a dashcam photo of {SLOT} at sks night",
            nearby=f"a foggy photo of {SLOT}",
            unrelated=f"a watercolor painting of {SLOT}",
        ),
        NIGHT,
        Instruction(
            "every mention of the night: the time of day, evening, darkness, dim light",
            "Street lights and traffic lights are objects and stay.",
            '"a dark street at night with street lights" becomes "a street with street lights"; '
            '"a night photo of a car" becomes "a photo of a car"',
        ),
    ),
}


def get_modifier(domain: str, value: str | None) -> Modifier:
    """The modifier that a config means.

    Args:
        domain: a key of `DOMAINS`; it does not matter for "null" and for templates.
        value: a modifier's name, or a template that holds `{caption}`. None, which is how YAML
            reads an unquoted null, means "null".

    Raises:
        UserError: there is no such domain or modifier, or the template has not exactly one slot.
    """
    if value in (None, "null"):
        return Modifier("null", SLOT)
    if "{" in value or " " in value:
        if value.count(SLOT) != 1 or "{" in value.replace(SLOT, ""):
            raise UserError(f"modifier template {value!r}: expected exactly one {SLOT}")
        return Modifier("template", value)
    if domain not in DOMAINS:
        raise UserError(
            f"TEXT.DOMAIN {domain!r} is unknown: expected one of {', '.join(DOMAINS)}, or a "
            f"template with {SLOT} as the modifier"
        )
    if value not in DOMAINS[domain].modifiers:
        raise UserError(
            f"unknown modifier {value!r} for domain {domain!r}: expected one of "
            f"{', '.join(DOMAINS[domain].modifiers)}, or a template with {SLOT}"
        )
    return DOMAINS[domain].modifiers[value]
