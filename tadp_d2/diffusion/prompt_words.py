"""The words of a prompt and the places of their tokens in its context."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from tadp_d2.diffusion.clip_tokenizer import END, as_read
from tadp_d2.diffusion.tokens import find_series


class Word(NamedTuple):
    """A word, as the tokenizer reads it: in lower case, punctuation apart.

    Attributes:
        positions: of its tokens among the N of the context.
    """

    text: str
    positions: tuple[int, ...]


def find_words(prompt: str, tokenizer: CLIPTokenizer) -> list[Word]:
    """The words of a prompt; a learned token of several vectors is one word.

    Args:
        prompt: not longer than the text encoder reads.
    """
    added = {number: token for token, number in tokenizer.get_added_vocab().items()}
    # Token of a further vector -> that of the first, and its place among them.
    further = {
        name: (names[0], place)
        for names in find_series(tokenizer).values()
        for place, name in enumerate(names)
        if place
    }
    groups: list[tuple[str, list[int], list[int]]] = []
    unfinished = False
    ids = tokenizer(prompt).input_ids
    for position, number in enumerate(ids):
        if number in tokenizer.all_special_ids:
            continue
        # By numbers: what a piece is called depends on the version of the tokenizers.
        learned = added.get(number, "")
        last, pieces, positions = groups[-1] if groups else ("", [], [])
        if not unfinished and further.get(learned) != (last, len(pieces)):
            pieces, positions = [], []
            groups.append((learned, pieces, positions))
        pieces.append(number)
        positions.append(position)
        unfinished = not learned and not tokenizer.convert_ids_to_tokens(number).endswith(END)
    return [
        Word(as_read(learned, tokenizer) or _text(pieces, tokenizer), tuple(positions))
        for learned, pieces, positions in groups
    ]


def _text(pieces: list[int], tokenizer: CLIPTokenizer) -> str:
    # Pieces are bytes in disguise: a letter may be spread over two of them.
    names = tokenizer.convert_ids_to_tokens(pieces)
    return tokenizer.convert_tokens_to_string(names).replace(END, "").strip()


def join_words(maps: Tensor, words: Sequence[Word]) -> Tensor:
    """Maps of tokens, N x h x w -> maps of words, W x h x w: the mean over each word's tokens."""
    return torch.stack([maps[list(word.positions)].mean(dim=0) for word in words])
