"""What a caption command is about: a registered data set, or a folder of pictures."""

from pathlib import Path

from tadp_d2.data.root import datasets_root


def caption_path(dataset: str, folder: Path | None = None) -> Path:
    """The caption file of a data set, in our format; it need not exist.

    Args:
        dataset: a registered name, a folder of pictures (`pictures/` has `pictures.jsonl`), or the
            caption file itself.
        folder: of the caption files of registered data sets; None for
            `$DETECTRON2_DATASETS/captions`.
    """
    path = Path(dataset)
    if path.suffix == ".jsonl":
        return path
    if path.is_dir():
        return path.parent / f"{path.resolve().name}.jsonl"
    return (folder or datasets_root() / "captions") / f"{dataset}.jsonl"
