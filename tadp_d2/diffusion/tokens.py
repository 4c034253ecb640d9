"""Learned tokens (textual inversion): reading their files and teaching them to a text encoder."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from transformers import AddedToken, CLIPTextModel, CLIPTokenizer

from tadp_d2.diffusion.clip_tokenizer import END, as_read
from tadp_d2.errors import UserError, reason


def read_tokens(path: str | Path) -> dict[str, Tensor]:
    """Reads a file of learned tokens, in any of the formats that circulate.

    diffusers' (`learned_embeds.safetensors`, or the older `.bin`) names its tokens. In others
    (`string_to_param` of AUTOMATIC1111's web UI, `emb_params`, bare vectors) the token is the
    file's name without its ending, as for the web UI.

    Returns:
        token -> its vectors, n x D with n >= 1, float32.

    Raises:
        UserError: the file is absent or holds anything but vectors of one text encoder.
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
    for token, vectors in tokens.items():
        _check_token(path, token, vectors)
    return {token: t.detach().reshape(-1, t.shape[-1]).float() for token, t in tokens.items()}


_ANEW = "make it anew, or name another file in TEXT.TOKENS"
# What files of models with several text encoders hold.
_SEVERAL = ("clip_l", "clip_g", "t5xxl")


def _by_token(path: Path, content: Any) -> dict[Any, Any]:
    """Token -> vectors, of the content of a file; neither is checked.

    Raises:
        UserError: it is in no known format, or for several text encoders.
    """
    if isinstance(content, Tensor):
        return {path.stem: content}
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: expected a mapping from tokens to vectors; {_ANEW}")
    several = [name for name in _SEVERAL if name in content]
    if several:
        raise UserError(
            f"{path}: holds {several[0]!r}: it was learned for a model with several text encoders, "
            "such as SDXL; Stable Diffusion 1.x and 2.x have one: learn it for the base model of "
            "MODEL.DIFFUSION.WEIGHTS"
        )
    if "emb_params" in content:
        return {path.stem: content["emb_params"]}
    if "string_to_param" not in content:
        return content
    vectors = content["string_to_param"]
    if isinstance(vectors, torch.nn.ParameterDict):
        # Asked directly: those of torch before 1.12 have no list of keys.
        vectors = vars(vectors).get("_parameters")
    if not isinstance(vectors, dict) or len(vectors) != 1:
        raise UserError(f"{path}: expected the vectors of one token in 'string_to_param'; {_ANEW}")
    return {path.stem: next(iter(vectors.values()))}


def _check_token(path: Path, token: Any, vectors: Any) -> None:
    if not isinstance(vectors, Tensor) or vectors.ndim not in (1, 2) or not vectors.numel():
        raise UserError(f"{path}: expected a mapping from tokens to vectors; {token!r} has none")
    if not isinstance(token, str) or not token or any(c.isspace() for c in token):
        raise UserError(f"{path}: {token!r} is no token: expected a word such as <watercolor>")
    if not vectors.is_floating_point() or not vectors.isfinite().all():
        raise UserError(f"{path}: the vectors of {token!r} are not finite numbers; learn it anew")


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
        UserError: the token exists already, as the tokenizer reads it, or would not be read as one,
            or its vectors have another width.
    """
    embedding = text_encoder.get_input_embeddings()
    width = embedding.weight.shape[1]
    if vectors.shape[1] != width:
        raise UserError(
            f"token {token!r} has vectors of width {vectors.shape[1]}, the text encoder of width "
            f"{width}: it was learned for another base model"
        )
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
    weight = torch.cat([embedding.weight.data, embedding.weight.new_zeros(len(names), width)])
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
