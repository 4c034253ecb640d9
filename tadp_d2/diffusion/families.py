"""Opens a diffusion model: which family a model belongs to."""

import os
from pathlib import Path

from huggingface_hub import constants

from tadp_d2.diffusion.diffusion_model import DiffusionModel
from tadp_d2.diffusion.model_folder import PIPELINE, find_folder, find_here, read_pipeline
from tadp_d2.diffusion.single_file import SUFFIXES, convert_file
from tadp_d2.diffusion.stable_diffusion import StableDiffusion
from tadp_d2.diffusion.stable_diffusion_3 import StableDiffusion3
from tadp_d2.diffusion.stable_diffusion_xl import StableDiffusionXL
from tadp_d2.errors import UserError

# The first that opens a folder is taken; a further family goes before the others.
FAMILIES: list[type[DiffusionModel]] = [
    StableDiffusion3,
    StableDiffusionXL,
    StableDiffusion,
]


def open_diffusion_model(name: str, revision: str = "", unet: str = "") -> DiffusionModel:
    """Finds a model and checks the configs of its parts; no weights are read.

    Args:
        name, revision: as `find_model`.
        unet: folder of a fine-tuned UNet that replaces the model's; empty for none.

    Raises:
        UserError: as `find_model`; or a part asks for what is not computed, or does not go with the
            others.
    """
    family, folder = find_model(name, revision)
    model = family(folder, Path(unet) if unet else None)
    model.check()
    return model


def find_model(
    name: str, revision: str = "", teachable: bool = False
) -> tuple[type[DiffusionModel], Path]:
    """The family and the folder of a model. Of a hub's, weights are fetched once both are known.

    Args:
        name: as `find_folder`, or a checkpoint of one file as `convert_file`.
        revision: as `find_folder`.
        teachable: with what who teaches the model needs.

    Raises:
        UserError: there is no such model, it is of no family, or a file of it is missing.
    """
    given, name = name, as_folder(name)
    folder = find_here(name, revision)
    if not os.path.isdir(name) and (folder is None or not _is_known(folder)):
        folder = find_folder(PIPELINE, name, revision)
    family = _family_of(folder)
    kind = family.teachable if teachable else family.format
    if kind is None:
        raise UserError(f"{given}: a model of the family {family.what} cannot be taught here")
    if given != name and kind.missing(folder):
        raise UserError(
            f"{given}: does not tell whether it predicts noise or velocity, which who teaches it "
            f"must know: put {Path(given).stem}.yaml beside it, with model.params.parameterization "
            "eps or v"
        )
    return family, find_folder(kind, name, revision)


def as_folder(name: str) -> str:
    """The name of a model, but for a checkpoint of one file that of the folder made of it.

    Raises:
        UserError: as `convert_file`, or there is no such file.
    """
    if not os.path.isdir(name) and name.endswith(SUFFIXES) and not os.path.isfile(name):
        raise UserError(f"{name}: there is no such file; expected a diffusion model")
    return str(convert_file(Path(name))) if os.path.isfile(name) else name


def must_be_fetched(name: str, revision: str = "") -> bool:
    """Whether `find_model` asks the hub for a model, because it is not here in full."""
    if os.path.exists(name) or name.endswith(SUFFIXES) or constants.HF_HUB_OFFLINE:
        return False
    folder = find_here(name, revision)
    if folder is None or not _is_known(folder):
        return True
    try:
        return bool(_family_of(folder).format.missing(folder))
    except UserError:  # `find_model` raises it without asking
        return False


def _is_known(folder: Path) -> bool:
    """Whether what is here of a model tells its family: by its index, or by being complete."""
    return read_pipeline(folder) is not None or any(
        not family.format.missing(folder) for family in FAMILIES
    )


def _family_of(folder: Path) -> type[DiffusionModel]:
    """
    Raises:
        UserError: it is of none.
    """
    for family in FAMILIES:
        if family.opens(folder):
            return family
    pipeline = read_pipeline(folder)
    expected = " or ".join(family.what for family in FAMILIES)
    told = ", ".join(f"{part} {kind}" for part, kind in sorted(pipeline.parts.items()))
    raise UserError(
        f"{folder}: is of a {pipeline.name} ({told}); expected the text-to-image model of one of "
        f"the families {expected}"
    )
