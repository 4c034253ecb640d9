"""The trainings of the tiny models: losses, what is read, and that they go on where they were."""

import argparse
import importlib
import math
import sys
from pathlib import Path

import pytest
import torch

from tadp_d2.synthetic.tiny_clip import QUESTIONS, measure
from tadp_d2.synthetic.tiny_tokenizer import make_tokenizer, save_tokenizer
from tadp_d2.synthetic.training_samples import draw_sample

TOOLS = str(Path(__file__).parents[2] / "tools")


@pytest.fixture(scope="module")
def tools():
    sys.path.insert(0, TOOLS)
    try:
        names = ("train_tiny_clip", "train_tiny_diffusion", "tiny_images")
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(TOOLS)


@pytest.fixture(scope="module")
def images(tools):
    samples = [draw_sample(index, 9, "photo") for index in range(4)]
    return [
        {**sample._asdict(), "image": tools[2].to_tensor(sample.image), "things": [*sample.things]}
        for sample in samples
    ]


def test_equal_texts_belong_to_each_others_images_and_empty_ones_to_none(tools):
    contrast = tools[0].contrast
    scores = torch.tensor([[3.0, 1, 0, 9], [0, 2, 1, 9], [1, 1, 4, 9], [9, 9, 9, 9]])
    a, b = (
        lambda row, own: (
            math.log(sum(math.exp(s) for s in row)) - sum(row[i] for i in own) / len(own)
        )
        for _ in range(2)
    )
    rows, columns = scores[:3, :3].tolist(), scores.T[:3].tolist()
    # The first and the last text read alike; the fourth image has no text but is still an image.
    by_image = a(rows[0], (0, 2)) + a(rows[1], (1,)) + a(rows[2], (0, 2))
    by_text = b(columns[0], (0, 2)) + b(columns[1], (1,)) + b(columns[2], (0, 2))
    found = contrast(scores, ["a dog", "a cat", "a dog", ""])
    assert found.item() == pytest.approx((by_image + by_text) / 6, rel=1e-5)


@pytest.mark.exhaustive
def test_clip_goes_on_where_it_was(tools, images, tmp_path):
    clip = tools[0]
    tokenizer = make_tokenizer({image["caption"] for image in images})

    def advance(learner, steps):
        for _ in range(steps):
            learner.update(clip.draw_batch(images, 3, close=0.5))

    torch.manual_seed(0)
    learner = clip.Learner(tokenizer, 4, 1e-3)
    advance(learner, 1)
    learner.save(tmp_path / "state.pt")
    advance(learner, 2)
    again = clip.Learner(tokenizer, 4, 1e-3)
    again.load(tmp_path / "state.pt")
    advance(again, 2)
    assert again.losses == learner.losses
    # An embedding does not depend on what it is computed beside.
    texts = ["a dog", "two cars on a street", ""]
    with torch.no_grad():
        together, alone = learner.embed(texts), torch.cat([learner.embed([t]) for t in texts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_an_answer_is_as_good_as_any_other_that_is_true(tools):
    scores = torch.tensor([[1.0, 2, 3], [3, 2, 1]])
    totals = [math.log(sum(math.exp(s) for s in row)) for row in scores.tolist()]
    expected = ((totals[0] - 2) + (totals[1] - (3 + 1) / 2)) / 2
    found = tools[0].answer(scores, ["a", "b", "c"], [{"b"}, {"a", "c"}])
    assert found.item() == pytest.approx(expected, rel=1e-6)


@pytest.fixture(scope="module")
def clip_folder(tools, images, tmp_path_factory):
    """A CLIP of random weights."""
    folder = tmp_path_factory.mktemp("clip")
    answers = {text for texts in QUESTIONS.values() for text in texts.values()}
    tokenizer = make_tokenizer({*answers, *(image["caption"] for image in images)})
    torch.manual_seed(0)
    tools[0].make_clip(tokenizer).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


@pytest.mark.exhaustive
def test_accuracy_is_measured_on_images_of_every_kind(clip_folder):
    found = measure(clip_folder, count=15)
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


@pytest.mark.exhaustive
def test_the_unet_sees_words_alone_in_a_share_of_the_batches(tools, clip_folder):
    diffusion = tools[1]
    args = argparse.Namespace(device="cpu", rate=1e-3, steps=2)
    unet = diffusion.make_unet(128)
    learner = diffusion.Learner(clip_folder, unet, args)
    prompts = ["a dog in a park", "", "a photo"]
    seen = learner.read(prompts, words_alone=True)["encoder_attention_mask"]
    # Start, five words, end and padding; an empty text has its start.
    assert [row.nonzero()[:, 0].tolist() for row in seen] == [[1, 2, 3, 4, 5], [0], [1, 2]]
    assert list(learner.read(prompts, words_alone=False)) == ["encoder_hidden_states"]
    before = {name: p.clone() for name, p in learner.text_encoder.named_parameters()}
    torch.manual_seed(0)
    learner.update(torch.randn(3, 4, 8, 8), prompts)
    assert all(torch.equal(p, before[name]) for name, p in learner.text_encoder.named_parameters())
    # What is not seen changes nothing.
    read = learner.read(prompts, words_alone=True)
    noisy, times = torch.randn(3, 4, 8, 8), torch.tensor([10, 500, 900])
    with torch.no_grad():
        first = learner.unet(noisy, times, **read).sample
        hidden = read["encoder_hidden_states"]
        hidden[~seen] += 1
        torch.testing.assert_close(learner.unet(noisy, times, **read).sample, first)
