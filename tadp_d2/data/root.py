"""Where the data sets lie, and the message if one is not there."""

import os
from pathlib import Path

from tadp_d2.errors import UserError


def datasets_root() -> Path:
    """`$DETECTRON2_DATASETS`, or `datasets`."""
    return Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))


def data_set_guide() -> str:
    """Where layouts and sources of the data sets are described: a path, for messages."""
    installed = Path(__file__).parents[1] / "datasets" / "README.md"
    return str(installed) if installed.is_file() else "datasets/README.md"


def not_found(dataset: str, missing: Path, expected: str) -> UserError:
    """The error for a data set that is absent.

    Args:
        missing: what is not there.
        expected: the layout that was expected.
    """
    return UserError(
        f"data set {dataset!r} not found: there is no {missing}. Expected {expected}; "
        f"{data_set_guide()} lists its source. Set DETECTRON2_DATASETS to the folder that "
        "holds the data sets, or write small synthetic data sets: tadp-d2 synth FOLDER"
    )
