"""Captions reach the backbone in training, testing and test-time augmentation."""

import pytest
import torch
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from tadp_d2.conditioning.caption_prompt import get_modifiers
from tadp_d2.errors import UserError
from tadp_d2.modeling.conditioned import CaptionedRCNN


def image(caption="a dog", height=100, width=140, seed=0):
    pixels = torch.randint(
        0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed)
    )
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor([[10.0, 10.0, 60.0, 70.0]]))
    instances.gt_classes = torch.tensor([3])
    return {
        "image": pixels.to(torch.uint8),
        "height": height,
        "width": width,
        "caption": caption,
        "instances": instances,
        "file_name": "picture.jpg",
    }


def build(cfg):
    torch.manual_seed(0)
    return build_model(cfg)


@pytest.fixture(autouse=True)
def storage():
    """Detectron2's heads log into it while they train."""
    with EventStorage() as storage:
        yield storage


@pytest.fixture
def model(make_config):
    return build(make_config("TEXT.MODIFIER_TRAIN", "a photo of {caption}"))


@pytest.fixture
def prompts(model, monkeypatch):
    """The prompts that reach the text encoder."""
    seen = []
    forward = model.conditioner.text.forward
    monkeypatch.setattr(model.conditioner.text, "forward", lambda p: seen.append(p) or forward(p))
    return seen


def test_losses_and_detections(model):
    assert isinstance(model, CaptionedRCNN)
    losses = model.train()([image(), image("two birds", 64, 200)])
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    (output,) = model.eval()([image()])
    assert output["instances"].image_size == (100, 140)


def test_modifier_of_training_and_of_testing(model, prompts):
    model.train()([image("a dog"), image("a cat")])
    model.eval()([image("a dog")])
    assert prompts == [
        ["a photo of a dog", "a photo of a cat"],
        ["a watercolor style painting of a dog"],
    ]


def test_an_unquoted_null_in_training_is_the_null_modifier(make_config):
    cfg = make_config().clone()
    cfg.defrost()
    cfg.TEXT.MODIFIER_TRAIN = None
    assert [modifier.name for modifier in get_modifiers(cfg)] == ["null", "simple"]


def test_a_small_picture_in_a_batch_is_as_alone_but_for_the_padding(model):
    small, large = image("a dog", 60, 100), image("two birds", 120, 180, seed=1)
    padded = {**small, "image": torch.full((3, 128, 192), 127.5)}
    # The model pads with 0 after normalisation, that is, with the mean pixel.
    padded["image"][:, :60, :100] = small["image"]
    features = []
    hook = model.backbone.register_forward_hook(lambda m, i, output: features.append(output))
    with torch.no_grad():
        model.eval().inference([small, large])
        model.inference([padded])
    hook.remove()
    for level in features[0]:
        torch.testing.assert_close(features[0][level][:1], features[1][level], rtol=1e-3, atol=1e-4)


def test_without_a_modifier_of_its_own_training_uses_that_of_testing(make_config):
    conditioning = build(make_config()).conditioner
    assert conditioning.train_modifier == conditioning.test_modifier


def test_captions_reach_test_time_augmentation(make_config, model, prompts):
    cfg = make_config(
        "TEST.AUG.MIN_SIZES", (64, 96), "TEST.AUG.FLIP", True, "MODEL.LOAD_PROPOSALS", False
    )
    augmented = GeneralizedRCNNWithTTA(cfg, model.eval())
    with torch.no_grad():
        augmented([image("a dog")])
    assert sum(map(len, prompts)) >= 4
    assert {prompt for batch in prompts for prompt in batch} == {
        "a watercolor style painting of a dog"
    }


def test_detections_depend_on_the_caption(model):
    with torch.no_grad():
        first, again, other = (
            model.eval().inference([image(c)], do_postprocess=False)[0].scores
            for c in ("a dog", "a dog", "two birds in a park")
        )
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)


def test_every_trainable_parameter_gets_a_gradient(model):
    sum(model.train()([image()]).values()).backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


def test_a_missing_caption_names_the_image(model):
    inputs = image()
    del inputs["caption"]
    with pytest.raises(UserError, match="no caption for image picture.jpg"):
        model.eval()([inputs])


def test_an_image_without_objects(model):
    inputs = image()
    inputs["instances"] = inputs["instances"][:0]
    losses = model.train()([inputs])
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_artifacts_that_a_modifier_needs(make_config):
    with pytest.raises(UserError, match="'ti' needs a learned token.*TEXT.TOKENS"):
        make_config("TEXT.MODIFIER", "ti")
    with pytest.raises(UserError, match="'dreambooth' needs a fine-tuned UNet"):
        make_config("TEXT.MODIFIER", "dreambooth")
    with pytest.raises(UserError, match="unknown modifier 'simpel'"):
        make_config("TEXT.MODIFIER", "simpel")
