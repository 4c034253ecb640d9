"""The nouns of a text."""

from collections.abc import Callable
from importlib.metadata import version

from tadp_d2.errors import UserError


def load_noun_tagger() -> tuple[Callable[[str], list[str]], str]:
    """A function from a text to its nouns, and the tagger's name with its version.

    Each noun stands once, in their order. TextBlob's rule-based tagger (a lexicon of English with
    Brill's morphological and contextual rules) comes with all its data; NLTK's, which the paper
    uses, needs a download.

    Raises:
        UserError: TextBlob is not installed.
    """
    try:
        from textblob.taggers import PatternTagger
    except ImportError:
        raise UserError(
            "captions of nouns need a part-of-speech tagger: pip install textblob==0.20.1 (it "
            "works offline)"
        ) from None
    tagger = PatternTagger()

    def nouns_of(text: str) -> list[str]:
        tagged = tagger.tag(text) if text else []
        return list(dict.fromkeys(word for word, tag in tagged if tag.startswith("NN")))

    return nouns_of, f"textblob {version('textblob')} PatternTagger"
