"""Finds the folder of a Stable Diffusion model: a local one, or the local copy of a hub's.

Everything else loads from that folder, so that loading never touches the network.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from tadp_d2.errors import UserError, reason
from tadp_d2.hub import fetch, local_copy

# What a Stable Diffusion folder in diffusers' format must hold for us: part -> files, each of
# which may have one of several names.
PARTS = {
    "tokenizer": [("vocab.json", "tokenizer.json")],
    "text_encoder": [("config.json",), ("model.safetensors", "pytorch_model.bin")],
    "vae": [
        ("config.json",),
        ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    ],
    "unet": [
        ("config.json",),
        ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    ],
}


def find_weights(name: str, revision: str = "") -> Path:
    """The folder of a Stable Diffusion model.

    Args:
        name: a local folder in diffusers' format, or the id of a model on the hub. A hub model
            that is in the local cache is used from there without asking the network; with
            `HF_HUB_OFFLINE=1` the network is never asked.
        revision: branch, tag or commit of the hub's model; empty for its main branch.

    Raises:
        UserError: there is no such model, or a part of it is missing.
    """
    if must_be_fetched(name, revision):
        folder = fetch(name, revision, _patterns(), "diffusion model", _ADVICE)
    else:
        folder = _local(name, revision)
    missing = missing_parts(folder) if folder else []
    if folder is None:
        raise UserError(
            f"no diffusion model {name!r}: it is neither a folder nor in the local hub cache, and "
            f"HF_HUB_OFFLINE is set. {_ADVICE}"
        )
    if missing:
        raise UserError(f"{folder}: lacks {', '.join(missing)} of a diffusion model. {_ADVICE}")
    return folder


def must_be_fetched(name: str, revision: str = "") -> bool:
    """Whether `find_weights` asks the hub for a model, because it is not here in full."""
    if os.path.isdir(name) or constants.HF_HUB_OFFLINE:
        return False
    folder = _local(name, revision)
    return folder is None or bool(missing_parts(folder))


def _local(name: str, revision: str) -> Path | None:
    return Path(name) if os.path.isdir(name) else local_copy(name, revision)


_ADVICE = (
    "MODEL.DIFFUSION.WEIGHTS must name a Stable Diffusion folder in diffusers' format (with "
    f"{', '.join(f'{part}/' for part in PARTS)}) or a hub id; `tadp-d2 synth` writes a tiny one"
)


@contextlib.contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Turns what diffusers and transformers raise for damaged files, of many kinds, into one.

    What they would only warn of is `check_complete`'s.

    Raises:
        UserError: the block failed.
    """
    # Imported here: a command that only looks for a folder should not wait for them.
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    verbosities = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{folder}: cannot be loaded ({reason(error)}); replace it by an undamaged copy"
        ) from error
    finally:
        for library, verbosity in zip(libraries, verbosities, strict=True):
            library.set_verbosity(verbosity)


def check_complete(folder: Path, report: dict[str, Any]) -> None:
    """
    Args:
        report: what `from_pretrained` of diffusers and transformers says of a model with
            `output_loading_info=True`. They make up what is missing at random.

    Raises:
        UserError: weights are missing, or have other shapes than the model's.
    """
    wrong = sorted(str(key) for key in report["missing_keys"])
    wrong += sorted(str(mismatch[0]) for mismatch in report["mismatched_keys"])
    if wrong:
        raise UserError(
            f"{folder}: its weights lack {wrong[0]} ({len(wrong)} such), or have it in another "
            "shape; replace it by an undamaged copy"
        )


def missing_parts(folder: Path) -> list[str]:
    """The files of `PARTS` that `folder` lacks, such as `vae/config.json`."""
    return [
        f"{part}/{' or '.join(names)}"
        for part, files in PARTS.items()
        for names in files
        if not any((folder / part / name).is_file() for name in names)
    ]


def _patterns() -> list[str]:
    # Only the first name of each file of weights: safetensors, not their pickled twins.
    return [f"{part}/{names[0]}" for part, files in PARTS.items() for names in files] + [
        "tokenizer/*"
    ]
