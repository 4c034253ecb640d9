"""Finds the folder of a Stable Diffusion model: a local one, or the local copy of a hub's.

Everything else loads from that folder, so that loading never touches the network.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants

from tadp_d2.errors import UserError
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
    if os.path.isdir(name):
        folder, missing = Path(name), missing_parts(Path(name))
    else:
        folder = local_copy(name, revision)
        missing = missing_parts(folder) if folder else list(PARTS)
        if missing and not constants.HF_HUB_OFFLINE:
            folder = fetch(name, revision, _patterns(), "diffusion model", _ADVICE)
            missing = missing_parts(folder)
    if folder is None:
        raise UserError(
            f"no diffusion model {name!r}: it is neither a folder nor in the local hub cache, and "
            f"HF_HUB_OFFLINE is set. {_ADVICE}"
        )
    if missing:
        raise UserError(f"{folder}: lacks {', '.join(missing)} of a diffusion model. {_ADVICE}")
    return folder


_ADVICE = (
    "MODEL.DIFFUSION.WEIGHTS must name a Stable Diffusion folder in diffusers' format (with "
    f"{', '.join(f'{part}/' for part in PARTS)}) or a hub id; `tadp-d2 synth` writes a tiny one"
)


@contextlib.contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Turns what diffusers and transformers raise for damaged files, of many kinds, into one.

    Raises:
        UserError: the block failed.
    """
    try:
        yield
    except Exception as error:
        raise UserError(
            f"{folder}: cannot be loaded ({str(error).strip().splitlines()[0]}); replace it by an "
            "undamaged copy"
        ) from error


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
