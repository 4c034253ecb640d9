"""Parts of a data set that are captioned apart, on several machines, and their merging."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tadp_d2.captioning.sets import CaptionImage
from tadp_d2.data.texts import Caption, CaptionFile, header, read_captions
from tadp_d2.errors import UserError
from tadp_d2.files import replacing


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """
        Raises:
            UserError: the text is not such as 1/4.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        index, count = map(int, match.groups()) if match else (0, 0)
        if not 1 <= index <= count:
            raise UserError(f"--shard {text}: expected PART/PARTS from 1/1 on, such as 2/4")
        return cls(index, count)

    def path(self, whole: Path) -> Path:
        """The caption file of this part, beside that of the whole data set."""
        return whole.with_name(f"{whole.stem}.shard-{self.index}-of-{self.count}.jsonl")

    def take(self, images: Sequence[CaptionImage]) -> list[CaptionImage]:
        """This part of a data set: every `count`-th image in the order of their ids.

        Raises:
            UserError: there are fewer images than parts.
        """
        if self.count > len(images):
            raise UserError(f"--shard {self.index}/{self.count}: there are {len(images)} images")
        return sorted(images, key=lambda image: image.image_id)[self.index - 1 :: self.count]


def find_shards(whole: Path) -> dict[Shard, Path]:
    """The caption files of parts beside the caption file of the whole data set."""
    pattern = re.compile(re.escape(whole.stem) + r"\.shard-(\d+)-of-(\d+)\.jsonl")
    matches = [pattern.fullmatch(p.name) for p in whole.parent.glob("*.shard-*-of-*.jsonl")]
    shards = [Shard(int(match[1]), int(match[2])) for match in matches if match]
    return {shard: shard.path(whole) for shard in sorted(shards, key=lambda s: (s.count, s.index))}


def merge(dataset: str, images: Sequence[CaptionImage], whole: Path) -> list[Path]:
    """Writes the caption file of a data set from those of its parts, which stay as they are.

    Args:
        dataset: the name that the file states.
        images: all images of the data set.
        whole: the file to write; the parts lie beside it.

    Returns:
        The parts.

    Raises:
        UserError: `whole` exists, a part is missing or was made with other settings, an image has
            no caption or two, or a caption no image. Nothing is written then.
    """
    if whole.exists():
        raise UserError(f"{whole} exists already: remove it first if the parts should replace it")
    paths = _complete(find_shards(whole), whole)
    files = [read_captions(path) for path in paths]
    for file in files[1:]:
        _check_same_settings(files[0], file)
    records = _join(files)
    ids = [image.image_id for image in images]
    _check_covered(ids, records, dataset)
    with replacing(whole) as temporary, open(temporary, "w", encoding="utf-8") as out:
        out.write(json.dumps(header(dataset, files[0].made_by)) + "\n")
        for image_id in ids:
            out.write(json.dumps(_row(image_id, records[image_id]), ensure_ascii=False) + "\n")
    return paths


def _complete(shards: Mapping[Shard, Path], whole: Path) -> list[Path]:
    counts = sorted({shard.count for shard in shards})
    if not shards:
        raise UserError(f"no parts to merge: expected {Shard(1, 2).path(whole)} or the like")
    if len(counts) > 1:
        raise UserError(
            f"{whole.parent}: holds parts of {counts[0]} and of {counts[1]} for {whole.stem}; move "
            "those away that are not meant"
        )
    expected = [Shard(index, counts[0]) for index in range(1, counts[0] + 1)]
    missing = [shard for shard in expected if shard not in shards]
    if missing:
        raise UserError(
            f"no {missing[0].path(whole)} ({len(missing)} of {counts[0]} parts are missing): make "
            f"it with tadp-d2 caption ... --shard {missing[0].index}/{missing[0].count}"
        )
    return [shards[shard] for shard in expected]


def _check_same_settings(first: CaptionFile, other: CaptionFile) -> None:
    for key in sorted({*first.made_by, *other.made_by}):
        a, b = first.made_by.get(key), other.made_by.get(key)
        if a != b:
            raise UserError(
                f"{first.path} was made with {key} {a!r}, {other.path} with {b!r}: parts of one "
                "data set need the same settings"
            )


def _join(files: Sequence[CaptionFile]) -> dict[str, Caption]:
    records: dict[str, Caption] = {}
    for file in files:
        doubles = sorted(records.keys() & file.records.keys())
        if doubles:
            raise UserError(
                f"{file.path}: image {doubles[0]!r} has a caption in another part too "
                f"({len(doubles)} such); remove it from one of them"
            )
        records |= file.records
    return records


def _check_covered(ids: Sequence[str], records: Mapping[str, Caption], dataset: str) -> None:
    gaps = [image_id for image_id in ids if image_id not in records]
    if gaps:
        raise UserError(
            f"data set {dataset!r}: no part has a caption for image {gaps[0]!r} ({len(gaps)} such "
            f"of {len(ids)}); run tadp-d2 caption ... --shard once more for every part"
        )
    strangers = sorted(records.keys() - set(ids))
    if strangers:
        raise UserError(
            f"data set {dataset!r} has no image {strangers[0]!r}, for which there is a caption "
            f"({len(strangers)} such); are the parts those of another data set?"
        )


def _row(image_id: str, caption: Caption) -> dict:
    row = {"image_id": image_id, "raw": caption.raw}
    row |= {k: v for k in ("image_sha256", "date") if (v := getattr(caption, k))}
    if caption.clean is not None:
        row |= {"clean": caption.clean, "cleaned_by": caption.cleaned_by}
    return row
