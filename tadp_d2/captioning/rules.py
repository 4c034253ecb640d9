"""Removing a target domain's words from a caption by rules: offline, the same result every time.

The tables of a domain (`conditioning.style_words`) are its words, grouped by what they do in a
sentence, and an ordered list of `Rule`s that define what becomes of them. Three decisions stand
behind the rules:

* At the head of a caption the name of a work is a frame, and goes: "a painting of a dog" is "a
  dog". So do a medium ("in watercolor"), a style ("in the style of ..."), an artist ("illustration
  by ...") and whatever qualifies the work ("three black and white drawings of ...").
* Elsewhere a work is a thing in the scene, and stays as the neutral word for it: "a dog looking at
  a painting on the wall" is "a dog looking at a picture on the wall". Paint is a "color", a painter
  a "person", a sketchbook a "book".
* No word of the domain is left, and every other noun survives. What is content although it holds
  such a word is listed per domain ("martial arts", "dark blue").

Asking a language model instead is done in `llm`, choosing captions and storing texts in `cleaning`.
"""

import hashlib
import re
from functools import cache
from pathlib import Path

from tadp_d2.conditioning import style_words
from tadp_d2.conditioning.domains import DOMAINS
from tadp_d2.conditioning.style_words import Grammar, Rule
from tadp_d2.errors import UserError

# What is left of a caption that names nothing but its style. The paper's cleaned captions use the
# same neutral word ("an image of a bird and a dog").
NEUTRAL = "an image"

VERSION = hashlib.sha256(
    Path(__file__).read_bytes() + Path(style_words.__file__).read_bytes()
).hexdigest()[:12]


# Words that carry no content of their own; they end a name and begin a phrase.
_FUNCTION = {
    "DET": """a|an|the|this|that|these|those|his|her|its|their|my|your|our|some|many|several|
        both|one|two|three|four|five|six|seven|eight|nine|ten|no|every|each|another""",
    "LINK": """in|on|at|and|or|with|without|while|near|under|over|behind|beside|by|from|to|into|
        around|above|through|next|inside|outside|against|as|who|which|but|along|across""",
    "OTHER": """of|for|is|are|was|were|be|has|have|it|he|she|they|him|them|there|not|
        like|than|up|down|out|off|very""",
    # What leads from the name of a work to what it shows.
    "SHOWS": """of|with|for|showing|shows|depicting|depicts|featuring|features|that~shows|
        that~depicts|containing""",
    "BE": "is|are|was|were",
    "NEUTRAL_WORK": "image|picture|photo|photograph|close~up|view",
}
# Pieces of patterns that are no lists of words.
_START = r"(?:^|(?<=[,;:.!?] )|(?<= - ))"
_END = r"""(?=\s*(?:[,;:.!?"]|- |$))"""
_GAP = "[ -]?"


def remove_style(text: str, domain: str) -> str:
    """A caption without the words of a target domain.

    Args:
        domain: one of `DOMAINS`.

    Returns:
        The text with single spaces and without a leading dash; `NEUTRAL` if nothing else is left.
        Cleaning it again changes nothing.

    Raises:
        UserError: there is no such domain.
    """
    language = _language(domain)
    text = re.sub(r"^[-–—\s]+", "", " ".join(text.split()))
    shielded, phrases = language.shield(text)
    for _ in range(len(shielded) + 1):
        before = shielded
        for pattern, becomes in language.rules:
            shielded = pattern.sub(rf"\g<kept>{becomes} ", shielded)
            shielded = " ".join(shielded.split())
        shielded = _tidy(shielded, before)
        if shielded == before:
            break
    return language.unshield(shielded, phrases) or NEUTRAL


def style_words_left(text: str, domain: str) -> list[str]:
    """The words of a target domain in a text, in lower case and in the text's order.

    Raises:
        UserError: there is no such domain.
    """
    language = _language(domain)
    shielded, _ = language.shield(" ".join(text.split()))
    return [match[0].rstrip(" -").lower() for match in language.left.finditer(shielded)]


def content_words(text: str, domain: str) -> set[str]:
    """The words of a text that are neither the domain's nor function words, in lower case.

    Raises:
        UserError: there is no such domain.
    """
    language = _language(domain)
    shielded, phrases = language.shield(" ".join(text.lower().split()))
    bare = language.unshield(language.left.sub(" ", shielded), phrases)
    words = {word.removesuffix("'s") for word in re.findall(r"\w+(?:['’]\w+)?", bare)}
    return {word for word in words if not language.function.fullmatch(word)}


class _Language:
    """A grammar as regular expressions."""

    def __init__(self, grammar: Grammar):
        words = {**_FUNCTION, **grammar.words}
        self.classes = {name: _words(table) for name, table in words.items()}
        for name, table in grammar.words.items():
            self.classes[f"{name}_PLURAL"] = _words(table, plural="(?:e?s)")
            self.classes[f"{name}_OWN"] = _words(table, plural="(?:s?['’]s|s['’])")

        def join(*names: str) -> str:
            return _words("|".join(words[name] for name in names))

        style, function = join(*grammar.style), join(*_FUNCTION)
        runs, lead = join(*grammar.run), join("QUALIFIER", "SERIES")
        # A participle is no noun, but for these.
        verb = r"(?!(?:king|ring|wing|bed|building|being|string|thing|red|shed|sled|clothing)\b)"
        verb += r"\w{2,}(?:ing|ed)\b"
        noun = rf"(?!{function}|{style}|{lead}|{verb})(?<!\w)[\w\ue000-\uf8ff][\w'’]*{_GAP}"
        self.classes |= {
            "STYLE": style,
            "RUN": f"(?:{runs})(?:(?:and )?(?:{runs}))*",
            "NAME": rf"(?:{style}|(?!{function}|\w+ing\b)(?<!\w)\w[\w'’.&]*{_GAP})",
            "LEAD": f"(?:{lead}|{style}|{self.classes['TAIL']}|and )",
            "NOUN": f"(?:{noun})",
            # What may stand before a noun, or the noun.
            "THING": f"(?:{lead}|{noun}|{verb} {noun})",
            "ADVERB": rf"(?:(?<!\w)(?:\w+ly|very|quite){_GAP})",
            "END": _END,
            # Where the name of a work is a frame, not a thing.
            "FRAME": f"(?:{_START}|(?:{self.classes['NEUTRAL_WORK']})of )",
        }
        self.left = re.compile(style, re.IGNORECASE)
        self.function = re.compile(function, re.IGNORECASE)
        self.content = re.compile(_words(grammar.content, gap=""), re.IGNORECASE)
        self.rules = [(self._compile(rule), rule.becomes) for rule in grammar.rules]

    def shield(self, text: str) -> tuple[str, list[str]]:
        """Puts one private character in the place of each content phrase."""
        phrases: list[str] = []

        def replace(match: re.Match) -> str:
            phrases.append(match[0])
            return chr(0xE000 + len(phrases) - 1)

        return self.content.sub(replace, text), phrases

    def unshield(self, text: str, phrases: list[str]) -> str:
        for n, phrase in enumerate(phrases):
            text = text.replace(chr(0xE000 + n), phrase)
        return text

    def _compile(self, rule: Rule) -> re.Pattern:
        what, after, before = (
            "".join(self._token(token) for token in part.split())
            for part in (rule.what, rule.after, rule.before)
        )
        return re.compile(f"(?P<kept>{after}){what}(?={before})", re.IGNORECASE)

    def _token(self, token: str) -> str:
        count = token[-1] if token[-1] in "?*+" else ""
        names = token.removesuffix(count).split("|")
        return f"(?:{'|'.join(self.classes.get(n) or _words(n, plural='') for n in names)}){count}"


@cache
def _language(domain: str) -> _Language:
    if domain not in DOMAINS:
        raise UserError(f"unknown domain {domain!r}: expected one of {', '.join(DOMAINS)}")
    return _Language(DOMAINS[domain].words)


def _words(table: str, plural: str = "(?:e?s)?", gap: str = _GAP) -> str:
    """A regular expression for any of the words, with what separates it from the next one."""
    alternatives = "".join(table.split("\n")).replace(" ", "")
    longest_first = sorted(alternatives.split("|"), key=len, reverse=True)
    either = "|".join(re.escape(word).replace("\\~", "~") for word in longest_first)
    either = either.replace("~", "[ -]?")
    # Atomic: what is a longer phrase of the table is never taken for a shorter one.
    return rf"(?>(?<!\w)(?:{either}){plural}(?:['’]s)?(?!\w){gap})"


def _tidy(text: str, before: str) -> str:
    """Repairs what removals leave: spaces, punctuation, loose ends, articles, repetitions."""
    if text == before:
        return text
    text = re.sub(r"\s+([,;:.!?])", r"\1", " ".join(text.split()))
    text = re.sub(r"^[\s,;:.!?–—-]+|[\s,;:–—-]+$", "", text)
    loose = r"(?:a|an|the|of|in|as|with|by|and|or|for|from|at|is|are|was|that|which|this|there|to)"
    text = re.sub(rf"(?:(?:^|(?<=\s)){loose}\s*)+(?=[,;:.!?]|- |$)", "", text, flags=re.I)
    text = re.sub(r"^(?:of|in|as|with|by|and|or|for|from|at|is|are)\s+", "", text, flags=re.I)
    text = re.sub(
        r"\b(?:a|an|the) (?=(?:a|an|the|of|in|with|and|on|is|are) )", "", text, flags=re.I
    )
    text = re.sub(r"\b(and|with|of) (?:and|with|of) ", r"\1 ", text, flags=re.I)
    text = re.sub(r"\s+([,;:.!?])", r"\1", text).strip(" ,;:–—-")
    text = re.sub(r'" ?([^"]*?) ?"', r'"\1"', text)
    parts = list(dict.fromkeys(part.strip() for part in text.split(" - ")))
    return _articles(" ".join(" - ".join(part for part in parts if part).split()), before)


def _articles(text: str, before: str) -> str:
    """Fits a and an to the words that they have come to stand in front of."""
    article = re.compile(r"\b(an?) ([\w\ue000-\uf8ff]+)", re.IGNORECASE)
    known = {match[0].lower() for match in article.finditer(before)}

    def fit(match: re.Match) -> str:
        word = match[2].lower()
        if match[0].lower() in known or not word[0].isalpha():
            return match[0]
        silent = re.match(r"hour|honest|honou?r|heir", word)
        spoken = re.match(r"uni(?!m|n)|use|usual|euro|one\b|once|ukulele|ufo", word)
        return (
            f"{match[1][0]}{'n' if silent or word[0] in 'aeiou' and not spoken else ''} {match[2]}"
        )

    return article.sub(fit, text)
