"""Averaged class embeddings as the context: one token and one map channel for each class."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.modeling import build_model
from safetensors import safe_open
from transformers import CLIPTextConfig, CLIPTextModel

from tadp_d2.conditioning.class_embeddings import embed_classes, read_class_embeddings
from tadp_d2.conditioning.conditioner import get_class_names, open_model_of
from tadp_d2.conditioning.templates import class_templates
from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.engine.checks import check_config
from tadp_d2.errors import UserError
from tadp_d2.modeling.backbone import find_diffusion_backbone

from ..tiny_model import TEXT_WIDTH

FOLDER = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parents[1] / "golden")
GOLDEN = FOLDER / "vpd_class_embeddings.safetensors"
NAMES = ("dog", "cat", "car")
SETTINGS = ("MODEL.CONDITIONER.NAME", "ClassEmbeddings")


class RecordedTokenizer:
    """What CLIP's tokenizer gave for the sentences of the golden file, and for no others."""

    eos_token_id = 49407

    def __init__(self, sentences, ids, max_length):
        self._ids = dict(zip(sentences, ids.tolist(), strict=True))
        self._max_length = max_length

    def __call__(self, text, max_length=None, **_):
        if isinstance(text, str):  # a class name alone, whose tokens are only counted
            return SimpleNamespace(input_ids=[0, *text.split(), 1])
        assert max_length == self._max_length
        ids = torch.tensor([self._ids[sentence] for sentence in text])
        return SimpleNamespace(input_ids=ids, attention_mask=torch.ones_like(ids))


def test_embeddings_agree_with_the_released_script():
    with safe_open(GOLDEN, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    names, templates = json.loads(metadata["class_names"]), json.loads(metadata["templates"])
    model = CLIPTextModel(CLIPTextConfig(**json.loads(metadata["text_config"])))
    prefix = "text_encoder."
    weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    model.load_state_dict({k: v.float() for k, v in weights.items()})
    # Written here independently: a name replaces the braces, and its underscores are blanks.
    sentences = [t.replace("{}", n.replace("_", " ")) for n in names for t in templates]
    max_length = int(metadata["max_length"])
    ids = tensors["input_ids"].flatten(0, 1)
    text = TextEncoder(RecordedTokenizer(sentences, ids, max_length), model)
    found = embed_classes(names, templates, text, max_length)
    expected = tensors["class_embeddings"]
    assert found.shape == expected.shape
    assert ((found - expected).abs() / (1 + expected.abs())).max() < 2e-6
    pooled = text.embed_ends(sentences[-len(templates) :], max_length)
    torch.testing.assert_close(pooled, tensors["pooled"][-1], rtol=2e-6, atol=2e-6)


def test_the_sentences_of_the_package_are_those_of_the_released_script():
    pytest.importorskip("open_clip")
    with safe_open(GOLDEN, "pt") as file:
        assert class_templates("clip80") == tuple(json.loads(file.metadata()["templates"]))


def test_padding_and_the_length_change_nothing(make_config):
    text = open_model_of(make_config()).load_text_encoder()
    sentences = ["a photo of a dog.", "a dog"]
    together = text.embed_ends(sentences)
    for index, sentence in enumerate(sentences):
        ids = text.tokenizer(sentence).input_ids
        hidden = text([sentence]).embeddings[0]
        torch.testing.assert_close(together[index], hidden[len(ids) - 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["own", "clip80"])
def test_all_that_a_model_reads_is_one_embedding_for_each_class(make_config, kind):
    if kind == "clip80":
        pytest.importorskip("open_clip")
    own = ("MODEL.CONDITIONER.CLASS_NAMES", NAMES, "MODEL.CONDITIONER.TEMPLATES", kind)
    cfg = make_config(*SETTINGS, *own)
    model = build_model(cfg).eval()
    text = open_model_of(cfg).load_text_encoder()
    sentences = class_templates(kind)
    assert len(sentences) == {"own": 15, "clip80": 80}[kind]
    # One class at a time, sentence by sentence.
    expected = torch.stack(
        [
            torch.cat([text.embed_ends([s.replace("{}", n)]) for s in sentences]).mean(0)
            for n in NAMES
        ]
    )
    context = model.conditioner([{}, {}], None, None).context
    torch.testing.assert_close(context.embeddings, expected.expand(2, -1, -1), rtol=1e-5, atol=1e-5)
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
    assert model.conditioner.embeddings.shape == (20, TEXT_WIDTH)
    assert not model.state_dict().keys() & {"conditioner.embeddings"}
    assert [n for n, _ in model.conditioner.named_parameters()] == []
    text = open_model_of(make_config()).load_text_encoder()
    single = text.embed_ends(["a photo of a aeroplane."])[0]
    torch.testing.assert_close(model.conditioner.embeddings[0], single)


def test_published_embeddings_are_taken_as_they_are(make_config, tmp_path):
    published = torch.randn(20, TEXT_WIDTH).half()
    torch.save(published, tmp_path / "class_embeddings.pth")
    file = ("MODEL.CONDITIONER.CLASS_EMBEDDINGS", str(tmp_path / "class_embeddings.pth"))
    model = build_model(make_config(*SETTINGS, *file))
    assert torch.equal(model.conditioner.embeddings, published.float())
    record = model.conditioner.provenance()
    assert record != build_model(make_config(*SETTINGS)).conditioner.provenance()


def test_embeddings_of_another_model_or_order_are_told(make_config, tmp_path, caplog):
    own = build_model(make_config(*SETTINGS)).conditioner.embeddings
    path = tmp_path / "class_embeddings.pth"
    file = ("MODEL.CONDITIONER.CLASS_EMBEDDINGS", str(path))
    torch.save(own.clone(), path)
    build_model(make_config(*SETTINGS, *file))
    assert "another base model" not in caplog.text
    for wrong in (own.roll(1, dims=0), torch.randn_like(own)):
        caplog.clear()
        torch.save(wrong.clone(), path)
        build_model(make_config(*SETTINGS, *file))
        assert "of 20 embeddings are nearest to what the text encoder makes" in caplog.text


@pytest.mark.parametrize(
    "content, message",
    [
        (torch.zeros(19, 48), "holds 19 embeddings of width 48; expected 20"),
        (torch.zeros(20, 32), "holds 20 embeddings of width 32; expected 20.*width 48"),
        (torch.zeros(20, 48, dtype=torch.int64), "expected a tensor of numbers"),
        ({"embeddings": torch.zeros(20, 48)}, "expected a tensor of numbers"),
        (torch.full((20, 48), float("nan")), "finite"),
        (Path("x"), "cannot be read as class embeddings"),
        (b"abc", "cannot be read as class embeddings"),
    ],
)
def test_a_file_that_does_not_fit_is_named(content, message, tmp_path):
    path = tmp_path / "class_embeddings.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=f"class_embeddings.pth.*{message}"):
        read_class_embeddings(path, 20, 48)


def test_wrong_names_files_and_templates_are_refused(make_config, monkeypatch):
    def refused(*options, match):
        with pytest.raises(UserError, match=match):
            check_config(make_config(*SETTINGS, *options))

    refused("MODEL.CONDITIONER.CLASS_EMBEDDINGS", "none.pth", match="no class embeddings at none")
    refused("MODEL.CONDITIONER.TEMPLATES", "clip", match="expected one of single, clip80, own")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    monkeypatch.setitem(sys.modules, "open_clip.zero_shot_metadata", None)
    refused("MODEL.CONDITIONER.TEMPLATES", "clip80", match="pip install open_clip_torch")
    cfg = make_config(*SETTINGS, "MODEL.CONDITIONER.CLASS_NAMES", ("dog", " _ "))
    with pytest.raises(UserError, match="class name '   ' holds no word"):
        build_model(cfg)
    cfg = make_config(*SETTINGS, "MODEL.CONDITIONER.CLASS_NAMES", ("dog", "cat", "dog"))
    with pytest.raises(UserError, match="CLASS_NAMES names 'dog' twice"):
        get_class_names(cfg)
