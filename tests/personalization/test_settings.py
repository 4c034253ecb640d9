"""Presets say what their sources say, and flags win."""

import pytest

from tadp_d2.errors import UserError
from tadp_d2.personalization.settings import resolve

TOKEN = {"token": "<new>", "init": "word"}
PROMPT = {"prompt": "an image in sks style", "prior_prompt": "a painting"}


@pytest.mark.parametrize(
    "preset, steps, rate, prior", [("paper-text", 1000, 2e-6, 0), ("paper-tables", 1000, 5e-6, 200)]
)
def test_dreambooth_as_in_the_paper(preset, steps, rate, prior):
    settings = resolve("dreambooth", preset, PROMPT)
    assert (settings.steps, settings.rate, settings.prior_images) == (steps, rate, prior)


def test_inversion_as_in_the_paper():
    text, tables = (resolve("invert", preset, TOKEN) for preset in ("paper-text", "paper-tables"))
    assert (text.steps, text.rate, text.learn) == (1000, 5e-4, "style")
    assert (tables.steps, tables.rate, tables.batch, tables.accumulation) == (3000, 5e-4, 1, 4)


def test_the_released_code():
    assert resolve("invert", "released", TOKEN).steps == 3000
    settings = resolve("dreambooth", "released", {})
    assert (settings.rate, settings.prompt) == (5e-6, "an image in sks style")
    assert settings.prior_images == 0


def test_explicit_settings_win():
    settings = resolve("invert", "paper-tables", {**TOKEN, "steps": 7, "rate": None, "seed": 0})
    assert (settings.steps, settings.rate, settings.accumulation) == (7, 5e-4, 4)


@pytest.mark.parametrize(
    "method, given, message",
    [
        ("invert", {**TOKEN, "steps": 0}, "--steps 0: expected at least 1"),
        ("invert", {**TOKEN, "rate": float("nan")}, "--rate nan: expected a number above 0"),
        ("invert", {**TOKEN, "vectors": 0}, "--vectors 0: expected at least 1"),
        ("invert", {"token": "<new>"}, "--init is missing"),
        ("dreambooth", {}, "--prompt is missing, and preset paper-text does not set it"),
        ("dreambooth", {"prompt": " "}, "--prompt  : expected a text"),
        ("dreambooth", {"prompt": "a", "prior_images": 2}, "2 prior images need --prior-prompt"),
        ("dreambooth", {**PROMPT, "lora": 4, "train_text_encoder": True}, "--lora trains the UNet"),
    ],
)
def test_a_wrong_setting_is_an_error(method, given, message):
    with pytest.raises(UserError, match=message):
        resolve(method, "paper-text", given)
