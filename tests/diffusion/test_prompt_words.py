"""Tokens are joined to words."""

import pytest
import torch

from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.diffusion.prompt_words import Word, find_words, join_words
from tadp_d2.diffusion.tokens import add_token


@pytest.fixture(scope="module")
def tokenizer(model_folder):
    text = TextEncoder.from_pretrained(model_folder)
    for token, count in (("<new>", 3), ("<one>", 1)):
        vectors = torch.zeros(count, text.text_encoder.module.config.hidden_size)
        add_token(token, vectors, text.tokenizer, text.text_encoder.module)
    return text.tokenizer


def test_words_are_the_prompts_and_their_positions_its_tokens(tokenizer):
    prompt = "A zebra, two dogs in a café"
    words = find_words(prompt, tokenizer)
    assert [word.text for word in words] == ["a", "zebra", ",", "two", "dogs", "in", "a", "café"]
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(prompt).input_ids)
    # All tokens but the first and the last, which are those of the text's start and end.
    assert [i for word in words for i in word.positions] == list(range(1, len(tokens) - 1))
    pieces = ["".join(tokens[i] for i in word.positions) for word in words[:7]]
    assert pieces == ["a</w>", "zebra</w>", ",</w>", "two</w>", "dogs</w>", "in</w>", "a</w>"]
    assert len(words[1].positions) > 1
    assert find_words("", tokenizer) == []


def test_a_learned_token_is_a_word_however_many_vectors_it_has(tokenizer):
    words = find_words("a <new> <new>_1 <new>_2 style <one> <one> <new> x", tokenizer)
    assert words == [
        Word("a", (1,)),
        Word("<new>", (2, 3, 4)),
        Word("style", (5,)),
        Word("<one>", (6,)),
        Word("<one>", (7,)),
        Word("<new>", (8,)),
        Word("x", (9,)),
    ]


def test_words_are_the_same_whatever_the_case_of_a_token_and_without_brackets(model_folder):
    found = []
    for name in ("<water>", "<Water>", "Blorp"):
        text = TextEncoder.from_pretrained(model_folder)
        width = text.text_encoder.module.config.hidden_size
        add_token(name, torch.zeros(2, width), text.tokenizer, text.text_encoder.module)
        prompt = f"a {name} {name}_1 style, {name.upper()} {name}_1 zebra"
        words = find_words(prompt, text.tokenizer)
        assert words[1].text == words[4].text == name.lower()
        found.append([word.positions for word in words])
    assert found[0] == found[1] == found[2]
    assert found[0][:5] == [(1,), (2, 3), (4,), (5,), (6, 7)]


def test_a_words_map_is_the_mean_over_its_tokens():
    maps = torch.tensor([[[9.0, 9.0]], [[1, 0]], [[0.25, 0.5]], [[0.75, 1.0]]])
    joined = join_words(maps, [Word("dog", (1,)), Word("zebra", (2, 3))])
    assert joined.tolist() == [[[1, 0]], [[0.5, 0.75]]]
