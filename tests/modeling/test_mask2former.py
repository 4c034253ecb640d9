"""Mask2Former on any backbone: as transformers', inference by hand, weights, wrong input."""

import re

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

pytest.importorskip("scipy")  # of transformers' matcher

from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    SwinConfig,
)
from transformers.modeling_outputs import BackboneOutput

from tadp_d2.errors import UserError
from tadp_d2.modeling.heads.mask2former_head import Mask2FormerHead, Targets
from tadp_d2.modeling.mask2former import (
    Mask2Former,
    best_instances,
    class_scores,
    panoptic_segments,
)

CLASSES, CHANNELS = 5, (32, 64, 128, 256)
OPTIONS = {
    "num_labels": CLASSES,
    "num_queries": 10,
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_layers": 2,
    "encoder_feedforward_dim": 64,
    "decoder_layers": 4,
    "dim_feedforward": 64,
    "num_attention_heads": 4,
    "train_num_points": 64,
}


def shapes(channels=CHANNELS, finest=4):
    return {
        f"s{level}": ShapeSpec(channels=width, stride=finest * 2**level)
        for level, width in enumerate(channels)
    }


@pytest.fixture(scope="module")
def reference():
    """transformers' own model with a Swin backbone, at strides 4 to 32."""
    torch.manual_seed(0)
    swin = SwinConfig(
        embed_dim=CHANNELS[0],
        depths=[1, 1, 1, 1],
        num_heads=[2, 2, 2, 2],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    model = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(backbone_config=swin, **OPTIONS))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mask2former")
    reference.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def features():
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(
            2, shape.channels, 96 // shape.stride, 128 // shape.stride, generator=generator
        )
        for name, shape in shapes().items()
    }


@pytest.fixture(scope="module")
def targets():
    generator = torch.Generator().manual_seed(2)
    # One image has fewer segments than queries, the other more.
    return [
        Targets(
            torch.randint(CLASSES, (number,), generator=generator),
            torch.rand(number, 96, 128, generator=generator) > 0.6,
        )
        for number in (3, 12)
    ]


def reference_outputs(reference, features, monkeypatch, **labels):
    """transformers' own forward pass, whose backbone returns the features."""
    maps = tuple(features.values())
    encoder = reference.model.pixel_level_module.encoder
    monkeypatch.setattr(encoder, "forward", lambda *_, **__: BackboneOutput(feature_maps=maps))
    images = torch.zeros(2, 3, 96, 128)
    return reference(pixel_values=images, output_auxiliary_logits=True, **labels)


def test_weights_of_a_checkpoint_give_transformers_outputs_on_equal_features(
    reference, checkpoint, features, monkeypatch
):
    head = Mask2FormerHead(shapes(), options=OPTIONS, weights=checkpoint).eval()
    with torch.no_grad():
        queries = head(features)
        expected = reference_outputs(reference, features, monkeypatch)
    assert torch.equal(queries[-1].masks, expected.masks_queries_logits)
    assert torch.equal(queries[-1].classes, expected.class_queries_logits)
    assert queries[-1].masks.shape == (2, 10, 24, 32)  # the stride of the finest level
    assert queries[-1].masks.std() > 0.05 and queries[-1].classes.std() > 0.05
    for layer, auxiliary in zip(queries[:-1], expected.auxiliary_logits, strict=True):
        assert torch.equal(layer.masks, auxiliary["masks_queries_logits"])
        assert torch.equal(layer.classes, auxiliary["class_queries_logits"])


def test_losses_and_gradients_are_those_of_transformers(
    reference, checkpoint, features, targets, monkeypatch
):
    head = Mask2FormerHead(shapes(), options=OPTIONS, weights=checkpoint).train()
    torch.manual_seed(3)
    losses = head.losses(head(features), targets)
    total = sum(losses.values())
    total.backward()
    reference.train()
    torch.manual_seed(3)
    expected = reference_outputs(
        reference,
        features,
        monkeypatch,
        mask_labels=[target.masks.float() for target in targets],
        class_labels=[target.classes for target in targets],
    ).loss
    expected.backward()
    reference.eval()
    assert len(losses) == 3 * 4
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    theirs = dict(reference.named_parameters())
    compared = 0
    for name, parameter in head.network.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-6)
        compared += 1
    assert compared > 100
    reference.zero_grad()


def test_a_checkpoint_fits_other_channels_and_classes_in_what_does_not_depend_on_them(
    reference, checkpoint
):
    torch.manual_seed(5)
    other = {**OPTIONS, "num_labels": 7}
    head = Mask2FormerHead(shapes((24, 40, 56, 72), 8), options=other, weights=checkpoint)
    own, theirs = head.network.state_dict(), reference.state_dict()
    differing = {name for name in own if own[name].shape != theirs[name].shape}
    decoder = "model.pixel_level_module.decoder."
    assert differing == {
        *(f"{decoder}input_projections.{level}.0.weight" for level in range(3)),
        f"{decoder}adapter_1.0.weight",
        *("class_predictor.weight", "class_predictor.bias", "criterion.empty_weight"),
    }
    assert all(torch.equal(own[name], theirs[name]) for name in own.keys() - differing)
    assert own["criterion.empty_weight"].tolist() == pytest.approx([1.0] * 7 + [0.1])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_queries": 20}, "queries_embedder.weight of the model's shape"),
        ({"decoder_layers": 6}, "decoder.layers.3"),
        ({"encoder_layers": 1}, "encoder.layers.1"),
    ],
)
def test_a_checkpoint_of_another_size_is_an_error(checkpoint, options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        Mask2FormerHead(shapes(), options=OPTIONS | options, weights=checkpoint)


def test_levels_that_do_not_double_are_an_error():
    with pytest.raises(UserError, match=r"have the strides \[4, 8, 16\]: expected four levels"):
        Mask2FormerHead(shapes(CHANNELS[:3]), options=OPTIONS)


@pytest.mark.parametrize("numbers", [(0, 0), (0, 2), (300, 1)])
def test_any_number_of_segments_gives_finite_losses_and_all_gradients(features, numbers):
    torch.manual_seed(0)
    head = Mask2FormerHead(shapes(), options=OPTIONS).train()
    found = [
        Targets(torch.randint(CLASSES, (number,)), torch.rand(number, 96, 128) > 0.5)
        for number in numbers
    ]
    losses = head.losses(head(features), found)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []


def test_autocast_changes_nothing(features):
    torch.manual_seed(0)
    head = Mask2FormerHead(shapes(), options=OPTIONS).eval()
    with torch.no_grad():
        plain = head(features)[-1].masks
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(head(features)[-1].masks, plain)


# --- inference, by hand: 4 classes, of which 0 and 1 are things ---


def logits(*probabilities):
    """Q x 5, of class probabilities."""
    return torch.tensor(probabilities).clamp(min=1e-6).log()


def masks(*rows):
    """Q x 1 x W, of mask probabilities."""
    return torch.tensor(rows)[:, None].logit()


def of_class(index):
    row = [0.025] * 5
    row[index] = 0.9
    return tuple(row)


def test_each_pixel_goes_to_the_surest_query():
    classes = logits(of_class(0), of_class(0), of_class(2))
    found = masks((0.9, 0.9, 0.2, 0.1, 0.1), (0.1, 0.1, 0.9, 0.1, 0.1), (0.3, 0.3, 0.3, 0.9, 0.4))
    ids, described = panoptic_segments(classes, found, {0, 1}, 0.8, 0.8)
    # The last pixel is within no mask.
    assert ids.tolist() == [[1, 1, 2, 3, 0]]
    assert [(d["id"], d["isthing"], d["category_id"]) for d in described] == [
        *((1, True, 0), (2, True, 0), (3, False, 2))
    ]
    assert [d["score"] for d in described] == pytest.approx([0.9] * 3)


def test_stuff_of_a_class_is_one_segment_and_things_are_several():
    found = masks((0.9, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9))
    stuff, things = (logits(of_class(k), of_class(k), of_class(3)) for k in (2, 0))
    assert panoptic_segments(stuff, found, {0, 1}, 0.8, 0.8)[0].tolist() == [[1, 1, 2]]
    assert panoptic_segments(things, found, {0, 1}, 0.8, 0.8)[0].tolist() == [[1, 2, 3]]


def test_an_unsure_query_and_one_for_no_object_give_no_segment():
    classes = logits((0.79, 0.21, 0, 0, 0), of_class(4), (0.81, 0.19, 0, 0, 0))
    found = masks((0.9, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9))
    ids, described = panoptic_segments(classes, found, {0, 1}, 0.8, 0.8)
    assert ids.tolist() == [[0, 0, 1]] and len(described) == 1
    assert panoptic_segments(classes, found, {0, 1}, 0.95, 0.8) == (
        pytest.approx(torch.zeros(1, 3)),
        [],
    )


@pytest.mark.parametrize("overlap, expected", [(0.5, [[1, 1, 2, 2]]), (0.51, [[1, 1, 0, 0]])])
def test_a_mask_that_is_mostly_anothers_is_none(overlap, expected):
    # Half of the second mask is the first's.
    classes = logits(of_class(0), of_class(1))
    found = masks((0.9, 0.9, 0.1, 0.1), (0.6, 0.6, 0.8, 0.8))
    assert panoptic_segments(classes, found, {0, 1}, 0.8, overlap)[0].tolist() == expected


def test_instances_are_pairs_of_query_and_thing_best_first():
    classes = logits((0.5, 0.4, 0.05, 0.05, 0), (0.1, 0.1, 0.7, 0.1, 0), (0.05, 0.2, 0.05, 0, 0.7))
    found = masks((0.8, 0.6, 0.1, 0.1), (0.9, 0.9, 0.9, 0.9), (0.1, 0.1, 0.1, 0.1))
    best = best_instances(classes, found, {0, 1}, most=4)
    # Of the four best pairs one is stuff, and one has an empty mask.
    assert best.pred_classes.tolist() == [0, 1]
    assert best.scores.tolist() == pytest.approx([0.5 * 0.7, 0.4 * 0.7], rel=1e-5)
    assert best.pred_masks.tolist() == [[[True, True, False, False]]] * 2
    assert best.pred_boxes.tensor.tolist() == [[0, 0, 2, 1]] * 2
    assert len(best_instances(classes, found, set(), most=4)) == 0


def test_scores_of_classes_are_sums_over_queries():
    classes = logits((0.5, 0.1, 0.1, 0.1, 0.2), (0.25, 0.25, 0.25, 0.25, 0))
    found = class_scores(classes, masks((0.8, 0.5), (0.4, 0.2)))
    expected = np.outer([0.5, 0.1, 0.1, 0.1], [0.8, 0.5]) + np.outer([0.25] * 4, [0.4, 0.2])
    assert found.shape == (4, 1, 2)
    np.testing.assert_allclose(found[:, 0].numpy(), expected, rtol=1e-4)


# --- the meta-architecture ---

SMALL = (
    *("MODEL.META_ARCHITECTURE", "ConditionedMask2Former"),
    *("MODEL.BACKBONE.NAME", "build_diffusion_backbone", "MODEL.MASK_FORMER.NUM_CLASSES", 32),
    *("DATASETS.TRAIN", ("voc_2007_trainval_panoptic",)),
    *("DATASETS.TEST", ("voc_2007_test_panoptic",)),
    *("MODEL.MASK_FORMER.WIDTH", 32, "MODEL.MASK_FORMER.QUERIES", 8),
    *("MODEL.MASK_FORMER.POINTS", 64, "MODEL.MASK_FORMER.OBJECT_SCORE", 0.0),
    *("MODEL.MASK_FORMER.ENCODER_LAYERS", 1, "MODEL.MASK_FORMER.DECODER_LAYERS", 2),
)


@pytest.fixture
def model(make_config):
    torch.manual_seed(0)
    return build_model(make_config(*SMALL)).eval()


def test_a_data_set_without_things_is_an_error(make_config):
    cfg = make_config(*SMALL, "DATASETS.TRAIN", ("cityscapes_train",))
    with pytest.raises(UserError, match="'cityscapes_train' does not tell which .* are things"):
        build_model(cfg)


def test_an_image_gets_the_same_answer_alone_and_beside_a_larger_one(model):
    """Up to the padding, which the deformable attention sees."""
    assert isinstance(model, Mask2Former) and model.things == frozenset(range(20))
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, 64, 128), generator=generator, dtype=torch.uint8)
    inputs = {"image": image, "height": 90, "width": 150, "caption": "a dog"}
    with torch.no_grad():
        (own,) = model([inputs])
        again, _ = model([inputs, {**inputs, "image": image.flip(-1)}])
    assert own["sem_seg"].shape == (32, 90, 150)
    ids, described = own["panoptic_seg"]
    assert ids.shape == (90, 150)
    assert set(ids.unique().tolist()) - {0} == {d["id"] for d in described}
    assert own["instances"].image_size == (90, 150)
    torch.testing.assert_close(again["sem_seg"], own["sem_seg"], rtol=1e-3, atol=1e-5)


def test_segments_are_padded_with_their_batch(model):
    """A smaller image of a batch has no segment in its padding."""
    seen = {}
    model.head.losses = lambda queries, targets: seen.update(targets=targets) or {}
    images = [torch.zeros(3, 64, 64, dtype=torch.uint8), torch.zeros(3, 128, 64, dtype=torch.uint8)]
    inputs = []
    for image in images:
        segments = Instances(tuple(image.shape[1:]))
        segments.gt_classes = torch.tensor([3])
        segments.gt_masks = BitMasks(torch.ones(1, *image.shape[1:], dtype=torch.bool))
        inputs.append({"image": image, "segments": segments, "caption": "a dog"})
    model.train()(inputs)
    first, second = seen["targets"]
    assert first.masks.shape == second.masks.shape == (1, 128, 64)
    assert first.masks[:, :64].all() and not first.masks[:, 64:].any() and second.masks.all()
