"""Prompts that are made of class names, annotations or a caption's nouns, where they are needed."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from tadp_d2.conditioning.class_words import ClassWords
from tadp_d2.conditioning.conditioner import (
    build_conditioner,
    count_context_tokens,
    open_model_of,
)
from tadp_d2.conditioning.oracle import Oracle
from tadp_d2.data.loader import load_dataset
from tadp_d2.data.mapper import ConditionedMapper
from tadp_d2.data.present_classes import PresentClasses, name_classes
from tadp_d2.engine.checks import check_config
from tadp_d2.errors import UserError

NAMES = ("dog", "potted plant", "car")


def conditioner(make_config, name, *options):
    cfg = make_config("MODEL.CONDITIONER.NAME", name, *options)
    check_config(cfg)
    return build_conditioner(cfg).eval()


def test_class_names_are_one_prompt_under_the_modifier(make_config):
    own = conditioner(make_config, "ClassNames", "MODEL.CONDITIONER.CLASS_NAMES", NAMES)
    prompt = "a watercolor style painting of dog potted plant car"
    assert own.prompt({}) == prompt
    context = own([{}, {}], None, None).context.embeddings
    assert torch.equal(context, own.text([prompt, prompt]).embeddings)


def test_class_names_that_do_not_fit_are_not_cut(make_config):
    letters = "abcdefghijklmnopqrstuvwxyz"
    many = tuple(f"class {first}{second}" for first in "abc" for second in letters)
    with pytest.raises(UserError, match="78 classes do not fit into the 77 tokens.*ClassWords"):
        conditioner(make_config, "ClassNames", "MODEL.CONDITIONER.CLASS_NAMES", many)


def test_class_words_are_the_tokens_of_each_name_alone(make_config):
    options = ("MODEL.CONDITIONER.CLASS_NAMES", NAMES)
    own = conditioner(make_config, "ClassWords", *options)
    text = open_model_of(make_config()).load_text_encoder()
    expected = [text(["dog"]).embeddings[0, :1]]  # the start of the first
    for name in NAMES:
        tokens = len(text.tokenizer(name).input_ids) - 2
        expected.append(text([name]).embeddings[0, 1 : 1 + tokens])
    context = own([{}, {}], None, None).context.embeddings
    assert torch.equal(context, torch.cat(expected).expand(2, -1, -1))
    cfg = make_config("MODEL.CONDITIONER.NAME", "ClassWords", *options)
    assert count_context_tokens(cfg) == context.shape[1] > len(NAMES)
    backbone = build_model(cfg).backbone.bottom_up
    plain = backbone.unet.unet.config.block_out_channels[1]
    assert backbone.output_shape()["s4"].channels == plain + context.shape[1]
    with pytest.raises(UserError, match="class name ' ' holds no word"):
        ClassWords(text, ["dog", " "])


def test_nouns_of_the_caption_each_once(make_config):
    pytest.importorskip("textblob")
    own = conditioner(make_config, "CaptionNouns", "TEXT.MODIFIER", "null")
    inputs = {"caption": "two trains beside a red car and a small car"}
    assert own.prompt(inputs) == "trains car"
    assert "textblob" in own.provenance()["tagger"]


def test_the_oracle_reads_the_whole_annotation(make_segmentation_config, tmp_path):
    cfg = make_segmentation_config("MODEL.CONDITIONER.NAME", "Oracle", "TEXT.MODIFIER", "null")
    check_config(cfg)
    own = build_conditioner(cfg)
    mapper = ConditionedMapper(cfg, is_train=True)
    for entry in load_dataset(cfg, "cityscapes_train", training=True)[:2]:
        labels = np.array(Image.open(entry["sem_seg_file_name"]))
        names = entry["present"].vocabulary
        expected = " ".join(names[index] for index in np.unique(labels) if index != 255)
        before = copy.deepcopy(entry)
        # Ten crops at random, of which none decides.
        for _ in range(10):
            inputs = mapper(entry)
            assert inputs["image"].shape[1:] == (64, 64)
            assert own.prompt(inputs) == expected
        assert entry == before


def test_the_oracle_of_boxes_and_its_errors(make_config):
    errors = ("MODEL.CONDITIONER.ORACLE.PRECISION", 0.5, "MODEL.CONDITIONER.ORACLE.RECALL", 0.5)
    cfg = make_config("MODEL.CONDITIONER.NAME", "Oracle", "TEXT.MODIFIER", "null")
    own = build_conditioner(cfg)
    erring = conditioner(make_config, "Oracle", "TEXT.MODIFIER", "null", *errors)
    for entry in load_dataset(cfg, "watercolor_test"):
        present = entry["present"]
        boxes = {present.vocabulary[box["category_id"]] for box in entry["annotations"]}
        assert set(own.prompt(entry).split()) == boxes
        image_id = str(entry["image_id"])
        names = name_classes(boxes, present.vocabulary, image_id, 0.5, 0.5, cfg.SEED)
        assert erring.prompt(entry) == " ".join(names)
    assert own.provenance() != erring.provenance()
    with pytest.raises(UserError, match="image 7: its classes are not known"):
        own.prompt({"image_id": 7, "caption": "a dog"})


def test_background_is_neither_left_out_nor_added():
    vocabulary = ("background", *"abcdefgh")
    for number in range(50):
        errors = (vocabulary, str(number), 0.5, 0.1)
        assert "background" in name_classes(["background", "a"], *errors)
        assert "background" not in name_classes(["a", "b"], *errors)


def test_an_oracle_for_images_without_labels_is_refused(make_segmentation_config):
    cfg = make_segmentation_config("MODEL.CONDITIONER.NAME", "Oracle")
    with pytest.raises(UserError, match="'dark_zurich_train' has no labels.*Oracle needs"):
        load_dataset(cfg, "dark_zurich_train")
    assert Oracle.needs == {"present"}


def test_a_label_map_with_a_value_of_no_class_is_named(tmp_path: Path):
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(tmp_path / "1.png")
    present = PresentClasses(("road", "sky"), label_map=tmp_path / "1.png")
    with pytest.raises(UserError, match="1.png: has the value 9"):
        present.names()
