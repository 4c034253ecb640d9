"""What is to be known of a caption file: coverage, lengths, and captions that look wrong.

Nothing is written, and nothing printed.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tadp_d2.captioning.sets import caption_path
from tadp_d2.captioning.shards import find_shards
from tadp_d2.conditioning.domains import DOMAINS, PLACEHOLDER, SLOT
from tadp_d2.data.texts import CaptionFile, find_caption_file
from tadp_d2.errors import UserError

# A phrase that occurs so often in a row is a loop of the captioner.
REPEATS = 3
_WORD = re.compile(r"\w+(?:['’-]\w+)*")


@dataclass(frozen=True)
class Coverage:
    """Which images have captions.

    Attributes:
        images: number of images of the data set.
        missing: images without a caption, in the data set's order.
        strangers: captions without an image, in the file's order.
    """

    images: int
    missing: list[str]
    strangers: list[str]


def coverage(image_ids: Sequence[str], captions: CaptionFile) -> Coverage:
    """Compares the images of a data set with the captions of a file."""
    known = set(image_ids)
    return Coverage(
        len(image_ids),
        [image_id for image_id in image_ids if image_id not in captions.records],
        [image_id for image_id in captions.records if image_id not in known],
    )


def find_loop(text: str) -> str:
    """The first phrase that occurs three times in a row or more; empty if there is none.

    A phrase is one word or more; case and punctuation do not count: "a dog, a dog and a dog" has
    none, "a dog, a dog, a dog" has "a dog".
    """
    words = [word.lower() for word in _WORD.findall(text)]
    for start in range(len(words)):
        for length in range(1, (len(words) - start) // REPEATS + 1):
            phrase = words[start : start + length]
            if words[start : start + REPEATS * length] == phrase * REPEATS:
                return " ".join(phrase)
    return ""


def find_loops(captions: Mapping[str, str]) -> dict[str, str]:
    """Image id -> the phrase in which its caption loops, for those that do."""
    loops = {image_id: find_loop(text) for image_id, text in captions.items()}
    return {image_id: loop for image_id, loop in loops.items() if loop}


def style_words(captions: Mapping[str, str], domain: str) -> dict[str, list[str]]:
    """Image id -> the words in its caption that name a target domain, for those with some."""
    from tadp_d2.captioning.rules import style_words_left

    found = {image_id: style_words_left(text, domain) for image_id, text in captions.items()}
    return {image_id: words for image_id, words in found.items() if words}


def most_frequent(found: Mapping[str, Collection[str]], number: int = 8) -> list[tuple[str, int]]:
    """The words that occur in most captions, and in how many."""
    return Counter(word for words in found.values() for word in set(words)).most_common(number)


@dataclass(frozen=True)
class Lengths:
    """Lengths of prompts in CLIP's tokens, start and end included.

    Attributes:
        limit: how many tokens the text encoder reads.
        captions: the length of every caption without a modifier.
        too_long: (domain, modifier) -> how many prompts pass the limit and lose words.
    """

    limit: int
    captions: list[int]
    too_long: dict[tuple[str, str], int]


def token_lengths(captions: Collection[str], tokenizer: Any, domains: Sequence[str]) -> Lengths:
    """Counts the tokens of captions with all modifiers of some domains.

    A learned token that the tokenizer does not know counts as one.

    Args:
        tokenizer: CLIP's; it is taught the placeholders of the modifiers.
    """
    limit = tokenizer.model_max_length
    templates = {
        (domain, name): modifier.template
        for domain in domains
        for name, modifier in DOMAINS[domain].modifiers.items()
    }
    placeholders = {p for text in templates.values() for p in PLACEHOLDER.findall(text)}
    tokenizer.add_tokens(sorted(placeholders - tokenizer.get_vocab().keys()))

    def count(texts: Collection[str]) -> list[int]:
        return (
            [len(ids) for ids in tokenizer(list(texts), verbose=False).input_ids] if texts else []
        )

    plain = count(captions)
    too_long = {}
    for key, template in templates.items():
        # A prompt has at most the tokens of its two parts: far from the limit none are counted.
        own = count([template.replace(SLOT, "")])[0]
        near = [c for c, n in zip(captions, plain, strict=True) if n + own > limit]
        too_long[key] = sum(n > limit for n in count([template.replace(SLOT, c) for c in near]))
    return Lengths(limit, plain, too_long)


def find_tokenizer(weights: str, revision: str = "") -> Any:
    """CLIP's tokenizer of a diffusion model that is on this machine; nothing is downloaded.

    Raises:
        UserError: it is not here, or damaged.
    """
    from tadp_d2.diffusion.clip_tokenizer import load_tokenizer
    from tadp_d2.diffusion.families import as_folder
    from tadp_d2.diffusion.model_folder import TOKENIZER, find_folder

    return load_tokenizer(find_folder(TOKENIZER, as_folder(weights), revision, ask_hub=False))


def find_captions(dataset: str, folder: Path | None = None) -> Path:
    """The caption file of a data set, in either format, or the file that is named itself.

    Raises:
        UserError: there is none, or there are two.
    """
    path = Path(dataset)
    if path.suffix in (".json", ".jsonl"):
        if not path.is_file():
            raise UserError(f"{path}: there is no such caption file")
        return path
    path = caption_path(dataset, folder)
    parts = list(find_shards(path).values())
    if parts and not path.exists():
        raise UserError(
            f"no {path}, but parts of it, such as {parts[0]}: join them with tadp-d2 captions merge"
        )
    return find_caption_file(path.parent, path.stem)


def dataset_of(dataset: str) -> str:
    """The data set that a command's argument means: a caption file is named after its data set."""
    path = Path(dataset)
    if path.suffix not in (".json", ".jsonl"):
        return dataset
    return re.sub(r"\.shard-\d+-of-\d+$", "", path.stem)
