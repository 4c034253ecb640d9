"""The words of a prompt and the places of their tokens in its context."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import CLIPTokenizer

# How the last piece of a word ends in CLIP's vocabulary.
_END = "</w>"


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
    ids = tokenizer(prompt).input_ids
    groups: list[tuple[list[str], list[int]]] = []
    added = tokenizer.get_added_vocab()
    unfinished = False
    for position, token in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        if ids[position] in tokenizer.all_special_ids:
            continue
        if not unfinished and not (groups and _is_next_vector(token, groups[-1][0])):
            groups.append(([], []))
        pieces, positions = groups[-1]
        pieces.append(token)
        positions.append(position)
        unfinished = token not in added and not token.endswith(_END)
    return [Word(_text(pieces, tokenizer), tuple(places)) for pieces, places in groups]


def _is_next_vector(token: str, pieces: list[str]) -> bool:
    return token == f"{pieces[0]}_{len(pieces)}"


def _text(pieces: list[str], tokenizer: CLIPTokenizer) -> str:
    if len(pieces) > 1 and _is_next_vector(pieces[1], pieces[:1]):
        return pieces[0]
    # Pieces are bytes in disguise: a letter may be spread over two of them.
    return tokenizer.convert_tokens_to_string(pieces).replace(_END, "").strip()


def join_words(maps: Tensor, words: Sequence[Word]) -> Tensor:
    """Maps of tokens, N x h x w -> maps of words, W x h x w: the mean over each word's tokens."""
    return torch.stack([maps[list(word.positions)].mean(dim=0) for word in words])
