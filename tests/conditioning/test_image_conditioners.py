"""Conditioners that look at the image: the implicit captioner and the tagging adapter."""

import json
import math
import shutil

import pytest
import torch
from detectron2.modeling import build_model
from transformers import CLIPVisionModelWithProjection
from transformers.models.clip import CLIPImageProcessor

from tadp_d2.conditioning.conditioner import (
    build_conditioner,
    get_conditioner_class,
    open_model_of,
)
from tadp_d2.conditioning.image_encoder import ImageEncoder
from tadp_d2.data.loader import load_dataset
from tadp_d2.data.present_classes import PresentClasses
from tadp_d2.engine.optimizer import build_optimizer
from tadp_d2.errors import UserError
from tadp_d2.modeling.backbone import find_diffusion_backbone
from tadp_d2.records.provenance import Provenance

from ..tiny_model import TEXT_WIDTH

TINY = (
    *("MODEL.CONDITIONER.TAGGING.WIDTH", 16, "MODEL.CONDITIONER.TAGGING.HEADS", 2),
    *("MODEL.CONDITIONER.TAGGING.QUERIES", 5),
)


@pytest.fixture
def make(make_config, image_encoder_folder):
    def config(name, *options):
        encoder = ("MODEL.CONDITIONER.IMAGE_ENCODER", str(image_encoder_folder))
        return make_config("MODEL.CONDITIONER.NAME", name, *encoder, *TINY, *options)

    return config


def inputs_of(number=2, size=(48, 40), **more):
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (number, 3, *size), generator=generator, dtype=torch.uint8)
    return [{"image": image, "image_id": str(i), **more} for i, image in enumerate(images)]


def test_images_are_seen_as_clips_own_processing_shows_them(make, image_encoder_folder):
    encoder = ImageEncoder.from_config(make("ImplicitCaptioner"))
    inputs = inputs_of(size=(64, 64))
    processor = CLIPImageProcessor(
        size={"height": 32, "width": 32}, do_center_crop=False, resample=3
    )
    pixels = processor([own["image"] for own in inputs], return_tensors="pt").pixel_values
    model = CLIPVisionModelWithProjection.from_pretrained(image_encoder_folder).eval()
    with torch.no_grad():
        expected = model(pixels)
    seen = encoder(inputs)
    # Rounding to 8 bits after the resize, there and not here.
    torch.testing.assert_close(seen.embedding, expected.image_embeds, rtol=0.05, atol=0.05)
    assert seen.patches.shape == (2, 16, 16)
    torch.testing.assert_close(
        seen.patches, expected.last_hidden_state[:, 1:], rtol=0.05, atol=0.05
    )
    backwards = ImageEncoder.from_config(make("ImplicitCaptioner", "INPUT.FORMAT", "BGR"))
    flipped = [{**own, "image": own["image"].flip(0)} for own in inputs]
    torch.testing.assert_close(backwards(flipped).embedding, seen.embedding)


def test_the_implicit_captioner_begins_as_the_empty_text(make):
    cfg = make("ImplicitCaptioner")
    model = build_model(cfg)
    own = model.conditioner
    inputs = inputs_of()
    empty = open_model_of(cfg).load_text_encoder()([""]).embeddings
    assert torch.equal(own(inputs, None, None).context.embeddings, empty.expand(2, -1, -1))
    with torch.no_grad():
        own.gate.normal_()
    found = own(inputs, None, None).context.embeddings
    seen = own.image_encoder(inputs).embedding
    for index in range(2):
        image = seen[index] @ own.linear.weight.T + own.linear.bias
        expected = empty[0] + torch.tanh(own.gate) * (image + own.positions)
        torch.testing.assert_close(found[index], expected)
    assert not torch.equal(found[0], found[1])
    names = {n for n in model.state_dict() if n.startswith("conditioner.")}
    parts = ("gate", "positions", "linear.weight", "linear.bias")
    assert names == {f"conditioner.{part}" for part in parts}


def test_an_encoder_that_is_not_there_is_named(make, tmp_path):
    cfg = make("ImplicitCaptioner", "MODEL.CONDITIONER.IMAGE_ENCODER", str(tmp_path))
    with pytest.raises(UserError, match="lacks config.json.* of a CLIP image encoder"):
        build_conditioner(cfg)
    with pytest.raises(UserError, match="no CLIP image encoder 'openai/none'"):
        build_conditioner(make("TaggingAdapter", "MODEL.CONDITIONER.IMAGE_ENCODER", "openai/none"))


@pytest.mark.parametrize("name", ["ImplicitCaptioner", "TaggingAdapter", "TextAdapter"])
def test_latents_are_not_cached_where_images_are_looked_at(make, name, tmp_path):
    cached = ("MODEL.DIFFUSION.LATENT_CACHE.FOLDER", str(tmp_path))
    with pytest.raises(UserError, match=f"LATENT_CACHE.FOLDER is set.* conditioner {name} looks"):
        make(name, *cached, "MODEL.CONDITIONER.ADAPTED", "ImplicitCaptioner")
    make("TextAdapter", *cached, "MODEL.CONDITIONER.ADAPTED", "EmptyText")


def test_the_tagging_adapter_reads_its_tags_and_its_image(make):
    own = build_conditioner(make("TaggingAdapter", "MODEL.CONDITIONER.TAGGING.TAGS", "captions"))
    own.eval()
    first, second = inputs_of()
    first, second = {**first, "caption": "dog | cat"}, {**second, "caption": "car"}
    both = own([first, second], None, None).context.embeddings
    assert both.shape == (2, 5, TEXT_WIDTH)
    # The padding of the shorter list is not read.
    alone = own([second], None, None).context.embeddings
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-5)

    def differs(**changes):
        changed = own([{**first, **changes}], None, None).context.embeddings[0]
        return not torch.allclose(changed, both[0], atol=1e-5)

    assert differs(caption="dog | bird")
    assert differs(image=second["image"])
    assert not differs(caption="cat|dog | dog |")
    empty = own([{**first, "caption": " "}], None, None).context.embeddings
    assert empty.isfinite().all()
    assert own.prompt(second) == "a watercolor style painting of car"
    assert own.prompt({**first, "caption": ""}) == "no tags"


def test_tags_are_the_classes_the_captions_or_the_oracles(make):
    present = PresentClasses(("dog", "cat", "car"), frozenset({0, 2}))
    expected = {"classes": 20, "captions": ["a dog", "sky"], "oracle": ["dog", "car"]}
    for kind, tags in expected.items():
        cfg = make("TaggingAdapter", "MODEL.CONDITIONER.TAGGING.TAGS", kind)
        own = build_conditioner(cfg)
        found = own.tags({"caption": "a dog | sky", "present": present, "image_id": 1})
        assert (len(found) if kind == "classes" else found) == tags
        needed = type(own).needed(cfg, training=False)
        texts = {"captions": {"caption"}, "oracle": {"present"}}.get(kind, set())
        assert needed == {"image"} | texts
        assert type(own).needed(cfg, training=True) == needed | {"present"}


def test_the_loss_is_that_of_the_classes_that_are_there(make):
    cfg = make(
        "TaggingAdapter",
        *("MODEL.CONDITIONER.CLASS_NAMES", ("background", "dog", "cat")),
        *("MODEL.CONDITIONER.TAGGING.LOSS_WEIGHT", 5.0),
    )
    own = build_conditioner(cfg)
    present = PresentClasses(("background", "cat", "dog"), frozenset({0, 1}))
    inputs = inputs_of(present=present)
    condition = own(inputs, None, None)
    # By hand, without what the package calls.
    expected = 0
    for tokens in condition.context.embeddings.detach():
        mean = tokens.mean(0)
        for name, row in zip(("background", "dog", "cat"), own.class_embeddings, strict=True):
            logit = (mean @ row / mean.norm() / row.norm()).item() / 0.07
            p = 1 / (1 + math.exp(-logit))
            if name == "cat":
                expected += -(1 - p) * math.log(p)
            elif name == "dog":
                pm = max(p - 0.05, 0)
                expected += -(pm**4) * math.log(1 - pm)
    assert condition.losses["loss_tags"].item() == pytest.approx(5 * expected / 2, rel=1e-4)
    own.eval()
    assert not own(inputs, None, None).losses
    with pytest.raises(UserError, match="its classes are not known"):
        own.train()(inputs_of(), None, None)


def test_products_may_stay_as_they_are_and_the_loss_be_shaped(make):
    tagging = "MODEL.CONDITIONER.TAGGING."
    cfg = make(
        "TaggingAdapter",
        *("MODEL.CONDITIONER.CLASS_NAMES", ("dog", "cat")),
        *(f"{tagging}NORMALIZE", False, f"{tagging}TEMPERATURE", 4.0),
        *(f"{tagging}GAMMA_NEGATIVE", 2.0, f"{tagging}GAMMA_POSITIVE", 3.0, f"{tagging}CLIP", 0.1),
    )
    own = build_conditioner(cfg)
    condition = own(
        inputs_of(1, present=PresentClasses(("dog", "cat"), frozenset({1}))), None, None
    )
    mean = condition.context.embeddings.detach()[0].mean(0)
    absent, there = (1 / (1 + math.exp(-(mean @ row).item() / 4)) for row in own.class_embeddings)
    shifted = max(absent - 0.1, 0)
    expected = -((1 - there) ** 3) * math.log(there) - shifted**2 * math.log(1 - shifted)
    assert condition.losses["loss_tags"].item() == pytest.approx(expected, rel=1e-4)


def test_a_trained_adapter_is_tested_with_its_heads_and_encoder_only(
    make, image_encoder_folder, tmp_path, caplog
):
    def record(*options):
        cfg = make("TaggingAdapter", *options)
        return Provenance(cfg, build_model(cfg))

    trained = record().record
    with pytest.raises(UserError, match=r"other options of the conditioner.*heads 2 and not 4"):
        record("MODEL.CONDITIONER.TAGGING.HEADS", 4).check(trained, "model.pth")
    folder = tmp_path / "encoder"
    shutil.copytree(image_encoder_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    other = ("MODEL.CONDITIONER.IMAGE_ENCODER", str(folder))
    with pytest.raises(UserError, match="other options of the image encoder .*hidden_act"):
        record(*other).check(trained, "model.pth")
    (folder / "config.json").write_text(json.dumps(config))
    mean = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(mean))
    with pytest.raises(UserError, match="other options of the image encoder .*normalization"):
        record(*other).check(trained, "model.pth")
    # Its pixels are those of its own processor.
    black = [{"image": torch.zeros(3, 32, 32)}]
    encoder = ImageEncoder.from_config(make("ImplicitCaptioner", *other))
    with torch.no_grad():
        expected = encoder.model(torch.full((1, 3, 32, 32), -2.0)).image_embeds
    torch.testing.assert_close(encoder(black).embedding, expected)
    # What may differ in a test is told.
    record("MODEL.CONDITIONER.TAGGING.TAGS", "own").check(trained, "model.pth")
    assert (
        "trained with the tags 'classes' (MODEL.CONDITIONER.TAGGING.TAGS), and not" in caplog.text
    )
    record("MODEL.CONDITIONER.TAGGING.LOSS_WEIGHT", 0.0).check(trained, "model.pth")
    assert "trained with a loss of tags: True" in caplog.text


def test_scores_of_tags_are_outputs_of_the_whole_image(
    make, make_segmentation_config, image_encoder_folder
):
    detector = build_model(make("TaggingAdapter")).eval()
    options = ("MODEL.CONDITIONER.NAME", "TaggingAdapter", *TINY)
    encoder = ("MODEL.CONDITIONER.IMAGE_ENCODER", str(image_encoder_folder))
    segmentor = build_model(make_segmentation_config(*options, *encoder)).eval()
    inputs = inputs_of(size=(64, 128))
    with torch.no_grad():
        found = detector(inputs)
        alone = detector.conditioner(inputs, None, None).outputs["tag_scores"]
        assert alone.shape == (2, 20) and "instances" in found[0]
        for output, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(output["tag_scores"], expected)
        # Windows of 64 that are 43 apart: the largest of three.
        (output, _) = segmentor(inputs)
        crops = [{"image": inputs[0]["image"][..., i : i + 64]} for i in (0, 43, 64)]
        parts = segmentor.conditioner(crops, None, None).outputs["tag_scores"]
        torch.testing.assert_close(output["tag_scores"], parts.amax(dim=0), rtol=1e-4, atol=1e-4)
        assert output["sem_seg"].shape == (19, 64, 128)
        views = {**inputs[0], "height": 64, "width": 128, "views": [crops[0]["image"]]}
        (output,) = segmentor([views])
        torch.testing.assert_close(output["tag_scores"], parts[0], rtol=1e-4, atol=1e-4)


def test_gradients_reach_all_that_is_trained_and_nothing_else(make):
    cfg = make("TaggingAdapter", "SOLVER.CONDITIONER_LR_FACTOR", 3.0, "SOLVER.BASE_LR", 1e-4)
    model = build_model(cfg).train()
    present = PresentClasses(tuple(model.conditioner.names), frozenset({0, 1}))
    inputs = inputs_of(size=(64, 64), present=present)
    backbone = find_diffusion_backbone(model)
    images = torch.stack([own["image"] for own in inputs]).float() / 127.5 - 1
    with model._condition_on(inputs) as losses:
        features = backbone(images)
    (sum(f.square().mean() for f in features.values()) + sum(losses.values())).backward()
    trained = dict(model.conditioner.named_parameters())
    frozen = [n for n, p in trained.items() if not p.requires_grad]
    assert {n.split(".")[0] for n in frozen} == {"text", "image_encoder"}
    for name, parameter in trained.items():
        assert (parameter.grad is None) == (name in frozen), name
    groups = build_optimizer(cfg, model).param_groups
    rates = [g["lr"] for g in groups if g["part"] == "conditioner"]
    assert rates == pytest.approx([3e-4] * len(rates)) and rates


def test_its_own_tags_are_the_classes_that_it_finds(make):
    everything = build_conditioner(make("TaggingAdapter")).eval()
    inputs = inputs_of()
    scores = everything(inputs, None, None).outputs["tag_scores"]
    # Random weights find all or nothing at one half; now they find half of the classes. Halfway
    # between two: the sigmoid of one image may differ in its last bit from that of several.
    ordered = scores.sigmoid().flatten().sort().values
    between = ordered[len(ordered) // 2 - 1 : len(ordered) // 2 + 1].mean().item()
    middle = ("MODEL.CONDITIONER.TAGGING.THRESHOLD", between)
    tags = "MODEL.CONDITIONER.TAGGING.TAGS"
    own = build_conditioner(make("TaggingAdapter", tags, "own", *middle)).eval()
    told = build_conditioner(make("TaggingAdapter", tags, "captions")).eval()
    for other in (own, told):
        other.load_state_dict(everything.state_dict())
    found = own(inputs, None, None)
    assert torch.equal(found.outputs["tag_scores"], scores)
    # The second look is that of an adapter that is told them.
    chosen = [
        [name for name, score in zip(own.names, row, strict=True) if score >= middle[1]]
        for row in scores.sigmoid().tolist()
    ]
    assert any(0 < len(names) < 20 for names in chosen)
    captions = [{**i, "caption": "|".join(names)} for i, names in zip(inputs, chosen, strict=True)]
    expected = told(captions, None, None).context.embeddings
    torch.testing.assert_close(found.context.embeddings, expected, rtol=1e-4, atol=1e-5)
    assert own.prompt(inputs[0]) == "the classes that it finds in the image"
    with pytest.raises(UserError, match="TAGS is 'own' and LOSS_WEIGHT is 0"):
        options = ("MODEL.CONDITIONER.TAGGING.TAGS", "own")
        make("TaggingAdapter", *options, "MODEL.CONDITIONER.TAGGING.LOSS_WEIGHT", 0.0)


def test_what_is_wrong_with_tags_is_found_before_a_run(make, image_encoder_folder, tmp_path):
    """One message each, as a run and `doctor` get them."""

    def messages(entries, *options, training=True):
        cfg, errors = make("TaggingAdapter", *options), []
        notes = get_conditioner_class(cfg).check_entries(cfg, entries, training, errors.append)
        return [str(error) for error in errors] + notes

    entry = {"image_id": "7", "present": PresentClasses(("dog", "cat"), frozenset({0}))}
    unknown = ("MODEL.CONDITIONER.CLASS_NAMES", ("cat", "dragon"))
    (message,) = messages([entry], *unknown)
    assert "CLASS_NAMES has 'dragon', which is no class of the data" in message
    assert "dog, cat" in message
    assert not messages([entry], *unknown, training=False)
    of_file = (
        *("MODEL.CONDITIONER.TAGGING.TAGS", "captions"),
        *("MODEL.CONDITIONER.CLASS_NAMES", ("dog", "cat")),
    )
    # Any number of tags; an image without any, if others have some.
    many = " | ".join(f"dog {number}" for number in range(300))
    both = [{**entry, "caption": many}, {**entry, "caption": ""}]
    assert messages(both, *of_file) == ["1 of 2 images have no tag"]
    long = {**entry, "caption": f"cat | {', '.join(['dog'] * 40)}"}
    (message,) = messages([long], *of_file)
    assert "the tag of image 7 'dog, dog" in message and "text encoder reads 77" in message
    (message,) = messages([{**entry, "caption": " | "}], *of_file)
    assert message.startswith("no image has a tag: TEXT.CAPTION_DIR")
    # Captions in the place of tags: each would be one tag, and a worse number.
    sentences = [
        {**entry, "caption": text} for text in ("a dog on a beach", "dog", "two dogs play in it")
    ]
    (message,) = messages(sentences, *of_file)
    assert message.startswith("2 of 3 images have five words or more in a single tag, and none has")
    assert "'a dog on a beach'" in message and "TEXT.CAPTION_DIR" in message
    assert not messages([{**entry, "caption": "traffic light"}], *of_file)
    assert not messages([*sentences, {**entry, "caption": "dog | cat"}], *of_file)
    with pytest.raises(UserError, match="the tag 'dog, dog.*text encoder reads 77"):
        build_conditioner(make("TaggingAdapter", *of_file))([{**inputs_of()[0], **long}], 0, 0)

    embeddings = tmp_path / "class_embeddings.pth"
    torch.save(torch.zeros(20, 48), embeddings)
    with pytest.raises(UserError, match=f"of width 48; expected 20, .* of width {TEXT_WIDTH}"):
        build_conditioner(
            make("TaggingAdapter", "MODEL.CONDITIONER.CLASS_EMBEDDINGS", str(embeddings))
        )
    for key, value, message in (
        ("hidden_size", 32, "lack .*, or have it in another shape"),
        ("model_type", "siglip_vision_model", "is of a siglip_vision_model, and not of CLIP"),
    ):
        folder = tmp_path / key
        shutil.copytree(image_encoder_folder, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(UserError, match=message):
            build_conditioner(
                make("TaggingAdapter", "MODEL.CONDITIONER.IMAGE_ENCODER", str(folder))
            )
    with pytest.raises(UserError, match="TAGGING.WIDTH is 16: expected a multiple of HEADS, 3"):
        make("TaggingAdapter", "MODEL.CONDITIONER.TAGGING.HEADS", 3)


def test_the_loaders_entries_have_what_the_loss_asks_for(make):
    cfg = make("TaggingAdapter")
    for training in (True, False):
        entries = load_dataset(cfg, "voc_2007_trainval", training)
        assert ("present" in entries[0]) == training
        assert "caption" not in entries[0]
