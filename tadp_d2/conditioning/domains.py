"""Caption modifiers M(P): what is said about the target domain around an image's caption.

A modifier is data: a template, and for two of them an artifact that makes its words mean
something. Adding a domain is adding a row to `MODIFIERS`, or writing a template into a config.
Filling templates in is not done here.
"""

import re
from dataclasses import dataclass
from typing import Literal

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


# Target domain -> name -> modifier (TADP, section 4.3 and supplement).
MODIFIERS: dict[str, dict[str, Modifier]] = {
    "watercolor": _art("watercolor"),
    "comic": _art("comic"),
    "night": _table(
        simple=f"a dark night photo of {SLOT}",
        textual_inversion=f"a dark <night> photo of {SLOT}",
        dreambooth=f"a dashcam photo of {SLOT} at sks night",
        nearby=f"a foggy photo of {SLOT}",
        unrelated=f"a watercolor painting of {SLOT}",
    ),
}


def get_modifier(domain: str, value: str | None) -> Modifier:
    """The modifier that a config means.

    Args:
        domain: a key of `MODIFIERS`; it does not matter for "null" and for templates.
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
    if domain not in MODIFIERS:
        raise UserError(
            f"TEXT.DOMAIN {domain!r} is unknown: expected one of {', '.join(MODIFIERS)}, or a "
            f"template with {SLOT} as the modifier"
        )
    if value not in MODIFIERS[domain]:
        raise UserError(
            f"unknown modifier {value!r} for domain {domain!r}: expected one of "
            f"{', '.join(MODIFIERS[domain])}, or a template with {SLOT}"
        )
    return MODIFIERS[domain][value]
