import torch
from detectron2.modeling import build_model

from tadp_d2.conditioning.class_embeddings import ClassEmbeddings
from tadp_d2.inference.word_maps import average_class
from tadp_d2.modeling.backbone import find_diffusion_backbone

NAMES = ("dog", "cat", "car")


def test_all_that_a_model_reads_is_one_embedding_for_each_class(make_config):
    model = build_model(make_config("TEXT.MODIFIER", "null")).eval()
    text = model.conditioning.text
    expected = torch.stack([average_class(name, text) for name in NAMES])
    model.conditioning.text = ClassEmbeddings(text, NAMES)
    context = model.conditioning.text(["a bird", ""])
    assert torch.equal(context.embeddings[:, :3], expected.expand(2, -1, -1))
    assert context.embeddings.shape == (2, 77, 64)
    assert context.mask.sum(dim=1).tolist() == [3, 3]

    backbone = find_diffusion_backbone(model)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = []
    for caption in ("a bird", "a dog in a park"):
        inputs = [{"caption": caption}]
        with torch.no_grad(), model.conditioning.conditioned(model.backbone, inputs):
            features.append(backbone(images))
    # No word of a caption reaches the features, and no attention the other tokens.
    assert all(torch.equal(features[0][level], features[1][level]) for level in features[0])
    maps = features[0]["s4"][:, -77:]
    assert torch.all(maps[:, 3:] == 0)
    torch.testing.assert_close(maps.sum(dim=1), torch.ones(1, 4, 4))
