"""`tadp-d2 captions`: looking at caption files, merging their parts, exporting them."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tadp_d2.data.texts import CaptionFile

# How many images are named where many are concerned.
EXAMPLES = 5


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("captions", help="show, merge or export caption files")
    actions = parser.add_subparsers(required=True, metavar="action")
    _add_show(actions)
    merge = actions.add_parser("merge", help="join the parts that caption --shard made")
    _add_dataset(merge)
    merge.set_defaults(run=run_merge)
    export = actions.add_parser("export", help="write the format that TADP published")
    _add_dataset(export)
    export.add_argument("file", type=Path, help="new file, ends in .json")
    export.add_argument("--raw", action="store_true", help="captions as made, not as cleaned")
    export.set_defaults(run=run_export)


def _add_show(actions: argparse._SubParsersAction) -> None:
    show = actions.add_parser(
        "show", help="coverage, lengths, captions that look wrong; single ones"
    )
    _add_dataset(show)
    show.add_argument("image", nargs="*", help="ids of images whose captions are shown in full")
    show.add_argument("--domain", help="target domain: watercolor, comic or night")
    show.add_argument(
        "--prompt",
        metavar="MODIFIER",
        help="show the prompts of the images as the model reads them: null, simple, ti, "
        "dreambooth, nearby, unrelated, or a template with {caption}",
    )
    show.add_argument(
        "--weights",
        help="diffusion model whose tokenizer counts (default: MODEL.DIFFUSION.WEIGHTS's default)",
    )
    show.add_argument(
        "--token", action="append", default=[], help="file of a learned token, for --prompt"
    )
    show.set_defaults(run=run_show)


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="a registered data set, or a folder of images")
    parser.add_argument(
        "--caption-dir",
        type=Path,
        help="folder of the caption file (default: $DETECTRON2_DATASETS/captions)",
    )


def run_merge(args: argparse.Namespace) -> None:
    from tadp_d2.captioning.sets import caption_path, dataset_name, find_images
    from tadp_d2.captioning.shards import merge

    whole = caption_path(args.dataset, args.caption_dir)
    images = find_images(args.dataset)
    parts = merge(dataset_name(args.dataset), images, whole)
    print(f"{whole}: {len(images)} captions from {len(parts)} parts, which can be removed now")


def run_export(args: argparse.Namespace) -> None:
    from tadp_d2.captioning.export import export_captions
    from tadp_d2.captioning.show import find_captions
    from tadp_d2.data.texts import read_captions

    captions = read_captions(
        find_captions(args.dataset, args.caption_dir), "raw" if args.raw else "clean"
    )
    export_captions(captions, args.file)
    print(f"{args.file}: {len(captions.records)} captions in the published format")


def run_show(args: argparse.Namespace) -> None:
    from tadp_d2.captioning.show import find_captions
    from tadp_d2.data.texts import read_captions
    from tadp_d2.progress import hide_library_bars

    hide_library_bars()
    _check(args)
    captions = read_captions(find_captions(args.dataset, args.caption_dir))
    if args.image:
        _show_images(args, captions)
        return
    print(f"{captions.path}")
    _print_made_by(captions.made_by)
    _show_coverage(args.dataset, captions)
    _show_suspects(captions, args.domain)
    _show_lengths(captions, args)


def _check(args: argparse.Namespace) -> None:
    from tadp_d2.conditioning.domains import DOMAINS, get_modifier
    from tadp_d2.errors import UserError

    if args.domain and args.domain not in DOMAINS:
        raise UserError(f"--domain {args.domain}: expected one of {', '.join(DOMAINS)}")
    if args.prompt:
        if not args.image:
            raise UserError("--prompt shows the prompts of single images: name some")
        if get_modifier(args.domain or "", args.prompt).needs == "token" and not args.token:
            raise UserError(f"--prompt {args.prompt} needs the learned token: --token FILE")
    elif args.token:
        raise UserError("--token belongs to --prompt")


def _print_made_by(made_by) -> None:
    told = ", ".join(f"{key} {value}" for key, value in made_by.items()) or "not recorded"
    print(f"  made by: {told}")


def _show_coverage(dataset: str, captions: "CaptionFile") -> None:
    from tadp_d2.captioning.sets import find_images
    from tadp_d2.captioning.show import coverage, dataset_of
    from tadp_d2.errors import UserError

    cleaned = sum(caption.clean is not None for caption in captions.records.values())
    print(f"  captions: {len(captions.records)}, {cleaned} of them cleaned")
    try:
        images = find_images(dataset_of(dataset))
    except UserError as error:
        print(f"  images: not compared ({error})")
        return
    found = coverage([image.image_id for image in images], captions)
    print(f"  images: {found.images}, {found.images - len(found.missing)} with a caption")
    _print_some("images without a caption", found.missing)
    _print_some("captions without an image", found.strangers)


def _show_suspects(captions: "CaptionFile", domain: str | None) -> None:
    from tadp_d2.captioning.show import find_loops

    texts = captions.captions
    _print_some("empty captions", [i for i, text in texts.items() if not text.strip()])
    loops = [f"{i} ({loop!r})" for i, loop in find_loops(texts).items()]
    _print_some("captions that loop (a phrase three times in a row)", loops)
    if domain:
        _show_style_words(texts, domain)


def _show_style_words(texts: dict[str, str], domain: str) -> None:
    from tadp_d2.captioning.show import most_frequent, style_words

    found = style_words(texts, domain)
    if not found:
        print(f"  no caption has a word that tells of the domain {domain}")
        return
    words = ", ".join(f"{word} {number}" for word, number in most_frequent(found))
    print(f"  captions with words that tell of the domain {domain}: {len(found)} ({words})")


def _print_some(what: str, items: Sequence[str]) -> None:
    if items:
        more = f", and {len(items) - EXAMPLES} more" if len(items) > EXAMPLES else ""
        print(f"  {what}: {len(items)} ({', '.join(items[:EXAMPLES])}{more})")


def _show_lengths(captions: "CaptionFile", args: argparse.Namespace) -> None:
    from tadp_d2.captioning.show import find_tokenizer, token_lengths
    from tadp_d2.conditioning.domains import DOMAINS
    from tadp_d2.errors import UserError

    if not captions.records:
        return
    weights, revision = _weights(args)
    try:
        tokenizer = find_tokenizer(weights, revision)
    except UserError as error:
        if args.weights:
            raise
        print(f"  lengths: not counted: {error}")
        return
    domains = [args.domain] if args.domain else list(DOMAINS)
    lengths = token_lengths(list(captions.captions.values()), tokenizer, domains)
    ordered = sorted(lengths.captions)
    print(
        f"  CLIP tokens: {ordered[0]} to {ordered[-1]}, median {ordered[len(ordered) // 2]}; the "
        f"text encoder reads {lengths.limit}"
    )
    cut = {f"{d} {m}": n for (d, m), n in lengths.too_long.items() if n}
    told = ", ".join(f"{name} {number}" for name, number in cut.items()) or "none"
    print(f"  captions that lose words, by modifier: {told}")


def _weights(args: argparse.Namespace) -> tuple[str, str]:
    if args.weights:
        return args.weights, ""
    from tadp_d2.config.keys import KEYS

    return KEYS["MODEL.DIFFUSION.WEIGHTS"].default, KEYS["MODEL.DIFFUSION.REVISION"].default


def _show_images(args: argparse.Namespace, captions: "CaptionFile") -> None:
    records = [
        (image_id, captions[image_id], captions.records[image_id]) for image_id in args.image
    ]
    prompts = _prompts(args, [text for _, text, _ in records]) if args.prompt else []
    for number, (image_id, _, record) in enumerate(records):
        print(image_id)
        print(f"  raw:     {record.raw!r}  {record.date}".rstrip())
        if record.clean is not None:
            told = ", ".join(f"{key} {value}" for key, value in record.cleaned_by.items())
            print(f"  cleaned: {record.clean!r}  {told}".rstrip())
        if prompts:
            print(f"  prompt:  {prompts[number]!r}")
    _print_made_by(captions.made_by)


def _prompts(args: argparse.Namespace, texts: Sequence[str]) -> list[str]:
    """The prompts as the model reads them: cut to what the text encoder takes."""
    from tadp_d2.conditioning.caption_prompt import check_modifier, make_prompt
    from tadp_d2.conditioning.domains import get_modifier
    from tadp_d2.diffusion.families import open_diffusion_model

    modifier = get_modifier(args.domain or "", args.prompt)
    encoder = open_diffusion_model(*_weights(args)).load_text_encoder(args.token)
    check_modifier(modifier, encoder)
    return [make_prompt(text, modifier, encoder) for text in texts]
