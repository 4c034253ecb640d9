"""The way from a model's name to its folder: a local one, or the local copy of a hub's.

Everything else loads from that folder, so that loading never touches the network. What its parts
may hold is `model_part`'s.
"""

import contextlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from tadp_d2.errors import UserError, reason


@dataclass(frozen=True)
class Format:
    """What the folder of a kind of model holds.

    Attributes:
        what: the kind of model, for messages.
        files: each under one of several names, relative to the folder.
        fetched: patterns of what is fetched of a hub's model, no pickles among it.
        advice: what a name must be, for messages.
    """

    what: str
    files: Sequence[Sequence[str]]
    fetched: Sequence[str]
    advice: str

    def missing(self, folder: Path) -> list[str]:
        """What a folder lacks, such as `vae/config.json`, and what is there instead.

        Weights may also be of a variant, if there is one only.
        """
        missing = []
        for names in self.files:
            found = next((name for name in names if (folder / name).is_file()), None)
            variants = {} if found else _variants(folder, names)
            if len(variants) == 1:
                (found,) = variants.values()
            if found is None:
                missing.append(" or ".join(names[:2]) + _instead(folder, names, variants))
            elif ".index." in found:
                missing += _missing_shards(folder, found)
        return missing

    def check(self, folder: Path) -> None:
        """
        Raises:
            UserError: a file is missing.
        """
        missing = self.missing(folder)
        if missing:
            raise UserError(f"{folder}: lacks {', '.join(missing)} of a {self.what}. {self.advice}")


_INDEX = ".index.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_DIFFUSION_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def or_shards(*names: str) -> tuple[str, ...]:
    """Names of files of weights, which may also be cut into several with an index."""
    return (*names, *(name + _INDEX for name in names))


def find_variant(folder: Path) -> str | None:
    """The variant of a part's weights, such as "fp16", where there is no other; else None."""
    names = or_shards(*_DIFFUSION_WEIGHTS, *WEIGHTS)
    if any((folder / name).is_file() for name in names):
        return None
    return next(iter(_variants(folder, names)), None)


def _variants(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Variant -> its file, of weights that should have one of some names, as diffusers names them.

    Such as `model.fp16.safetensors`, or the index `model.safetensors.index.fp16.json`.
    """
    variants: dict[str, str] = {}
    for name in names:
        stem, _, suffix = name.rpartition(".")
        for path in sorted((folder / stem).parent.glob(f"{Path(stem).name}.*.{suffix}")):
            variant = path.name.removeprefix(f"{Path(stem).name}.").removesuffix(f".{suffix}")
            if variant.isidentifier():
                variants.setdefault(variant, path.relative_to(folder).as_posix())
    return variants


UNET_FOLDER = Format(
    "UNet",
    (("config.json",), or_shards(*_DIFFUSION_WEIGHTS)),
    (),
    "MODEL.DIFFUSION.UNET must name a UNet folder in diffusers' format",
)
# Of a Stable Diffusion model, what a backbone needs: part -> files.
_PARTS = {
    "tokenizer": (("vocab.json", "tokenizer.json"),),
    "text_encoder": (("config.json",), or_shards(*WEIGHTS)),
    "vae": UNET_FOLDER.files,
    "unet": UNET_FOLDER.files,
}
_FILES = tuple(
    tuple(f"{part}/{name}" for name in names) for part, files in _PARTS.items() for names in files
)
_SCHEDULER = "scheduler/scheduler_config.json"
STABLE_DIFFUSION = Format(
    "diffusion model",
    _FILES,
    # Of weights the first name only: neither variants nor pickled twins.
    (*(names[0] for names in _FILES), "tokenizer/*", _SCHEDULER),
    "MODEL.DIFFUSION.WEIGHTS must name a Stable Diffusion folder in diffusers' format (with "
    f"{', '.join(f'{part}/' for part in _PARTS)}), a checkpoint of one file or a hub id; `tadp-d2 "
    "synth` writes a tiny one",
)
# Who teaches a model needs the noise schedule that it was trained with.
TEACHABLE = replace(STABLE_DIFFUSION, files=(*_FILES, (_SCHEDULER,)))
TOKENIZER = Format(
    "tokenizer", _FILES[:1], ("tokenizer/*",), "--weights names the folder of a diffusion model"
)


# What Stable Diffusion XL has besides: a second tokenizer and text encoder.
_XL_FILES = tuple(
    tuple(name.replace("/", "_2/") for name in names)
    for names in _FILES
    if names[0].startswith("t")
)
STABLE_DIFFUSION_XL = replace(
    STABLE_DIFFUSION,
    files=(*_FILES, *_XL_FILES),
    fetched=(*STABLE_DIFFUSION.fetched, *(names[0] for names in _XL_FILES), "tokenizer_2/*"),
)
_T5 = "text_encoder_3/model"
# T5, the third text encoder, is optional.
STABLE_DIFFUSION_3 = replace(
    STABLE_DIFFUSION_XL,
    files=tuple(
        tuple(name.replace("unet/", "transformer/") for name in names)
        for names in STABLE_DIFFUSION_XL.files
    ),
    fetched=(
        *(name.replace("unet/", "transformer/") for name in STABLE_DIFFUSION_XL.fetched),
        *("text_encoder_3/config.json", f"{_T5}.safetensors", f"{_T5}-*.safetensors"),
        *(f"{_T5}.safetensors{_INDEX}", "tokenizer_3/*"),
    ),
)
# What tells the kind of a pipeline, before any of its weights are fetched.
_INDEX_OF_PARTS = "model_index.json"
PIPELINE = Format(
    "diffusion model", ((_INDEX_OF_PARTS,),), (_INDEX_OF_PARTS,), STABLE_DIFFUSION.advice
)


@dataclass(frozen=True)
class Pipeline:
    """What `model_index.json` tells of a model.

    Attributes:
        name: of diffusers' pipeline, such as "StableDiffusionPipeline".
        parts: part -> the class that computes it.
    """

    name: str
    parts: Mapping[str, str]


def read_pipeline(folder: Path) -> Pipeline | None:
    """What the folder of a model tells of itself; None where it has no `model_index.json`.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / _INDEX_OF_PARTS
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
        parts = {name: part[1] for name, part in content.items() if isinstance(part, list)}
        kinds = {name: str(kind) for name, kind in parts.items() if kind}
        return Pipeline(str(content["_class_name"]), kinds)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read as the index of a model ({reason(error)}); replace it by an "
            "undamaged copy"
        ) from None


def find_folder(kind: Format, name: str, revision: str = "", ask_hub: bool = True) -> Path:
    """The folder of a model.

    Args:
        name: a local folder, or the id of a model on the hub. A hub model that is in the local
            cache is used from there without asking the network; with `HF_HUB_OFFLINE=1` the network
            is never asked.
        revision: branch, tag or commit of the hub's model; empty for its main branch.
        ask_hub: whether a model that is not here in full is fetched.

    Raises:
        UserError: there is no such model, or a file of it is missing.
    """
    if os.path.isdir(name):
        if revision:
            raise UserError(
                f"{name} is a folder and has no revision {revision!r}: leave the revision out"
            )
        folder = Path(name)
    else:
        _check_id(kind, name)
        folder = _cached(name, revision)
        if ask_hub and not constants.HF_HUB_OFFLINE and (not folder or kind.missing(folder)):
            # What is here in part is completed, not mixed with a newer version.
            folder = _fetch(kind, name, folder.name if folder else revision)
    if folder is None:
        offline = ", and HF_HUB_OFFLINE is set" if ask_hub else ""
        raise UserError(
            f"no {kind.what} {name!r}: it is neither a folder nor in the local hub cache{offline}. "
            f"{kind.advice}"
        )
    kind.check(folder)
    return folder


def _check_id(kind: Format, name: str) -> None:
    """
    Raises:
        UserError: a name that is no folder's cannot be a hub's, either.
    """
    if os.path.isfile(name):
        raise UserError(f"{name} is a file, not the folder of a {kind.what}. {kind.advice}")
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise UserError(
            f"no {kind.what} {name!r}: there is no such folder, and a hub id has the form "
            f"OWNER/NAME. {kind.advice}"
        ) from None


def find_here(name: str, revision: str = "") -> Path | None:
    """What is on this machine of a model, complete or not; the network is not asked."""
    return Path(name) if os.path.isdir(name) else _cached(name, revision)


def _cached(name: str, revision: str) -> Path | None:
    """The folder of a model in the hub's local cache; the network is not asked."""
    try:
        return Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _fetch(kind: Format, name: str, revision: str) -> Path:
    """
    Raises:
        UserError: the hub does not give it.
    """
    try:
        return Path(
            snapshot_download(name, revision=revision or None, allow_patterns=list(kind.fetched))
        )
    # Besides the hub's errors there are those of its transports: a transfer that is cut off, a
    # proxy that answers with a page of its own.
    except Exception as error:
        raise UserError(
            f"no {kind.what} {name!r}: it is not a folder, and the hub does not give it "
            f"({reason(error)}). {kind.advice}"
        ) from None


def _missing_shards(folder: Path, index: str) -> list[str]:
    try:
        shards = set(json.loads((folder / index).read_text("utf-8"))["weight_map"].values())
        return sorted(
            (Path(index).parent / shard).as_posix()
            for shard in shards
            if not (folder / index).with_name(shard).is_file()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{folder / index}: cannot be read as an index of shards ({reason(error)}); replace it "
            "by an undamaged copy"
        ) from None


def _instead(folder: Path, names: Sequence[str], variants: Collection[str]) -> str:
    """What weights a folder has where it lacks those of the expected names, and what to do."""
    expected = folder / names[0]
    if expected.suffix != ".safetensors":
        return ""
    kinds = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".onnx")
    others = sorted(path.name for path in expected.parent.glob("*") if path.suffix in kinds)
    if not others:
        return ""
    told = f" (there is {', '.join(others[:3])}"
    if variants:
        told += f", of the variants {' and '.join(variants)}: leave one of them in the folder"
    return told + ")"


@contextlib.contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Turns what diffusers and transformers raise for damaged files, of many kinds, into one.

    What they would only warn of is `model_part`'s.

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
