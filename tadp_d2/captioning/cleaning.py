"""Cleaning a caption file: which captions, by what, and what came of it.

How a text is cleaned is in `rules` and in `llm`. A caption on which the language model fails is
cleaned by the rules, and its provenance records that.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import tadp_d2
from tadp_d2.captioning import llm, rules
from tadp_d2.captioning.store import CaptionStore
from tadp_d2.data.texts import Caption

Progress = Callable[[int, int], None]


@dataclass
class Summary:
    """What a run has done.

    Attributes:
        before: captions that had been cleaned in this way already.
        by: method -> captions cleaned by it.
        handed_over: reason -> captions that the language model failed on.
        changed: (raw, cleaned) of the captions whose cleaned text differs.
        left: captions of the file whose text still holds a word of the domain.
    """

    before: int = 0
    by: Counter[str] = field(default_factory=Counter)
    handed_over: Counter[str] = field(default_factory=Counter)
    changed: list[tuple[str, str]] = field(default_factory=list)
    left: int = 0

    def __str__(self) -> str:
        methods = ", ".join(f"{count} by {method}" for method, count in sorted(self.by.items()))
        lines = [f"{self.by.total()} captions cleaned" + (f" ({methods})" if methods else "")]
        lines[0] += f", {len(self.changed)} of them changed; {self.before} were cleaned before"
        lines += [f"  handed to the rules: {n} ({why})" for why, n in self.handed_over.items()]
        return "\n".join([*lines, f"captions with style words left: {self.left}"])


def rules_provenance(domain: str) -> dict[str, Any]:
    """What is stored beside a text that the rules have cleaned."""
    return {"method": "rules", "domain": domain, "rules": rules.VERSION, "tool": _tool()}


def llm_provenance(domain: str, model: str) -> dict[str, Any]:
    """What is stored beside a text that a language model has cleaned."""
    version = llm.instruction_version(domain)
    own = {"method": "llm", "domain": domain, "model": model, "instruction": version}
    return {**own, "tool": _tool()}


def pending(
    records: Mapping[str, Caption], provenance: Mapping[str, Any], again: bool = False
) -> dict[str, list[str]]:
    """Distinct captions that are not cleaned in this way yet, with the ids of their images.

    Args:
        provenance: of the cleaning that is to be done.
        again: all captions, cleaned or not.
    """
    found: dict[str, list[str]] = {}
    for image_id, record in records.items():
        if again or not _is_done(record, provenance):
            found.setdefault(record.raw, []).append(image_id)
    return found


def clean_by_rules(
    store: CaptionStore, domain: str, again: bool = False, progress: Progress | None = None
) -> Summary:
    """Cleans a file's captions by rules.

    Raises:
        UserError: there is no such domain.
    """
    provenance = rules_provenance(domain)
    todo = pending(store.records, provenance, again)
    answers = [llm.ServerAnswer(raw, rules.remove_style(raw, domain)) for raw in todo]
    return _store_all(store, domain, todo, [answers], provenance, progress)


def clean_by_llm(
    store: CaptionStore,
    domain: str,
    server: llm.Server,
    model: str,
    again: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Cleans a file's captions with a language model; what it has answered is stored at once.

    Raises:
        UserError: the server refuses, or fails for good; what it had answered is stored.
    """
    provenance = llm_provenance(domain, model)
    todo = pending(store.records, provenance, again)
    return _store_all(store, domain, todo, server.clean(list(todo)), provenance, progress)


def _store_all(
    store: CaptionStore,
    domain: str,
    todo: Mapping[str, list[str]],
    arriving: Iterable[list[llm.ServerAnswer]],
    provenance: Mapping[str, Any],
    progress: Progress | None,
) -> Summary:
    total = sum(len(image_ids) for image_ids in todo.values())
    summary = Summary(before=len(store.records) - total)
    for answers in arriving:
        cleaned = {}
        for answer in answers:
            text, by = _final(answer, domain, provenance)
            count = len(todo[answer.raw])
            cleaned |= dict.fromkeys(todo[answer.raw], (text, by))
            summary.by[by["method"]] += count
            if answer.text is None:
                summary.handed_over[answer.reason] += count
            if text != answer.raw:
                summary.changed += [(answer.raw, text)] * count
        store.add_cleaned(cleaned)
        done = summary.by.total()
        for n in range(done - len(cleaned) + 1, done + 1) if progress else ():
            progress(n, total)
    texts = (record.text("clean") for record in store.records.values())
    summary.left = sum(bool(rules.style_words_left(text, domain)) for text in texts)
    return summary


def _final(
    answer: llm.ServerAnswer, domain: str, provenance: Mapping[str, Any]
) -> tuple[str, Mapping[str, Any]]:
    """The text to store and its provenance."""
    if answer.text is not None:
        return answer.text, provenance
    asked = {key: provenance[key] for key in ("model", "instruction")}
    by = {**rules_provenance(domain), "after": "llm", "reason": answer.reason, **asked}
    return rules.remove_style(answer.raw, domain), by


def _is_done(record: Caption, provenance: Mapping[str, Any]) -> bool:
    by = record.cleaned_by
    if record.clean is None:
        return False
    if provenance["method"] == "rules":
        keys = ("method", "domain", "rules")
    else:
        # A caption that was asked in vain has been paid for too.
        if "llm" not in (by.get("method"), by.get("after")):
            return False
        keys = ("domain", "model", "instruction")
    return all(by.get(key) == provenance[key] for key in keys)


def _tool() -> str:
    return f"tadp_d2 {tadp_d2.__version__}"
