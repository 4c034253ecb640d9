"""Averaged class embeddings as the context: one token and one map channel for each class."""

import torch
from detectron2.modeling import build_model

from tadp_d2.conditioning.class_embeddings import average_class
from tadp_d2.conditioning.conditioner import open_model_of
from tadp_d2.modeling.backbone import find_diffusion_backbone

NAMES = ("dog", "cat", "car")
SETTINGS = ("MODEL.CONDITIONER.NAME", "ClassEmbeddings")


def test_all_that_a_model_reads_is_one_embedding_for_each_class(make_config):
    cfg = make_config(*SETTINGS, "MODEL.CONDITIONER.CLASS_NAMES", NAMES)
    model = build_model(cfg).eval()
    text = open_model_of(cfg).load_text_encoder()
    expected = torch.stack([average_class(name, text) for name in NAMES])
    context = model.conditioner([{}, {}], None, None).context
    assert torch.equal(context.embeddings, expected.expand(2, -1, -1))
    assert context.mask is None

    backbone = find_diffusion_backbone(model)
    plain = backbone.unet.unet.config.block_out_channels
    assert [shape.channels for shape in backbone.output_shape().values()] == [
        plain[0],
        plain[1] + 3,
        plain[2] + 3,
        plain[3],
    ]
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = []
    for caption in ("a bird", "a dog in a park"):
        with torch.no_grad(), model._condition_on([{"caption": caption}]):
            features.append(backbone(images))
    # No word of a caption reaches the features.
    assert all(torch.equal(features[0][level], features[1][level]) for level in features[0])
    maps = features[0]["s4"][:, -3:]
    torch.testing.assert_close(maps.sum(dim=1), torch.ones(1, 4, 4))


def test_the_classes_are_the_models_own_unless_they_are_named(make_config):
    model = build_model(make_config(*SETTINGS))
    assert model.conditioner.embeddings.shape == (20, 64)
    assert not model.state_dict().keys() & {"conditioner.embeddings"}
    assert [n for n, _ in model.conditioner.named_parameters()] == []
