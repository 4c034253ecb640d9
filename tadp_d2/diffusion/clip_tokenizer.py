"""CLIP's tokenizer: loading it, whether it goes with a text encoder, and what distinguishes two."""

import hashlib
import html
import json
from collections.abc import Callable
from pathlib import Path

from transformers import CLIPTextModel, CLIPTokenizer

from tadp_d2.diffusion.model_folder import loading
from tadp_d2.errors import UserError

# How the last piece of a word ends in CLIP's vocabulary.
END = "</w>"
# A tokenizer that states no length has a number beyond all others.
_NO_LENGTH = 10**6
# Embeddings are padded to a multiple of at most this.
_PADDING = 128
# What a tokenizer makes of them shows how it changes and divides a text.
_PROBES = (
    *("", "a Dog", "ÉCOLE İstanbul straße", "cafe\u0301 caf\u00e9", "“curly” — dash… it’s"),
    *(
        "it's 2,000 dogs!!",
        "ﬁne ｆｕｌｌ　ｗｉｄｔｈ",
        "a\tb\nc  d\u00a0e",
        "snake_case x-ray &amp; <b>",
    ),
    *("日本語 слово 🐕", "<|startoftext|> <|endoftext|> <|EndOfText|>"),
)


def load_tokenizer(folder: Path, part: str = "tokenizer") -> CLIPTokenizer:
    """`tokenizer/`, or another part, of a Stable Diffusion folder.

    Raises:
        UserError: it is of another kind, or its files are damaged or cut off.
    """
    folder = folder / part
    with loading(folder):
        config = folder / "tokenizer_config.json"
        kind = json.loads(config.read_text("utf-8")) if config.is_file() else {}
        kind = kind.get("tokenizer_class", "CLIPTokenizer")
        if kind.removesuffix("Fast") != "CLIPTokenizer":
            raise UserError(
                f"{config}: is of a {kind}; expected the CLIPTokenizer of a Stable Diffusion model"
            )
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    _check_merges(tokenizer, folder)
    return tokenizer


def _check_merges(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """
    Raises:
        UserError: the merges do not make all pieces of words.
    """
    made = {first + second for first, second in _merges(tokenizer)}
    added = tokenizer.get_added_vocab()
    pieces = [t for t in tokenizer.get_vocab() if len(t.removesuffix(END)) > 1 and t not in added]
    unmade = [piece for piece in pieces if piece not in made]
    if unmade:
        raise UserError(
            f"{folder}: its merges make {len(pieces) - len(unmade)} of the {len(pieces)} pieces of "
            f"words in its vocabulary, and not {unmade[0]!r}: merges.txt is cut off or of another "
            "tokenizer; replace it by an undamaged copy"
        )


def _merges(tokenizer: CLIPTokenizer) -> list[tuple[str, str]]:
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    # Versions of tokenizers write a pair as a list or as one text.
    return [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in merges]


def check_goes_with(
    tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, folder: Path, suffix: str = ""
) -> None:
    """
    Args:
        folder: of the model, for messages.
        suffix: of the names of its parts, such as "_2".

    Raises:
        UserError: the tokenizer is not the one that the text encoder was trained with.
    """
    problem = _misfit(tokenizer, text_encoder)
    if problem:
        raise UserError(
            f"{folder}: tokenizer{suffix}/ and text_encoder{suffix}/ do not belong together: "
            f"{problem}. Take both from one model"
        )


def _misfit(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> str:
    known = len(text_encoder.get_input_embeddings().weight)
    vocabulary = tokenizer.get_vocab()
    beyond = sorted(token for token, number in vocabulary.items() if number >= known)
    if beyond:
        return (
            f"the tokenizer knows {beyond[0]!r} ({len(beyond)} such), for which the text encoder "
            f"has no embedding ({known} in all); if it was added to this half only, remove it from "
            "tokenizer/ and name its file in TEXT.TOKENS"
        )
    reached = max(vocabulary.values()) + 1
    if known - reached >= _PADDING:
        return f"the tokenizer reaches {reached} of {known} embeddings"
    if tokenizer.pad_token is None:
        return "the tokenizer has no token to pad with (pad_token)"
    length = text_encoder.config.max_position_embeddings
    if length != tokenizer.model_max_length < _NO_LENGTH:
        return (
            f"the tokenizer is for {tokenizer.model_max_length} tokens (model_max_length), the "
            f"text encoder reads {length}"
        )
    return ""


def tokenizer_fingerprint(tokenizer: CLIPTokenizer) -> str:
    """SHA-256 of what decides on the tokens of a text, whatever files the tokenizer came from."""
    added = tokenizer.added_tokens_decoder
    ids = tokenizer(list(_PROBES), verbose=False).input_ids
    made_of = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "merges": _merges(tokenizer),
        # How special tokens are matched is written in several ways; the probes show which.
        "added": sorted(
            (number, token.content)
            + (() if token.special else (token.lstrip, token.rstrip, token.single_word))
            for number, token in added.items()
        ),
        "probes": ids,
        "padded": tokenizer("", padding="max_length", max_length=4).input_ids,
    }
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def find_normalization(name: str) -> tuple[Callable[[str], str], str]:
    """What is done to a text before the tokenizer reads it, and its name with its version.

    Args:
        name: "none", as transformers does; "openai", as in OpenAI's own tokenizer for CLIP: ftfy
            mends curly quotes, ligatures, full-width letters and wrong decoding, and HTML entities
            are written out, twice.

    Raises:
        UserError: ftfy is not installed.
    """
    if name == "none":
        return str, name
    try:
        import ftfy
    except ImportError:
        raise UserError(
            "TEXT.NORMALIZATION openai needs a package that is not installed: pip install ftfy"
        ) from None
    return (
        lambda text: html.unescape(html.unescape(ftfy.fix_text(text))).strip(),
        f"openai (ftfy {ftfy.__version__})",
    )


def as_read(text: str, tokenizer: CLIPTokenizer) -> str:
    """A text in the form in which the tokenizer compares it with its tokens: in lower case."""
    return tokenizer.backend_tokenizer.normalizer.normalize_str(text)
