"""Models of the Hugging Face hub: the local copy of one, and fetching it."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from tadp_d2.errors import UserError, reason


def local_copy(name: str, revision: str = "") -> Path | None:
    """The folder of a model in the local cache; the network is not asked."""
    try:
        return Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def fetch(name: str, revision: str, patterns: Sequence[str], what: str, advice: str) -> Path:
    """The folder of a model, of which the files that match are there now.

    Args:
        what: the kind of model, for the message.
        advice: what to do if it cannot be had, for the message.

    Raises:
        UserError: the hub does not give it.
    """
    try:
        return Path(
            snapshot_download(name, revision=revision or None, allow_patterns=list(patterns))
        )
    # Besides the hub's errors there are those of its transports: a transfer that is cut off, a
    # proxy that answers with a page of its own.
    except Exception as error:
        raise UserError(
            f"no {what} {name!r}: it is not a folder, and the hub does not give it "
            f"({reason(error)}). {advice}"
        ) from None
