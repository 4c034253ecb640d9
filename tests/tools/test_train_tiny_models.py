"""The trainings of the tiny models: losses, what is read, and that they go on where they were."""

import argparse
import importlib
import json
import math
import sys
from pathlib import Path

import pytest
import torch

from tadp_d2.errors import UserError
from tadp_d2.synthetic.tiny_clip import QUESTIONS
from tadp_d2.synthetic.tiny_diffusion import SHIPPED
from tadp_d2.synthetic.tiny_tokenizer import make_tokenizer, save_tokenizer
from tadp_d2.synthetic.training_samples import BoxedThing, draw_sample

TOOLS = str(Path(__file__).parents[2] / "tools")


@pytest.fixture(scope="module")
def tools():
    sys.path.insert(0, TOOLS)
    try:
        names = ("train_tiny_clip", "train_tiny_diffusion", "tiny_images", "tiny_batches")
        names += ("tiny_training",)
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
    found = contrast(scores, torch.tensor([2, 1, 2, -1]))
    assert found.item() == pytest.approx((by_image + by_text) / 6, rel=1e-5)


@pytest.mark.exhaustive
def test_clip_goes_on_where_it_was(tools, images, tmp_path):
    clip, batches = tools[0], tools[3]
    tokenizer = make_tokenizer({image["caption"] for image in images})
    drawn = batches.Batches(lambda step: clip.draw_batch(images, tokenizer, 3, 0.5), 7, steps=3)

    def advance(learner, last, workers=0):
        for batch in batches.load(drawn, len(learner.losses), workers, "cpu"):
            learner.update(batch)
            if len(learner.losses) == last:
                return

    torch.manual_seed(0)
    learner = clip.Learner(tokenizer, 4, 1e-3)
    advance(learner, 1)
    learner.save(tmp_path / "state.pt")
    advance(learner, 3)
    again = clip.Learner(tokenizer, 4, 1e-3)
    again.load(tmp_path / "state.pt")
    # Whichever process draws a batch.
    advance(again, 3, workers=1)
    assert again.losses == learner.losses
    # An embedding does not depend on what it is computed beside.
    texts = ["a dog", "two cars on a street", ""]
    tokens = [clip.tokenized(tokenizer, part) for part in (texts, *([text] for text in texts))]
    with torch.no_grad():
        together, *alone = (learner.embed(own) for own in tokens)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_a_training_of_other_options_does_not_go_on_from_this_one(tools, tmp_path):
    training = tools[4]

    class Counter(training.Learner):
        PARTS = ()

        def update(self, batch):
            self.losses.append(batch)

    def train(steps, unet=None):
        args = argparse.Namespace(
            seed=0, steps=steps, workers=0, device="cpu", work=tmp_path, unet=unet
        )
        learner = Counter("cpu")
        training.train(learner, lambda step: torch.zeros(1), tmp_path / "state.pt", 2, args)
        return len(learner.losses)

    assert train(4) == train(4) == 4
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "a.safetensors").write_text(folder.name)
    for other in ({"steps": 2}, {"steps": 4, "unet": first}):
        with pytest.raises(UserError, match="state.pt: a training of other options.*--work"):
            train(**other)
    (tmp_path / "state.pt").unlink()
    train(4, first)
    with pytest.raises(UserError, match="state.pt: a training of other options"):
        train(4, second)


def test_an_answer_is_as_good_as_any_other_that_is_true(tools):
    truths = [{"place": {"b"}}, {}, {"place": {"a", "c"}, "style": {"d"}}]
    about, shares = tools[0].answered(truths, "place", ["a", "b", "c"])
    assert about.tolist() == [0, 2]
    assert shares.tolist() == [[0, 1, 0], [0.5, 0, 0.5]]
    none, empty = tools[0].answered([{}], "place", ["a", "b"])
    assert (none.shape, empty.shape) == ((0,), (0, 2))


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


def test_the_boxes_of_a_word_are_those_of_its_class(tools, images):
    diffusion = tools[1]
    tokenizer = make_tokenizer({"two dogs and a cat on a street", "a dog"})
    text = "two dogs and a cat on a street"
    tokens = tokenizer([text], padding="max_length").input_ids[0]
    things = [
        BoxedThing("cat", 0, 0, 0.5, 0.25),
        BoxedThing("dog", 0.5, 0.5, 1, 1),
        BoxedThing("bird", 0, 0, 1, 1),
        BoxedThing("dog", 0, 0.75, 0.25, 1),
    ]
    words, boxes = diffusion.point(tokenizer, tokens, things, 2)
    # Behind the start: two dogs and a cat; no word tells of the bird.
    assert words == [5, 2, -1]
    assert boxes.tolist() == [[[0.5, 0], [0, 0]], [[0, 0], [0.25, 1]], [[0, 0], [0, 0]]]
    # Two columns are words that are asked for; attention 3, 1, 1, 1 and 1, 1, 1, 3.
    maps = torch.zeros(1, 4, 77)
    maps[0, :, 5], maps[0, :, 2] = torch.tensor([[3.0, 1, 1, 1], [1, 1, 1, 3]])
    missed, counts = diffusion.pointing(maps, torch.tensor([words]), boxes[None])
    assert counts.tolist() == [[True, True, False]]
    cat = 3 / (3 + (0.5 * 3 + 3) / 3.5)
    dog = (3 + 0.25) / 1.25
    dog /= dog + (2 + 0.75) / 2.75
    losses = [-0.8 * math.log(share) - 0.2 * math.log(1 - share) for share in (cat, dog)]
    assert missed[0, :2].tolist() == pytest.approx(losses, rel=1e-5)


@pytest.mark.exhaustive
def test_the_unet_sees_words_alone_in_a_share_of_the_batches(tools, images, clip_folder):
    diffusion = tools[1]
    args = argparse.Namespace(device="cpu", rate=1e-3, steps=2)
    learner = diffusion.Learner(clip_folder, diffusion.make_unet(128), args)
    prompts = ["a dog in a park", "", "a photo"]
    tokens = learner.tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
    seen = diffusion.words_of(learner.tokenizer, tokens)
    # Start, five words, end and padding; an empty text has its start.
    assert [row.nonzero()[:, 0].tolist() for row in seen] == [[1, 2, 3, 4, 5], [0], [1, 2]]
    before = {name: p.clone() for name, p in learner.text_encoder.named_parameters()}
    drawn = [{**image, "latents": torch.randn(2, 4, 24, 24).half()} for image in images]
    torch.manual_seed(0)
    learner.update(diffusion.draw_batch(drawn, learner.tokenizer, 2, close=False))
    assert all(torch.equal(p, before[name]) for name, p in learner.text_encoder.named_parameters())
    # What is not seen changes nothing.
    context = learner.text_encoder(tokens).last_hidden_state
    inputs = torch.randn(3, 4, 8, 8), torch.tensor([10, 500, 900])
    module = diffusion.Denoiser(learner.unet)
    with torch.no_grad():
        first, *maps = module(*inputs, context, seen)
        other = torch.where(seen[..., None], context, context + 1)
        torch.testing.assert_close(module(*inputs, other, seen)[0], first)
    for own, places in zip(maps, (64, 16, 4), strict=True):
        torch.testing.assert_close(own.sum(2), torch.ones(3, places))
        assert (own.transpose(1, 2)[~seen] == 0).all()


@pytest.mark.exhaustive
def test_a_written_model_has_no_trace_of_the_machine(tools, clip_folder, tmp_path):
    diffusion = tools[1]
    args = argparse.Namespace(device="cpu", rate=1e-3, steps=2)
    learner = diffusion.Learner(clip_folder, diffusion.make_unet(128), args)
    diffusion.write(learner.pipeline(SHIPPED / "vae"), clip_folder, tmp_path / "model")
    for folder in (tmp_path / "model", clip_folder, SHIPPED):
        for file in folder.rglob("*.json"):
            traces = {"_name_or_path", "is_local", "local_files_only"}
            assert not traces & json.loads(file.read_text()).keys(), file
    names = {file.name for file in (tmp_path / "model" / "tokenizer").iterdir()}
    assert names == {file.name for file in (SHIPPED / "tokenizer").iterdir()}
    for name in names:
        written = (tmp_path / "model" / "tokenizer" / name).read_bytes()
        assert written == (clip_folder / name).read_bytes()
