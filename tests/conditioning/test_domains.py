"""The modifiers are those of the paper, and a wrong one is said."""

import pytest

from tadp_d2.conditioning.domains import DOMAINS, get_modifier
from tadp_d2.errors import UserError


@pytest.mark.parametrize(
    "domain, name, prompt",
    [
        ("watercolor", "null", "a dog and a bird"),
        # The example of the paper.
        ("watercolor", "simple", "a watercolor style painting of a dog and a bird"),
        ("watercolor", "ti", "a <watercolor> style painting of a dog and a bird"),
        ("watercolor", "dreambooth", "a sks style painting of a dog and a bird"),
        ("watercolor", "nearby", "a constructivism painting of a dog and a bird"),
        ("watercolor", "unrelated", "a dashcam photo of a dog and a bird"),
        ("comic", "simple", "a comic style painting of a dog and a bird"),
        ("comic", "ti", "a <comic> style painting of a dog and a bird"),
        ("night", "simple", "a dark night photo of a dog and a bird"),
        ("night", "ti", "a dark <night> photo of a dog and a bird"),
        ("night", "dreambooth", "a dashcam photo of a dog and a bird at sks night"),
        ("night", "nearby", "a foggy photo of a dog and a bird"),
        ("night", "unrelated", "a watercolor painting of a dog and a bird"),
    ],
)
def test_prompts_of_the_paper(domain, name, prompt):
    modifier = get_modifier(domain, name)
    assert modifier.name == name
    assert modifier.template.replace("{caption}", "a dog and a bird") == prompt


def test_every_domain_has_the_six():
    names = ["null", "simple", "ti", "dreambooth", "nearby", "unrelated"]
    tables = [domain.modifiers for domain in DOMAINS.values()]
    assert all(list(table) == names for table in tables)
    for table in tables:
        assert {name: m.needs for name, m in table.items() if m.needs} == {
            "ti": "token",
            "dreambooth": "unet",
        }


def test_null_needs_no_domain_and_yaml_reads_it_as_none():
    assert get_modifier("", "null") == get_modifier("", None) == DOMAINS["comic"].modifiers["null"]


def test_a_template_needs_no_domain():
    modifier = get_modifier("", "a charcoal sketch of {caption}")
    assert (modifier.name, modifier.template) == ("template", "a charcoal sketch of {caption}")


@pytest.mark.parametrize(
    "domain, value, message",
    [
        ("comic", "simpel", "unknown modifier 'simpel'.*null, simple, ti"),
        ("oil", "simple", "TEXT.DOMAIN 'oil' is unknown.*watercolor, comic, night"),
        ("comic", "a sketch of", "exactly one {caption}"),
        ("comic", "{caption} and {caption}", "exactly one {caption}"),
        ("comic", "{caption} in {style}", "exactly one {caption}"),
    ],
)
def test_a_wrong_modifier_is_an_error(domain, value, message):
    with pytest.raises(UserError, match=message):
        get_modifier(domain, value)
