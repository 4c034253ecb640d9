"""The tiny CLIP is one in the eyes of transformers, and knows what its recipe states."""

import json
import re

import pytest
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from tadp_d2.data.texts import read_captions
from tadp_d2.files import sha256
from tadp_d2.synthetic.data_folder import CLIP_FOLDER
from tadp_d2.synthetic.drawing.rooms import KINDS
from tadp_d2.synthetic.tiny_clip import WEIGHTS, measure


@pytest.fixture(scope="module")
def folder(world):
    return world / CLIP_FOLDER


def test_it_is_as_accurate_as_its_recipe_states(folder):
    """On the first of the images that it was measured on, within three standard deviations."""
    recipe = json.loads((folder / "recipe.json").read_text())
    assert sha256(folder / WEIGHTS) == recipe["sha256"]
    stated = recipe["zero-shot accuracy"]
    found = measure(folder, count=15)
    assert {asked: own["images"] for asked, own in found.items()} == {
        "class, of scenes with one": 6,
        "class, of scenes with several": 3,
        "place": 9,
        "room": 3,
        "style": 15,
    }
    chances = {asked: own["chance"] for asked, own in found.items()}
    assert chances.pop("class, of scenes with several") > 2 / 6
    assert chances == pytest.approx(
        {"class, of scenes with one": 1 / 6, "place": 1 / 4, "room": 1 / 12, "style": 1 / 6},
        abs=1e-4,
    )
    assert all(0 <= own["accuracy"] <= 1 for own in found.values())
    for asked, own in found.items():
        share = stated[asked]["accuracy"]
        spread = (share * (1 - share) / own["images"]) ** 0.5
        assert own["accuracy"] >= share - 3 * spread - 1e-9, asked
        assert share > 2 * stated[asked]["chance"] or "several" in asked


def test_its_text_encoder_is_causal_and_reads_77_tokens(folder):
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    encoder = CLIPTextModel.from_pretrained(folder).eval()
    assert encoder.config.max_position_embeddings == tokenizer.model_max_length == 77
    one, other = (
        encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        for text in ("a dog and a cat", "a dog and a bird in a park")
    )
    same = (one[:5] - other[:5]).abs().amax(1)
    assert same.max() < 1e-4 < (one[5] - other[5]).abs().max()
    model = CLIPModel.from_pretrained(folder)
    assert model.config.text_config.hidden_size == encoder.config.hidden_size


def test_every_word_of_captions_expressions_and_rooms_is_one_token(folder, world):
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    texts = [*KINDS]
    for path in (world / "captions").iterdir():
        texts += read_captions(path).captions.values()
    texts += ["the left dog", "the small cat in the middle", "the bird in the air"]
    for text in texts:
        assert len(tokenizer.tokenize(text)) == len(re.findall(r"\w+|[^\w\s]", text)), text
