"""Expression -> prompt -> context of chosen length, its padding attended or not."""

import pytest
import torch

from tadp_d2.conditioning.conditioner import build_conditioner, count_context_tokens
from tadp_d2.conditioning.domains import get_modifier
from tadp_d2.conditioning.expression import Expression
from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.errors import UserError

LONG = " ".join(["a dog and a car in a park"] * 20)


@pytest.fixture(scope="module")
def text(model_folder):
    return TextEncoder.from_pretrained(model_folder)


def make(text, modifier="null", **options):
    own = get_modifier("watercolor", modifier)
    return Expression(text, own, own, **options)


def context(conditioner, *expressions):
    return conditioner([{"expression": e} for e in expressions], None, None).context


def test_the_context_is_the_first_tokens_of_clips(text):
    whole = text(["the left dog", "a bird"]).embeddings
    found = context(make(text, length=40), "the left  dog", "a bird")
    assert found.mask is None
    assert torch.equal(found.embeddings, whole[:, :40])
    assert torch.equal(context(make(text), "the left dog", "a bird").embeddings, whole)


def test_padding_is_masked_behind_the_end_token(text):
    found = context(make(text, length=12, attend_padding=False), "the left dog", "a bird")
    ends = [len(text.tokenizer(e).input_ids) for e in ("the left dog", "a bird")]
    assert found.mask.sum(dim=1).tolist() == ends
    assert all(row[:end].all() for row, end in zip(found.mask, ends, strict=True))


def test_vectors_of_words_are_added_where_the_words_are(text):
    width = text([""]).embeddings.shape[-1]
    conditioner = make(text, length=12, vector_width=width)
    plain = text(["left dog", "dog on left"]).embeddings[:, :12]
    assert torch.equal(context(conditioner, "left dog", "dog on left").embeddings, plain)
    (left,) = text.tokenizer("left", add_special_tokens=False).input_ids
    with torch.no_grad():
        conditioner.vectors.weight[left] = torch.arange(width)
    moved = context(conditioner, "left dog", "dog on left").embeddings - plain
    assert moved.abs().sum(dim=-1).nonzero().tolist() == [[0, 1], [1, 3]]
    torch.testing.assert_close(moved[0, 1], torch.arange(width).float(), atol=1e-4, rtol=0)
    moved.sum().backward()
    # The vectors of what was read learn, padding among it; no other does.
    learned = set(conditioner.vectors.weight.grad.any(dim=1).nonzero().flatten().tolist())
    assert learned == {*text.tokenizer("dog on left").input_ids, text.tokenizer.pad_token_id}


def test_the_modifier_stands_around_the_expression(text):
    conditioner = make(text, "simple")
    prompt = conditioner.prompt({"expression": "the left dog"})
    assert prompt == "a watercolor style painting of the left dog"
    expected = text([prompt]).embeddings
    assert torch.equal(context(conditioner, "the left dog").embeddings, expected)


def test_words_beyond_the_length_are_cut_and_the_modifier_is_not(text):
    conditioner = make(text, "simple", length=16)
    prompt = conditioner.prompt({"expression": " ".join(LONG.split()[:20])})
    assert prompt.startswith("a watercolor style painting of a dog and")
    assert len(text.tokenizer(prompt).input_ids) <= 16


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"expression": LONG, "file_name": "7.jpg"}, "for image 7.jpg is .* tokens longer than"),
        ({"expression": " \n", "file_name": "7.jpg"}, "expression for image 7.jpg is empty"),
        ({"caption": "a dog", "file_name": "7.jpg"}, "no expression for image 7.jpg"),
    ],
)
def test_a_wrong_expression_names_its_image(text, inputs, message):
    with pytest.raises(UserError, match=message):
        make(text)([inputs], None, None)


def test_the_config_chooses(make_referring_config):
    cfg = make_referring_config("MODEL.CONDITIONER.LENGTH", 20)
    assert count_context_tokens(cfg) == build_conditioner(cfg).inner.length == 20
    cfg = make_referring_config("MODEL.CONDITIONER.LENGTH", 0)
    assert count_context_tokens(cfg) == 77
    cfg = make_referring_config("MODEL.CONDITIONER.LENGTH", 78)
    with pytest.raises(UserError, match="LENGTH is 78, but the text encoder reads 77"):
        count_context_tokens(cfg)
