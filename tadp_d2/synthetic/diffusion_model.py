"""A tiny Stable Diffusion folder in diffusers' format, with the topology of Stable Diffusion 1.5.

The weights of text encoder and UNet are random, seeded. The tokenizer's merges are learned from the
world's sentences. The VAE is a trained one that lies beside this file; `tools/train_tiny_vae.py`
made it.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
CONTEXT_LENGTH = 77
TEXT_WIDTH = 32


def write_diffusion_model(folder: Path, seed: int, sentences: Iterable[str]) -> None:
    """Writes the model: the same seed and sentences give the same bytes.

    Args:
        folder: gets `tokenizer/ text_encoder/ vae/ unet/ scheduler/ model_index.json`.
        sentences: text from which the tokenizer learns its words.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = make_tokenizer(sentences)
        text_encoder = _text_encoder(len(tokenizer))
        unet = _unet()
    vae = AutoencoderKL.from_pretrained(Path(__file__).parent / "vae", torch_dtype=torch.float32)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        # Stable Diffusion 1.5's noise schedule.
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    _write_clip_vocabulary(folder / "tokenizer", tokenizer)


def make_tokenizer(sentences: Iterable[str], vocabulary_size: int = 1024) -> CLIPTokenizer:
    """A CLIP tokenizer (byte-level BPE with word ends) whose merges are learned from sentences."""
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    learner.normalizer = normalizers.Lowercase()
    # Words as CLIP's tokenizer splits them, written in the alphabet of bytes.
    words = Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size, end_of_word_suffix=WORD_END, show_progress=False
    )
    learner.train_from_iterator(sorted(sentences), trainer)
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(byte + WORD_END for byte in alphabet)]
    tokens += [a + b for a, b in merges] + [START, END]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT_LENGTH)


def _write_clip_vocabulary(folder: Path, tokenizer: CLIPTokenizer) -> None:
    """Replaces `tokenizer.json` by the two files that Stable Diffusion 1.5 comes with."""
    tokenizer.backend_tokenizer.model.save(str(folder))
    (folder / "tokenizer.json").unlink()


def _text_encoder(vocabulary_size: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=vocabulary_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=vocabulary_size - 2,
        eos_token_id=vocabulary_size - 1,
        pad_token_id=vocabulary_size - 1,
    )
    return CLIPTextModel(config).eval()


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(32, 64, 96, 96),
        layers_per_block=2,
        cross_attention_dim=TEXT_WIDTH,
        # As in Stable Diffusion 1.5, diffusers means the number of heads.
        attention_head_dim=2,
    )
