"""What the rules make of captions: exact texts, and what holds for all of them."""

import random
import re
from pathlib import Path

import pytest

from tadp_d2.captioning.rules import (
    NEUTRAL,
    content_words,
    remove_style,
    style_words_left,
)
from tadp_d2.conditioning.domains import DOMAINS
from tadp_d2.data.texts import read_captions
from tadp_d2.errors import UserError

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "tadp_captions"

ART = {
    # The frame of a caption goes, with what qualifies it.
    "a watercolor painting of a dog and a bird": "a dog and a bird",
    "a portrait of woman": "woman",
    "a watercolor of an old man": "an old man",
    "- - a depiction of a baby wearing a blue hat": "a baby wearing a blue hat",
    "a black and white pencil drawing of a bicycle": "a bicycle",
    "two sketches of a woman laying on a bed": "a woman laying on a bed",
    "a series of paintings of different women": "different women",
    "a comic book style drawing of a superhero": "a superhero",
    "an ink and watercolour illustration of a house": "a house",
    "a watercolor-style picture of a bird": "a bird",
    "a poster with birds flying in the sky": "birds flying in the sky",
    "an artwork depicting a dog running": "a dog running",
    "this is a painting of a dog": "this is a dog",
    "a photo of a painting of a dog": "a photo of a dog",
    "a painting by picasso of a woman": "a woman",
    "a  WATER-COLOR   Painting of a dog ": "a dog",
    # So do medium, style and artist, wherever they stand.
    "two men in suits are shown in watercolor": "two men in suits",
    "a woman is in a painting": "a woman",
    "a dog in the style of van gogh": "a dog",
    "a dog in the style of a comic, on a rock": "a dog, on a rock",
    "a dog and a bird, in watercolor": "a dog and a bird",
    "a couple painting on a canvas in the field": "a couple in the field",
    "fashion illustration by Julia Kim": "fashion",
    "a dog - watercolor painting by john smith": "a dog",
    "hummingbird watercolor painting": "hummingbird",
    "sun conure painting - sun conure fine art print": "sun conure",
    # Adjectives go, and articles fit what follows.
    "a painted dog": "a dog",
    "an illustrated elephant": "an elephant",
    "a watercolor orange": "an orange",
    "an anime girl with blue hair": "a girl with blue hair",
    "a brightly painted bus": "a bus",
    "an illustrated unicorn and a cartoon hour glass": "a unicorn and an hour glass",
    "two birds with yellow paint splatters": "two birds with yellow splatters",
    # What names a thing in the scene gives way to the neutral word for it.
    "a dog looking at a painting on the wall": "a dog looking at a picture on the wall",
    "an illustration hanging on a wall": "a picture hanging on a wall",
    "a room with posters": "a room with pictures",
    "a watercolor painting hanging on a wall": "a picture hanging on a wall",
    'the words "comic art" on a sign': 'the words "pictures" on a sign',
    "a man is drawing with a pen": "a man with a pen",
    "a cartoon bearded man": "a bearded man",
    "a person holding a painting of a bird": "a person holding a picture of a bird",
    "a sketchbook with drawings of people": "a book with pictures of people",
    "an artist painting a portrait": "a person with a picture",
    "a photo of an artist's studio": "a photo of a person's studio",
    "a woman with red paint on her face": "a woman with red color on her face",
    # Deeds.
    "a man painting in a field": "a man in a field",
    "a person painting a bird on paper": "a person with a bird on paper",
    "people drawing pictures": "people with pictures",
    # Content stays although it holds such a word.
    "two men practicing martial arts": "two men practicing martial arts",
    "a horse-drawn carriage": "a horse-drawn carriage",
    "a man with a toothbrush and fingerprints": "a man with a toothbrush and fingerprints",
    # So does what says nothing of the domain.
    "an image of a woman walking in the rain": "an image of a woman walking in the rain",
    "a boy with a headband on": "a boy with a headband on",
    "an SUV and a European car": "an SUV and a European car",
    # A caption is never empty.
    "a watercolor painting": NEUTRAL,
    "comics": NEUTRAL,
    "": NEUTRAL,
    "- ": NEUTRAL,
}
NIGHT = {
    "a city street at night": "a city street",
    "a building lit up at night": "a building lit up",
    "a night photo of a city": "a photo of a city",
    "a car driving down a dark street late at night": "a car driving down a street",
    "a street light and traffic lights in the dark": "a street light and traffic lights",
    "a night-time view of a highway": "a view of a highway",
    "a very dark image of a city street": "an image of a city street",
    "a dark and rainy street": "a rainy street",
    "a cold and dark street": "a cold street",
    "a car driving on a rainy night": "a car driving in rainy weather",
    "a car in the middle of the night": "a car",
    "a dimly lit alley": "an alley",
    "a dark orange car": "an orange car",
    "the street is dark": "the street",
    "the street is dark with cars": "the street with cars",
    "a street at night with lights": "a street with lights",
    "a photo taken at night": "a photo",
    "a dark blue car and a night club": "a dark blue car and a night club",
    "a painting of a street": "a painting of a street",
    "nighttime": NEUTRAL,
    "it is dark outside": NEUTRAL,
}


@pytest.mark.parametrize("domain", ["watercolor", "comic"])
@pytest.mark.parametrize(("text", "expected"), ART.items())
def test_works_of_art(domain, text, expected):
    assert remove_style(text, domain) == expected


@pytest.mark.parametrize(("text", "expected"), NIGHT.items())
def test_the_night(text, expected):
    assert remove_style(text, "night") == expected


@pytest.mark.parametrize("name", ["simple", "null"])
@pytest.mark.parametrize("domain", DOMAINS)
def test_the_papers_own_prompts_are_cleaned(domain, name):
    prompt = DOMAINS[domain].modifiers[name].template.format(caption="a dog and a bird")
    expected = "a photo of a dog and a bird" if (domain, name) == ("night", "simple") else None
    assert remove_style(prompt, domain) == (expected or "a dog and a bird")


@pytest.mark.parametrize("word", ["dark", "Nighttime", "night-time", "nights", "night's"])
def test_style_words_are_found_in_any_form(word):
    assert style_words_left(f"a {word} street", "night") == [word.lower()]


def test_style_words_are_whole_words():
    assert style_words_left("a WATER-color and Sketches, in comics", "comic") == [
        *("water-color", "sketches", "comics"),
    ]
    assert style_words_left("a cart in a party, toothbrush, martial arts", "comic") == []
    assert style_words_left("street lights, a knight, a nightingale, dark hair", "night") == []


@pytest.mark.parametrize("domain", DOMAINS)
def test_whatever_the_words_none_of_the_domain_is_left_and_again_changes_nothing(domain):
    seed = 7
    print("seed", seed)
    draw = random.Random(seed)
    tables = " | ".join(DOMAINS[domain].words.words.values()).replace("~", draw.choice(" -"))
    style = [" ".join(word.split()) for word in tables.split("|") if word.strip()]
    plain = ["a", "an", "the", "of", "in", "by", "with", "dog", "red", "bird's", "and", "sitting"]
    plain += ["-", ",", ".", "on", "is", "orange", "light"]
    neutral = {"picture", "pictures", "color", "colors", "person", "people", "book", "books"}
    neutral |= {"tool", "stand", "stroke", "weather"}
    for _ in range(1500):
        text = " ".join(draw.choices([*style, *plain * 3], k=draw.randint(1, 12)))
        cleaned = remove_style(text, domain)
        assert style_words_left(cleaned, domain) == [], text
        assert remove_style(cleaned, domain) == cleaned, text
        assert cleaned and cleaned == " ".join(cleaned.split()), text
        # Nothing is brought in but the neutral words.
        brought = content_words(cleaned, domain) - content_words(text, domain)
        assert brought <= neutral, text


def test_an_unknown_domain_is_named():
    for function in (remove_style, style_words_left, content_words):
        with pytest.raises(UserError, match="unknown domain 'oil': .* watercolor, comic, night"):
            function("a dog", "oil")


# All that cleaning the published captions takes away besides the domain's words: what qualifies a
# work of art, and who made it.
TAKEN = {
    *("digital", "pencil", "black", "white", "different", "series", "colorful", "effect", "shown"),
    *("julia", "kim", "katie", "klipp", "krishna", "kumar", "kitty", "julie", "mcclure"),
}


@pytest.mark.parametrize(
    ("name", "domain", "count", "styled", "taken"),
    [
        ("watercolor", "watercolor", 1000, 305, TAKEN),
        ("dark_zurich_val", "night", 50, 2, set()),
        ("nighttime_driving", "night", 50, 0, set()),
    ],
)
def test_the_published_captions(name, domain, count, styled, taken):
    path = PUBLISHED / f"{name}_captions.json"
    if not path.exists():
        pytest.skip(f"{path} is not part of the repository")
    captions = read_captions(path, "raw").captions.values()
    assert len(captions) == count
    assert sum(bool(style_words_left(raw, domain)) for raw in captions) == styled
    lost = set()
    for raw in captions:
        cleaned = remove_style(raw, domain)
        assert style_words_left(cleaned, domain) == []
        assert remove_style(cleaned, domain) == cleaned
        if not style_words_left(raw, domain):
            assert cleaned == re.sub(r"^- ", "", " ".join(raw.split()))
        assert not re.search(r"^[-\s]|\s$|\s\s|\b(a|an|the|of|with|in)$", cleaned), cleaned
        assert not re.search(r"\ba [aeiou]|\ban [^aeiouAEIOU]", cleaned), cleaned
        lost |= content_words(raw, domain) - content_words(cleaned, domain)
    assert lost == taken
