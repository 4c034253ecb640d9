"""The texts of images that belong to no data set: from a file, or from a captioner now."""

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from tadp_d2.captioning.blip2 import DEFAULT_MODEL, blip2
from tadp_d2.captioning.caption import caption_images
from tadp_d2.captioning.sets import CaptionImage
from tadp_d2.captioning.store import CaptionStore
from tadp_d2.data.readers.refer import read_json
from tadp_d2.data.texts import CaptionFile, Kind, read_captions
from tadp_d2.errors import UserError
from tadp_d2.progress import progress_line


def look_up(pictures: Mapping[Path, str], captions: CaptionFile) -> dict[Path, str]:
    """Image -> its caption in a file.

    An image id is the end of an image's path, with or without the file's ending: "5001" for
    JPEGImages/5001.jpg, "night/a/b.png" for rgb_anon/val/night/a/b.png. The longest end counts.

    Raises:
        UserError: the file has none for an image.
    """
    found = _find_all(pictures, captions.records, captions.path, "caption")
    return {path: captions[image_id] for path, image_id in found.items()}


def look_up_expressions(pictures: Mapping[Path, str], file: Path) -> dict[Path, list[str]]:
    """Image -> its expressions in a JSON file, `{image id: [expression, ...]}`.

    Image ids are those of `look_up`.

    Raises:
        UserError: the file is damaged or another one, or has none for an image.
    """
    content = read_json(file)
    if not isinstance(content, dict) or not all(map(_are_expressions, content.values())):
        raise UserError(
            f'{file}: expected {{"image id": ["an expression", ...], ...}}, with one expression or '
            "more for each image and none of them empty"
        )
    found = _find_all(pictures, content, file, "expression")
    return {path: content[image_id] for path, image_id in found.items()}


def look_up_rooms(pictures: Mapping[Path, str], file: Path) -> dict[Path, str]:
    """Image -> its room in a JSON file, `{image id: room}`; image ids as those of `look_up`.

    Raises:
        UserError: the file is damaged or another one, or has none for an image.
    """
    content = read_json(file)
    if not isinstance(content, dict) or not all(isinstance(room, str) for room in content.values()):
        raise UserError(f'{file}: expected {{"image id": "kitchen", ...}}, a room for each image')
    found = _find_all(pictures, content, file, "room")
    return {path: content[image_id] for path, image_id in found.items()}


def _are_expressions(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(text, str) and text.strip() for text in value)
    )


def _find_all(
    pictures: Mapping[Path, str], known: Mapping[str, Any], file: Path, what: str
) -> dict[Path, str]:
    """Image -> its image id."""
    found = {path: _find(path, known) for path in pictures}
    missing = [path for path, image_id in found.items() if image_id is None]
    if missing:
        example = next(iter(known), "")
        raise UserError(
            f"{file}: no {what} for {missing[0]} ({len(missing)} such of {len(pictures)}); "
            "expected an image id with which its path ends, as those in the file are: "
            f"{example!r}"
        )
    return found


def _find(path: Path, known: Container[str]) -> str | None:
    parts = path.absolute().parts[1:]
    for start in range(len(parts)):
        end = Path(*parts[start:])
        for image_id in (end.as_posix(), end.with_suffix("").as_posix()):
            if image_id in known:
                return image_id
    return None


def make(
    pictures: Mapping[Path, str], model: str, device: str, file: Path, domain: str, kind: Kind
) -> tuple[dict[Path, str], dict[Path, str]]:
    """Captions by a model; those that an earlier, stopped run made are taken from the file.

    Args:
        pictures: image -> its name, which becomes its image id.
        model: "blip2" for the paper's, or a hub id or folder as `tadp-d2 caption --model`.
        file: the caption file that is begun or continued, ends in `.jsonl`.
        domain: whose words the rules remove from the captions; empty for none.
        kind: "raw" leaves them in.

    Returns:
        Image -> caption, and for each image that cannot be read the reason.

    Raises:
        UserError: as `blip2` and `caption_images`.
    """
    source = blip2(DEFAULT_MODEL if model == "blip2" else model, device=device)
    images = [CaptionImage(name, path) for path, name in pictures.items()]
    report = caption_images(
        images,
        source,
        file,
        file.parent.name,
        batch_size=8,
        skip_unreadable=True,
        progress=progress_line("captions"),
    )
    if domain and kind == "clean" and file.exists():
        # Imports openai's client, which takes longer than the prediction of a small model.
        from tadp_d2.captioning.cleaning import clean_by_rules

        with CaptionStore.existing(file) as store:
            clean_by_rules(store, domain)
    captions = read_captions(file, kind) if file.exists() else None
    made = {path: name for path, name in pictures.items() if name not in report.skipped}
    return (
        {path: captions[name] for path, name in made.items()},
        {path: report.skipped[name] for path, name in pictures.items() if path not in made},
    )
