"""The embedding of a room, and no text at all."""

import pytest
import torch

from tadp_d2.conditioning.class_embeddings import embed_classes
from tadp_d2.conditioning.conditioner import build_conditioner, count_context_tokens, open_model_of
from tadp_d2.conditioning.templates import class_templates
from tadp_d2.data.datasets.nyu_categories import ROOMS
from tadp_d2.errors import UserError

NONE = torch.empty(0)


def rooms(*names):
    return [{"room": name, "file_name": f"{name}.jpg"} for name in names]


@pytest.fixture
def scene(make_depth_config):
    cfg = make_depth_config("MODEL.CONDITIONER.NAME", "SceneEmbedding")
    assert count_context_tokens(cfg) == 1
    return cfg, build_conditioner(cfg)


def test_each_image_has_the_token_of_its_room(scene):
    cfg, conditioner = scene
    assert conditioner.names == list(ROOMS)
    names = ["study room", "study", "office_kitchen", "kitchen", "study"]
    context = conditioner(rooms(*names), NONE, NONE).context.embeddings
    text = open_model_of(cfg).load_text_encoder()
    spaced = [name.replace("_", " ") for name in names]
    expected = embed_classes(spaced, class_templates("single"), text)
    assert context.shape == (5, 1, expected.shape[1])
    torch.testing.assert_close(context[:, 0], expected)
    # Where the released code finds a name in another one, it takes the first.
    assert not torch.equal(context[0], context[1]) and not torch.equal(context[2], context[3])


def test_a_room_that_is_none(scene):
    with pytest.raises(
        UserError, match=r"castle\.jpg: its room is 'castle'; expected one of print"
    ):
        scene[1](rooms("castle"), NONE, NONE)
    with pytest.raises(UserError, match="no room for image a.jpg"):
        scene[1]([{"file_name": "a.jpg"}], NONE, NONE)


def test_rooms_of_ones_own(make_depth_config):
    names = ("MODEL.CONDITIONER.CLASS_NAMES", ("great_hall", "cellar"))
    cfg = make_depth_config("MODEL.CONDITIONER.NAME", "SceneEmbedding", *names)
    conditioner = build_conditioner(cfg)
    assert conditioner.names == ["great hall", "cellar"]
    assert conditioner(rooms("great_hall"), NONE, NONE).context.embeddings.shape[1] == 1


def test_without_text_the_prompt_is_empty(make_depth_config):
    conditioner = build_conditioner(make_depth_config("MODEL.CONDITIONER.NAME", "EmptyText"))
    inputs = [{"caption": "a red kitchen"}, {}]
    assert [conditioner.prompt(each) for each in inputs] == ["", ""]
    context = conditioner(inputs, NONE, NONE).context.embeddings
    assert torch.equal(context[0], context[1])
