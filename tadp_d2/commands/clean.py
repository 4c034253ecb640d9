"""`tadp-d2 clean`: the target domain's words leave the captions."""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from tadp_d2.captioning.rules import remove_style
from tadp_d2.conditioning.domains import DOMAINS
from tadp_d2.data.texts import Caption, read_captions
from tadp_d2.errors import UserError

# The default of tadp_d2.captioning.llm, which is slow to import.
MODEL = "gpt-3.5-turbo"


def add(commands: argparse._SubParsersAction) -> None:
    clean = commands.add_parser(
        "clean",
        help="remove every mention of the target domain from a data set's captions",
        description="Removes every mention of the target domain (style, medium, time of day) from "
        "a data set's captions and stores the cleaned texts beside the raw ones. A run that was "
        "stopped continues where it was, and asks for nothing twice.",
    )
    clean.add_argument(
        "dataset", help="a data set's name, a folder of images, or a caption file (.jsonl)"
    )
    clean.add_argument("--domain", required=True, choices=DOMAINS, help="what to remove")
    clean.add_argument(
        "--method",
        choices=("llm", "rules"),
        default="llm",
        help="llm: a language model at OPENAI_BASE_URL (OpenAI's own if not set) with the key in "
        "OPENAI_API_KEY. rules: offline (default: llm)",
    )
    clean.add_argument("--model", default=MODEL, help=f"default: {MODEL}, the paper's")
    clean.add_argument(
        "--per-request", type=_positive, default=20, metavar="N", help="captions (default: 20)"
    )
    clean.add_argument(
        "--concurrency", type=_positive, default=4, metavar="N", help="requests (default: 4)"
    )
    clean.add_argument(
        "--timeout",
        type=_seconds,
        default=60.0,
        metavar="S",
        help="seconds a request may take (60)",
    )
    clean.add_argument(
        "--retry-wait",
        type=_seconds,
        default=1.0,
        metavar="S",
        help="seconds before a failed request is repeated, doubled each time (1)",
    )
    clean.add_argument(
        "--dry-run", action="store_true", help="show what would be done and asked; send nothing"
    )
    clean.add_argument("--again", action="store_true", help="also what is cleaned already")
    clean.add_argument(
        "--show", type=int, default=0, metavar="N", help="print the first N changed captions"
    )
    clean.add_argument(
        "--caption-dir", type=Path, help="default: $DETECTRON2_DATASETS/captions", metavar="FOLDER"
    )
    clean.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tadp_d2.captioning.sets import caption_path

    path = caption_path(args.dataset, args.caption_dir)
    _check_exists(path, args.dataset)
    try:
        if args.dry_run:
            _rehearse(path, args)
        else:
            _clean(path, args)
    except KeyboardInterrupt:
        print(
            f"\ninterrupted: the texts cleaned so far are kept in {path}; the same command "
            "continues from there",
            file=sys.stderr,
        )
        sys.exit(130)


def _clean(path: Path, args: argparse.Namespace) -> None:
    from tadp_d2.captioning import cleaning
    from tadp_d2.captioning.llm import Server, ServerSettings
    from tadp_d2.captioning.store import CaptionStore
    from tadp_d2.progress import progress_line

    server = None
    if args.method == "llm":
        settings = ServerSettings(
            model=args.model,
            per_request=args.per_request,
            concurrency=args.concurrency,
            timeout=args.timeout,
            first_wait=args.retry_wait,
        )
        server = Server.from_environment(args.domain, settings)
    with CaptionStore.existing(path) as store:
        progress = progress_line("captions")
        if server is None:
            summary = cleaning.clean_by_rules(store, args.domain, args.again, progress)
        else:
            print(_plan(store.records, args)[0], flush=True)
            try:
                summary = cleaning.clean_by_llm(
                    store, args.domain, server, args.model, args.again, progress
                )
            finally:
                used = server.usage
                print(
                    f"answered requests: {used.requests}; tokens as the server counts them: "
                    f"{used.prompt_tokens} in, {used.completion_tokens} out"
                )
    print(f"{path}: {summary}")
    _show(summary.changed[: args.show])


def _rehearse(path: Path, args: argparse.Namespace) -> None:
    from tadp_d2.captioning import llm

    text, todo = _plan(read_captions(path).records, args)
    print(text)
    if args.method == "llm":
        for message in llm.messages(list(todo)[: args.per_request], args.domain) if todo else ():
            print(f"--- {message['role']}\n{message['content']}")
    else:
        pairs = ((raw, remove_style(raw, args.domain)) for raw in todo)
        _show([pair for pair in pairs if pair[0] != pair[1]][: args.show])


def _plan(
    records: Mapping[str, Caption], args: argparse.Namespace
) -> tuple[str, dict[str, list[str]]]:
    """What will be done, in words, and the captions that it is done to."""
    from tadp_d2.captioning import cleaning, llm

    if args.method == "llm":
        provenance = cleaning.llm_provenance(args.domain, args.model)
    else:
        provenance = cleaning.rules_provenance(args.domain)
    todo = cleaning.pending(records, provenance, args.again)
    images = sum(len(image_ids) for image_ids in todo.values())
    text = f"to clean: captions of {images} of {len(records)} images, {len(todo)} different ones"
    if args.method == "llm":
        cost = llm.estimate(list(todo), args.domain, args.per_request)
        text += (
            f"\nestimate for {args.model}: {cost.requests} requests, about {cost.prompt_tokens} "
            f"tokens in and {cost.completion_tokens} out (at {llm.CHARACTERS_PER_TOKEN} characters "
            "per token; more where an answer has to be asked for again)"
        )
    return text, todo


def _show(pairs: Iterable[tuple[str, str]]) -> None:
    for raw, cleaned in pairs:
        print(json.dumps(raw, ensure_ascii=False))
        print(f"  -> {json.dumps(cleaned, ensure_ascii=False)}")


def _check_exists(path: Path, dataset: str) -> None:
    if path.is_file():
        return
    published = Path(dataset) if dataset.endswith(".json") else path.with_suffix(".json")
    if published.is_file():
        raise UserError(
            f"{published} is in the published format, which has no place for cleaned texts: "
            f"tadp-d2 caption {published.stem} --source published imports it as {path.name}"
        )
    raise UserError(f"{path}: no such caption file; tadp-d2 caption {dataset} makes it")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, not {text}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, not {text}")
    return value
