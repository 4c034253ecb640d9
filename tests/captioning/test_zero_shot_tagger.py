"""Tags by a tiny CLIP and a tiny SigLIP, and those of a file; as the command makes them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.clip import CLIPImageProcessor
from transformers.models.siglip import SiglipImageProcessor

from tadp_d2.captioning.sets import CaptionImage, find_images
from tadp_d2.captioning.sources import tag_file
from tadp_d2.captioning.zero_shot_tagger import ZeroShotTagger, tags
from tadp_d2.cli import main
from tadp_d2.data.present_classes import PresentClasses
from tadp_d2.data.tags import join_tags, read_names, split_tags
from tadp_d2.data.texts import read_captions
from tadp_d2.errors import UserError
from tadp_d2.synthetic.tiny_tokenizer import make_tokenizer

NAMES = ["dog", "cat", "car", "old_bird", "person"]
SENTENCES = [f"a photo of a {name.replace('_', ' ')}." for name in NAMES]
SIZE, LENGTH = 32, 40
LAYERS = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
VISION = {**LAYERS, "num_attention_heads": 2, "image_size": SIZE, "patch_size": 8}


def write(folder, kind):
    tokenizer = make_tokenizer(SENTENCES, 600)
    text = {
        **{**LAYERS, "num_attention_heads": 2, "vocab_size": len(tokenizer)},
        **{"max_position_embeddings": LENGTH, "eos_token_id": tokenizer.eos_token_id},
    }
    options = {"text_config": text, "vision_config": {**VISION, "initializer_range": 0.3}}
    torch.manual_seed(0)
    if kind == "clip":
        model = CLIPModel(CLIPConfig(projection_dim=8, **options))
        processor = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=SIZE)
    else:
        model = SiglipModel(SiglipConfig(**options))
        processor = SiglipImageProcessor(size={"height": SIZE, "width": SIZE})
        model.logit_scale.data.fill_(2.0)
        model.logit_bias.data.fill_(-0.7)
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("taggers")
    return {kind: write(root / kind, kind) for kind in ("clip", "siglip")}


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_probabilities_are_those_of_the_model_itself(folders, kind):
    folder, rng = folders[kind], np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)) for _ in range(3)]
    tagger = ZeroShotTagger.load(folder, SENTENCES, "fp32", torch.device("cpu"))
    found = tagger.probabilities(images)

    model = {"clip": CLIPModel, "siglip": SiglipModel}[kind].from_pretrained(folder).eval()
    pixels = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt").pixel_values
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    ids = tokenizer(SENTENCES, padding="max_length", max_length=LENGTH, return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=ids.input_ids, pixel_values=pixels).logits_per_image
    expected = logits.softmax(dim=1) if kind == "clip" else logits.sigmoid()
    torch.testing.assert_close(found, expected)
    assert found.std() > 1e-3
    # All of a wide image is seen: its right end, which CLIP's own processing cuts off, matters.
    wide = Image.new("RGB", (4 * SIZE, SIZE))
    other = wide.copy()
    other.paste(images[0], (3 * SIZE, 0))
    assert not torch.allclose(*tagger.probabilities([wide, other]), atol=1e-4)

    one = tags(NAMES, str(folder), top_k=2).texts([], images)
    for line, row in zip(one, expected, strict=True):
        best = sorted(range(5), key=lambda i: -row[i])[:2]
        assert split_tags(line) == [NAMES[i] for i in best]
    limit = float(expected.median())
    found = tags(["background", *NAMES], str(folder), threshold=limit).texts([], images)
    for line, row in zip(found, expected, strict=True):
        assert set(split_tags(line)) == {n for n, p in zip(NAMES, row, strict=True) if p >= limit}
    assert tags(NAMES, str(folder), threshold=1.0).texts([], images[:1]) == [""]


def test_the_command_goes_on_and_its_parts_are_the_whole(folders, world, tmp_path):
    def run(*options, folder="whole"):
        line = ("caption", "watercolor_test", "--source", "tags", "--model", folders["clip"])
        own = ("--top-k", "3", "--batch-size", "2", "--caption-dir", tmp_path / folder)
        main([str(word) for word in (*line, *own, *options)])

    def captions(folder="whole"):
        return read_captions(tmp_path / folder / "watercolor_test.jsonl")

    run()
    whole = captions()
    # The classes of the data set are what it looks for.
    (names,) = {image.vocabulary for image in find_images("watercolor_test")}
    assert (whole.made_by["names"], whole.made_by["source"]) == (len(names), "tags")
    assert {tag for text in whole.captions.values() for tag in split_tags(text)} <= set(names)
    assert all(len(split_tags(text)) == 3 for text in whole.captions.values())
    file = tmp_path / "whole" / "watercolor_test.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:3]))
    run()
    assert captions().captions == whole.captions
    for part in ("1/2", "2/2"):
        run("--shard", part, folder="parts")
    main(["captions", "merge", "watercolor_test", "--caption-dir", str(tmp_path / "parts")])
    assert captions("parts").captions == whole.captions
    with pytest.raises(SystemExit):
        run("--template", "a drawing of a {}.")


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "needs --threshold or --top-k, and not both"),
        ({"threshold": 0.5, "top_k": 1}, "needs --threshold or --top-k, and not both"),
        ({"threshold": 1.5}, "--threshold 1.5: expected a probability, 0 to 1"),
        ({"top_k": 6}, "--top-k 6: expected 1 to 5, the number of names"),
        ({"top_k": 1, "template": "a photo"}, "--template 'a photo': expected one {}"),
        ({"top_k": 1, "names": ["background"]}, "nothing to look for: --names"),
        ({"top_k": 1, "names": ["dog " * 50]}, "tokens, and the model reads 40: shorten the name"),
        ({"top_k": 1, "model": "nowhere/clip"}, "no CLIP or SigLIP model 'nowhere/clip'"),
    ],
)
def test_wrong_settings_are_named(folders, options, message):
    with pytest.raises(UserError) as error:
        source = tags(**{"names": NAMES, "model": str(folders["clip"]), **options})
        source.texts([], [Image.new("RGB", (8, 8))])
    assert message in str(error.value)


def test_a_model_that_compares_nothing_is_refused(folders, tmp_path):
    CLIPTokenizer.from_pretrained(folders["clip"]).save_pretrained(tmp_path)
    AutoImageProcessor.from_pretrained(folders["clip"]).save_pretrained(tmp_path)
    CLIPVisionModel(CLIPVisionConfig(**VISION)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="does not compare images with texts; use CLIP or SigLIP"):
        ZeroShotTagger.load(tmp_path, SENTENCES, "fp32", torch.device("cpu"))


def test_a_list_of_names_is_one_a_line(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("dog\n\n a  cat \n")
    assert read_names(file) == ["dog", "a cat"]
    for content, message in (
        ("", "holds no name"),
        ("dog\ncat\ndog", ":3: 'dog' stands in line 1 already"),
        ("dog|cat", ":1: 'dog|cat' holds a |"),
    ):
        file.write_text(content)
        with pytest.raises(UserError) as error:
            read_names(file)
        assert message in str(error.value)
    with pytest.raises(UserError, match="cannot be read as UTF-8 text"):
        read_names(tmp_path / "none.txt")
    assert split_tags(join_tags(NAMES)) == NAMES


def test_rams_and_tag2texts_files_are_read(world, tmp_path):
    images = [
        CaptionImage(name, tmp_path / f"{name}.jpg", PresentClasses(("dog",), frozenset()))
        for name in ("a", "b", "c")
    ]
    file = tmp_path / "pred.txt"
    file.write_text("sub/b,dog,sky,dog\na\nc,two dogs\n")
    source = tag_file(file, images)
    assert source.texts(images, []) == ["", "dog | sky", "two dogs"]
    assert source.made_by["from"] == "pred.txt"
    numbered = tmp_path / "tag2text.txt"
    numbered.write_text("a,2,0\nb\nc,1\n")
    assert tag_file(numbered, images, NAMES).texts(images, []) == ["car | dog", "", "cat"]
    for content, names, message in (
        ("a,dog\n", None, "no line for image 'b'; expected 'b,tag,tag,...'"),
        ("a,dog\na,cat\n", None, ":2: has image 'a' again"),
        ("a,dog\n,cat\n", None, ":2: names no image"),
        ("a,3\n", None, ":1: 3 is the number of a tag, as Tag2Text writes it"),
        ("a,5\n", NAMES, ":1: there is no tag 5 among the 5 of --names"),
    ):
        file.write_text(content)
        with pytest.raises(UserError) as error:
            tag_file(file, images, names)
        assert message in str(error.value)

    # Images of one name in several folders.
    both = [CaptionImage(f"{f}/1.jpg", tmp_path / f / "1.jpg") for f in ("kitchen", "office")]
    file.write_text("/their/office/1,desk\n/their/kitchen/1,oven\n")
    assert tag_file(file, both).texts(both, []) == ["oven", "desk"]
    for content, message in (
        ("1,desk\n", "the line of 1 may be that of image 'kitchen/1.jpg' or of 'office/1.jpg'"),
        ("a/1,desk\nb/1,oven\n", "the lines of a/1 and b/1 may both be that of"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            tag_file(file, both)

    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "dog.png")
    file.write_text("dog,dog,grass\n")
    main(["caption", str(folder), "--source", "tag-file", "--from", str(file)])
    rows = [json.loads(line) for line in (tmp_path / "images.jsonl").read_text().splitlines()]
    assert rows[1]["raw"] == "dog | grass"


def test_a_model_without_a_fixed_size_is_refused(tmp_path):
    tiny = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    config = Siglip2Config(text_config={**tiny, "vocab_size": 50}, vision_config=tiny)
    model = Siglip2Model(config)
    with pytest.raises(UserError, match="images of any size"):
        ZeroShotTagger(model, None, None, ["a dog"])
