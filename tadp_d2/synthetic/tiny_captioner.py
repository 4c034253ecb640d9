"""A tiny BLIP-2 folder in transformers' format, to try the caption command with.

Its weights are random, seeded: captions are words of its small vocabulary, differ from image to
image, and mean nothing.
"""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    GPT2Tokenizer,
)

IMAGE_SIZE = 32
QUERY_TOKENS = 4
# As in OPT's vocabulary, with its indices.
SPECIAL = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "</s>"}
FIRST_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
# OPT's byte-level names of a line's end, which ends a caption, and of a space before a word.
NEWLINE, SPACE = "Ċ", "Ġ"
# What is added to the score of a caption's end, and how much images matter.
END_SCORE, IMAGE_WEIGHT = 5.0, 4.0
WORDS = (
    "a an and the of on in with near two three white black red green blue brown small large old "
    "dog cat bird car bicycle person man woman horse sheep cow boat train bus chair table plant "
    "street road building tree sky grass field water house wall window light sign sitting standing "
    "riding walking running driving looking"
)


def write_tiny_captioner(folder: Path, seed: int = 0) -> None:
    """Writes `config.json`, `model.safetensors`, the processor's and the tokenizer's files.

    The same seed gives the same bytes.
    """
    tokenizer = _tokenizer()
    processor = Blip2Processor(
        BlipImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}),
        tokenizer,
        num_query_tokens=QUERY_TOKENS,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _tokenizer() -> GPT2Tokenizer:
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(vocab_size=10_000, show_progress=False)
    learner.train_from_iterator([WORDS], trainer)
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    tokens = [*FIRST_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [a + b for a, b in merges]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return GPT2Tokenizer(vocab=vocabulary, merges=merges, add_bos_token=True, **SPECIAL)


def _model(tokenizer: GPT2Tokenizer) -> Blip2ForConditionalGeneration:
    vocabulary = tokenizer.get_vocab()
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config={
            **layers,
            "hidden_size": 16,
            "intermediate_size": 32,
            "image_size": IMAGE_SIZE,
            "patch_size": 8,
            # BLIP-2's own, 1e-10, would make all images look alike.
            "initializer_range": 0.2,
        },
        qformer_config={
            **layers,
            "hidden_size": 16,
            "intermediate_size": 32,
            "vocab_size": 8,
            "initializer_range": 0.2,
        },
        text_config={
            "model_type": "opt",
            **layers,
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "ffn_dim": 64,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": 256,
            "init_std": 0.5,
            "bos_token_id": vocabulary["</s>"],
            "eos_token_id": vocabulary[NEWLINE],
            "pad_token_id": vocabulary["<pad>"],
        },
        num_query_tokens=QUERY_TOKENS,
        image_token_index=vocabulary["<image>"],
    )
    model = Blip2ForConditionalGeneration(config).eval()
    _choose_words(model, vocabulary)
    return model


def _choose_words(model: Blip2ForConditionalGeneration, vocabulary: dict[str, int]) -> None:
    """Lets captions consist of whole words, end after some, and depend on the image; in place."""
    embedding = model.get_input_embeddings().weight.data
    end = vocabulary[NEWLINE]
    # OPT scores a token by its embedding: those without one are not chosen.
    silent = torch.ones(len(embedding), dtype=torch.bool)
    silent[[vocabulary[SPACE + word] for word in WORDS.split()] + [end]] = False
    embedding[silent] = 0
    norm = model.language_model.model.decoder.final_layer_norm
    norm.bias.data += END_SCORE * embedding[end] / embedding[end].square().sum()
    model.language_projection.weight.data *= IMAGE_WEIGHT
