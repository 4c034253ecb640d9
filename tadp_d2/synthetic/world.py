"""The whole built-in world: data sets, captions and a tiny diffusion model, in one folder."""

from collections.abc import Callable
from pathlib import Path

from tadp_d2.data.captions import read_captions
from tadp_d2.files import new_folder
from tadp_d2.synthetic.diffusion_model import write_diffusion_model
from tadp_d2.synthetic.street_world import StreetWorldSizes, write_street_world
from tadp_d2.synthetic.voc_world import VocWorldSizes, write_voc_world
from tadp_d2.text.modifiers import MODIFIERS

MODEL_FOLDER = "stable-diffusion-tiny"


def write_world(
    folder: Path,
    seed: int = 0,
    sizes: VocWorldSizes | None = None,
    street_sizes: StreetWorldSizes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes the world, whole or not at all; the same seed gives the same bytes.

    Args:
        folder: must not exist, or be empty. It becomes a `$DETECTRON2_DATASETS`, and its
            `stable-diffusion-tiny` a `MODEL.DIFFUSION.WEIGHTS`.
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
        write_diffusion_model(temporary / MODEL_FOLDER, seed, _sentences(temporary / "captions"))


def _sentences(captions: Path) -> set[str]:
    """The world's captions, and all modifiers' words, without the learned tokens."""
    sentences = {
        caption
        for path in captions.glob("*.jsonl")
        for caption in read_captions(path).captions.values()
    }
    templates = [modifier.template for table in MODIFIERS.values() for modifier in table.values()]
    return sentences | {template for template in templates if "<" not in template}
