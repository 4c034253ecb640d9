"""Opens a diffusion model: which family a folder belongs to."""

from pathlib import Path

from tadp_d2.diffusion.diffusion_model import DiffusionModel
from tadp_d2.diffusion.model_folder import find_weights
from tadp_d2.diffusion.stable_diffusion import StableDiffusion

# The first that opens a folder is taken; a further family goes before the others.
FAMILIES: list[type[DiffusionModel]] = [StableDiffusion]


def open_diffusion_model(name: str, revision: str = "", unet: str = "") -> DiffusionModel:
    """Finds a model; no weights are read.

    Args:
        name, revision: as `find_weights`.
        unet: folder of a fine-tuned UNet that replaces the model's; empty for none.

    Raises:
        UserError: there is no such model, or a part of it is missing.
    """
    folder = find_weights(name, revision)
    family = next(family for family in FAMILIES if family.opens(folder))
    return family(folder, Path(unet) if unet else None)
