"""The whole built-in world: data sets, captions, a tiny diffusion model, a tiny captioner."""

from collections.abc import Callable
from pathlib import Path

from tadp_d2.files import new_folder
from tadp_d2.synthetic.captioning_model import write_captioning_model
from tadp_d2.synthetic.diffusion_model import write_diffusion_model
from tadp_d2.synthetic.street_world import StreetWorldSizes, write_street_world
from tadp_d2.synthetic.voc_world import VocWorldSizes, write_voc_world

MODEL_FOLDER = "stable-diffusion-tiny"
CAPTIONER_FOLDER = "blip2-tiny"


def write_world(
    folder: Path,
    seed: int = 0,
    sizes: VocWorldSizes | None = None,
    street_sizes: StreetWorldSizes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes the world, whole or not at all; the same seed gives the same bytes.

    The seed is that of the pictures; the diffusion model is the same in every world.

    Args:
        folder: must not exist, or be empty. It becomes a `$DETECTRON2_DATASETS`, its
            `stable-diffusion-tiny` a `MODEL.DIFFUSION.WEIGHTS`, and its `blip2-tiny`, which is
            untrained, a `--model` of `tadp-d2 caption`.
        sizes: numbers of pictures for detection; None for the defaults.
        street_sizes: numbers of pictures for segmentation; None for the defaults.
        progress: called with the number of pictures written and to be written.

    Raises:
        UserError: `folder` is not empty.
    """
    sizes, street_sizes = sizes or VocWorldSizes(), street_sizes or StreetWorldSizes()
    first, second = sizes.pictures(), street_sizes.pictures()

    def count(written: int) -> None:
        if progress:
            progress(written, first + second)

    with new_folder(folder) as temporary:
        write_voc_world(temporary, seed, sizes, lambda done, _: count(done))
        write_street_world(temporary, seed, street_sizes, lambda done, _: count(first + done))
        write_diffusion_model(temporary / MODEL_FOLDER)
        write_captioning_model(temporary / CAPTIONER_FOLDER, seed)
