"""The segmentor: captions reach every window; windows agree with a plain loop over the model."""

import pytest
import torch
from detectron2.modeling import SemanticSegmentor, build_model
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.utils.events import EventStorage

from tadp_d2.errors import UserError
from tadp_d2.modeling.conditioned import CaptionedSegmentor


def image(caption="a street", height=64, width=128, seed=0, output=(96, 200)):
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randint(0, 256, (3, height, width), generator=generator).to(torch.uint8),
        "sem_seg": torch.randint(0, 19, (height, width), generator=generator),
        "height": output[0],
        "width": output[1],
        "caption": caption,
        "file_name": "picture.png",
    }


@pytest.fixture(autouse=True)
def storage():
    with EventStorage() as storage:
        yield storage


@pytest.fixture
def build(make_segmentation_config):
    def build(*overrides):
        torch.manual_seed(0)
        return build_model(make_segmentation_config(*overrides))

    return build


@pytest.fixture
def model(build):
    return build("TEXT.MODIFIER_TRAIN", "a photo of {caption}")


def test_loss_and_segmentation(model):
    assert isinstance(model, CaptionedSegmentor)
    losses = model.train()([image(), image("a car", seed=1)])
    assert set(losses) == {"loss_sem_seg"}
    # Of an untrained head; chance is log 19 = 2.9.
    assert 1.5 < losses["loss_sem_seg"] < 20
    with torch.no_grad():
        (output,) = model.eval()([image()])
    assert output["sem_seg"].shape == (19, 96, 200)


def test_ignored_pixels_do_not_count(model):
    inputs = image()
    inputs["sem_seg"][:, 40:] = 255
    other = {**inputs, "sem_seg": inputs["sem_seg"].clone()}
    losses = [model.train()([each])["loss_sem_seg"] for each in (inputs, other)]
    assert torch.equal(*losses)
    other["sem_seg"][:, 39] = (other["sem_seg"][:, 39] + 1) % 19
    assert not torch.equal(losses[0], model([other])["loss_sem_seg"])


# Neither divides evenly: windows of 64 with stride 43 in 150 x 100, and a picture below the window.
@pytest.mark.parametrize("height, width", [(100, 150), (64, 128), (48, 150), (40, 50)])
def test_windows_agree_with_a_plain_loop(build, height, width):
    model = build("TEST.WINDOW_BATCH", 3).eval()
    inputs = image(height=height, width=width, output=(90, 170))
    starts = {40: [0], 48: [0], 64: [0], 100: [0, 36], 50: [0], 128: [0, 43, 64], 150: [0, 43, 86]}
    with torch.no_grad():
        (found,) = model([inputs])
        model.window_size = 0
        total, count = torch.zeros(19, height, width), torch.zeros(height, width)
        for y in starts[height]:
            for x in starts[width]:
                crop = inputs["image"][:, y : y + 64, x : x + 64]
                h, w = crop.shape[1:]
                alone = {"image": crop, "caption": "a street", "height": h, "width": w}
                total[:, y : y + h, x : x + w] += model([alone])[0]["sem_seg"]
                count[y : y + h, x : x + w] += 1
    expected = sem_seg_postprocess(total / count, (height, width), 90, 170)
    # Logits have a spread of 5. On a picture of noise the trained UNet makes 1e-5 of a change up to
    # 0.1, so the rounding of another batch size is seen; windows that are amiss differ by ones.
    torch.testing.assert_close(found["sem_seg"], expected, rtol=0, atol=0.02)


def test_without_windows_it_is_detectron2s_segmentor_on_the_whole_image(build):
    model = build("TEST.WINDOW_SIZE", 0).eval()
    inputs = image()
    with torch.no_grad():
        (found,) = model([inputs])
        with model._condition_on([inputs]):
            (expected,) = SemanticSegmentor.forward(model, [inputs])
    assert torch.equal(found["sem_seg"], expected["sem_seg"])


def test_each_window_is_read_with_the_images_caption(build, monkeypatch):
    model = build("TEXT.MODIFIER_TRAIN", "a photo of {caption}", "TEST.WINDOW_BATCH", 2)
    seen = []
    forward = model.conditioner.text.forward
    monkeypatch.setattr(model.conditioner.text, "forward", lambda p: seen.append(p) or forward(p))
    model.train()([image("a car")])
    with torch.no_grad():
        model.eval()([image("a car"), image("a bus", width=64)])
    car, bus = "a dark night photo of a car", "a dark night photo of a bus"
    # Three windows of the first image and one of the second, two at a time.
    assert seen == [["a photo of a car"], [car, car], [car, bus]]


def test_segmentation_depends_on_the_caption(model):
    with torch.no_grad():
        first, again, other = (
            model.eval()([image(caption)])[0]["sem_seg"] for caption in ("a car", "a car", "a bus")
        )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_trainable_parameter_gets_a_gradient(model):
    sum(model.train()([image()]).values()).backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


def test_a_missing_caption_names_the_image(model):
    inputs = image()
    del inputs["caption"]
    with pytest.raises(UserError, match="no caption for image picture.png"):
        model.eval()([inputs])
