"""Learned tokens (textual inversion): reading their files and teaching them to text encoders."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from transformers import AddedToken, CLIPTextModel, CLIPTokenizer

from tadp_d2.diffusion.clip_tokenizer import END, as_read
from tadp_d2.errors import UserError, reason
from tadp_d2.frozen import fingerprint

# What a token's vectors for the only text encoder of a model are filed under.
ONLY = ""
# Those for the two of Stable Diffusion XL, in their order.
PAIR = ("clip_l", "clip_g")


def read_tokens(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """Reads a file of learned tokens, in any of the formats that circulate.

    diffusers' (`learned_embeds.safetensors`, or the older `.bin`) names its tokens. In others
    (`string_to_param` of AUTOMATIC1111's web UI, `emb_params`, bare vectors; `clip_l` and `clip_g`
    for Stable Diffusion XL) the token is the file's name without its ending, as for the web UI.

    Returns:
        token -> `ONLY`, or each of `PAIR` -> its vectors, n x D with n >= 1, float32; n is the same
        for both.

    Raises:
        UserError: the file is absent or holds anything but vectors of one text encoder, or of both.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"no learned token at {path}: TEXT.TOKENS must name files as textual inversion of "
            "diffusers writes them (learned_embeds.safetensors), or of AUTOMATIC1111's web UI"
        )
    try:
        if path.suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            # Some hold their vectors in a list of parameters. To make one runs no code.
            with torch.serialization.safe_globals([torch.nn.ParameterDict]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the two readers raise many kinds for a damaged file
        raise UserError(
            f"{path}: cannot be read as learned tokens ({reason(error)}); {_ANEW}"
        ) from None
    tokens = _by_token(path, content)
    return {token: _as_vectors(path, token, own) for token, own in tokens.items()}


_ANEW = "make it anew, or name another file in TEXT.TOKENS"


def _by_token(path: Path, content: Any) -> dict[Any, dict[str, Any]]:
    """Token -> text encoder -> vectors, of the content of a file; they are not checked.

    Raises:
        UserError: it is in no known format, or for other than one text encoder or `PAIR`.
    """
    if isinstance(content, Tensor):
        return {path.stem: {ONLY: content}}
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: expected a mapping from tokens to vectors; {_ANEW}")
    several = [name for name in (*PAIR, "t5xxl") if name in content]
    if several:
        if several != list(PAIR):
            raise UserError(
                f"{path}: holds {' and '.join(several)}; expected {' and '.join(PAIR)} of Stable "
                f"Diffusion XL, or vectors of one text encoder; {_ANEW}"
            )
        return {path.stem: {name: content[name] for name in PAIR}}
    if "emb_params" in content:
        return {path.stem: {ONLY: content["emb_params"]}}
    if "string_to_param" not in content:
        return {token: {ONLY: vectors} for token, vectors in content.items()}
    vectors = content["string_to_param"]
    if isinstance(vectors, torch.nn.ParameterDict):
        # Asked directly: those of torch before 1.12 have no list of keys.
        vectors = vars(vectors).get("_parameters")
    if not isinstance(vectors, dict) or len(vectors) != 1:
        raise UserError(f"{path}: expected the vectors of one token in 'string_to_param'; {_ANEW}")
    return {path.stem: {ONLY: next(iter(vectors.values()))}}


def _as_vectors(path: Path, token: Any, learned: dict[str, Any]) -> dict[str, Tensor]:
    for vectors in learned.values():
        _check_token(path, token, vectors)
    own = {name: t.detach().reshape(-1, t.shape[-1]).float() for name, t in learned.items()}
    numbers = [len(vectors) for vectors in own.values()]
    if len(set(numbers)) > 1:
        raise UserError(
            f"{path}: holds {' and '.join(map(str, numbers))} vectors in {' and '.join(own)}; "
            f"expected as many in both; {_ANEW}"
        )
    return own


def _check_token(path: Path, token: Any, vectors: Any) -> None:
    if not isinstance(vectors, Tensor) or vectors.ndim not in (1, 2) or not vectors.numel():
        raise UserError(f"{path}: expected a mapping from tokens to vectors; {token!r} has none")
    if not isinstance(token, str) or not token or any(c.isspace() for c in token):
        raise UserError(f"{path}: {token!r} is no token: expected a word such as <watercolor>")
    if not vectors.is_floating_point() or not vectors.isfinite().all():
        raise UserError(f"{path}: the vectors of {token!r} are not finite numbers; learn it anew")


def read_fitting(path: str | Path, widths: Mapping[str, int]) -> dict[str, dict[str, Tensor]]:
    """As `read_tokens`.

    Args:
        widths: `ONLY`, or each of `PAIR` -> D.

    Raises:
        UserError: as there, or a token has vectors for other text encoders.
    """
    tokens = read_tokens(path)
    for token, vectors in tokens.items():
        found = {name: own.shape[1] for name, own in vectors.items()}
        if found != widths:
            raise UserError(
                f"{path}: token {token!r} has vectors of {_told(found)}, and the base model reads "
                f"{_told(widths)}: it was learned for another base model"
            )
    return tokens


def _told(widths: Mapping[str, int]) -> str:
    return " and ".join(
        f"width {width}" if name == ONLY else f"width {width} ({name})"
        for name, width in widths.items()
    )


def teach_tokens(
    files: Iterable[str | Path], readers: Mapping[str, tuple[CLIPTokenizer, CLIPTextModel]]
) -> dict[str, str]:
    """Teaches tokenizers and text encoders the tokens of files, in place.

    Args:
        readers: `ONLY`, or each of `PAIR` -> a tokenizer and its text encoder.

    Returns:
        token -> fingerprint of its vectors.

    Raises:
        UserError: as `read_fitting` and `add_token`.
    """
    widths = {
        name: encoder.get_input_embeddings().weight.shape[1]
        for name, (_, encoder) in readers.items()
    }
    fingerprints = {}
    for file in files:
        for token, vectors in read_fitting(file, widths).items():
            for name, (tokenizer, encoder) in readers.items():
                add_token(token, vectors[name], tokenizer, encoder)
            fingerprints[token] = fingerprint(vectors)
    return fingerprints


def add_token(
    token: str, vectors: Tensor, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel
) -> None:
    """Teaches a tokenizer and a text encoder a token of n vectors, in place.

    Further vectors get the names `<token>_1`, `<token>_2`, ... as in diffusers. A name is read in
    upper and lower case alike; one without brackets is not found inside of other words.

    Args:
        token: a new word of the vocabulary, such as `<watercolor>`.
        vectors: n x D, D the width of the text encoder.

    Raises:
        UserError: the token exists already, as the tokenizer reads it, or would not be read as one.
    """
    names = [token] + [f"{token}_{i}" for i in range(1, len(vectors))]
    for name in names:
        _check_new(name, tokenizer)
    alone = not _has_brackets(token)
    tokenizer.add_tokens([AddedToken(name, single_word=alone) for name in names])
    ids = tokenizer.convert_tokens_to_ids(names)
    found = tokenizer(" ".join(names), add_special_tokens=False).input_ids
    if found != ids:
        raise UserError(
            f"token {token!r}: the tokenizer reads {tokenizer.convert_ids_to_tokens(found)}; give "
            "it another name, such as <watercolor>"
        )
    weight = text_encoder.get_input_embeddings().weight.data
    weight = torch.cat([weight, weight.new_zeros(vectors.shape)])
    weight[ids] = vectors.to(weight)
    text_encoder.set_input_embeddings(torch.nn.Embedding.from_pretrained(weight))


def _has_brackets(token: str) -> bool:
    return token.startswith("<") and token.endswith(">")


def _check_new(name: str, tokenizer: CLIPTokenizer) -> None:
    """
    Raises:
        UserError: the tokenizer takes a name for a token that it knows.
    """
    read = as_read(name, tokenizer)
    vocabulary = tokenizer.get_vocab()
    known = [token for token in (name, read, read + END) if token in vocabulary]
    known += [t for t in tokenizer.get_added_vocab() if as_read(t, tokenizer) == read]
    if known:
        told = "" if known[0] == name else f", as {known[0].removesuffix(END)!r}"
        raise UserError(f"token {name!r} exists already in the tokenizer{told}: rename the new one")


def find_unknown(tokens: Iterable[str], tokenizer: CLIPTokenizer) -> list[str]:
    """Those of some names that a tokenizer does not read as an added token."""
    known = {as_read(token, tokenizer) for token in tokenizer.get_added_vocab()}
    return sorted(token for token in tokens if as_read(token, tokenizer) not in known)


def find_series(tokenizer: CLIPTokenizer) -> dict[str, list[str]]:
    """Token -> the names of all its vectors, of those added tokens that have several."""
    known = tokenizer.get_added_vocab()
    series = {}
    for token in known:
        names = [token]
        while f"{token}_{len(names)}" in known:
            names.append(f"{token}_{len(names)}")
        if len(names) > 1:
            series[token] = names
    return series


def expand_tokens(text: str, tokenizer: CLIPTokenizer) -> str:
    """Writes out the further vectors of every learned token: `<t>` -> `<t> <t>_1 <t>_2`.

    A token is found where the tokenizer finds it: in upper and lower case alike. One that is
    written out already stays.
    """
    for token, names in find_series(tokenizer).items():
        name = re.escape(token)
        word = name if _has_brackets(token) else rf"(?<!\w){name}(?!\w)"
        pattern = rf"{word}(?!_\d|\s+{name}_1)"
        written = " ".join(names)
        text = re.sub(pattern, lambda _, own=written: own, text, flags=re.IGNORECASE)
    return text
