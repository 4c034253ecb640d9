"""What `tadp-d2 synth` writes: synthetic data sets with captions, and tiny models."""

from collections.abc import Callable
from pathlib import Path

from tadp_d2.files import new_folder
from tadp_d2.synthetic.refer_data_sets import ReferSizes, write_refer_data_sets
from tadp_d2.synthetic.room_data_sets import RoomSizes, write_room_data_sets
from tadp_d2.synthetic.scene_layouts import write_scene_layouts
from tadp_d2.synthetic.street_data_sets import StreetSizes, write_street_data_sets
from tadp_d2.synthetic.tiny_captioner import write_tiny_captioner
from tadp_d2.synthetic.tiny_clip import write_tiny_clip
from tadp_d2.synthetic.tiny_diffusion import write_tiny_diffusion
from tadp_d2.synthetic.voc_data_sets import VocSizes, write_voc_data_sets

MODEL_FOLDER = "stable-diffusion-tiny"
CAPTIONER_FOLDER = "blip2-tiny"
CLIP_FOLDER = "clip-tiny"


def write_data_folder(
    folder: Path,
    seed: int = 0,
    sizes: VocSizes | None = None,
    street_sizes: StreetSizes | None = None,
    room_sizes: RoomSizes | None = None,
    refer_sizes: ReferSizes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes the folder, whole or not at all; the same seed gives the same bytes.

    The seed is that of the images; the diffusion model and CLIP are the same in every folder.

    Args:
        folder: must not exist, or be empty. It becomes a `$DETECTRON2_DATASETS`, its
            `stable-diffusion-tiny` a `MODEL.DIFFUSION.WEIGHTS`, its `clip-tiny` a
            `MODEL.CONDITIONER.IMAGE_ENCODER`, and its `blip2-tiny`, which is untrained, a
            `--model` of `tadp-d2 caption`.
        sizes: numbers of images for detection; None for the defaults.
        street_sizes: numbers of images for segmentation; None for the defaults.
        room_sizes: numbers of images for depth; None for the defaults.
        refer_sizes: numbers of images for referring segmentation; None for the defaults.
        progress: called with the number of images written and to be written.

    Raises:
        UserError: `folder` is not empty.
    """
    parts = (
        (write_voc_data_sets, sizes or VocSizes()),
        (write_street_data_sets, street_sizes or StreetSizes()),
        (write_room_data_sets, room_sizes or RoomSizes()),
        (write_refer_data_sets, refer_sizes or ReferSizes()),
    )
    total = sum(part_sizes.images() for _, part_sizes in parts)
    before = 0

    def count(done: int, _: int) -> None:
        if progress:
            progress(before + done, total)

    with new_folder(folder) as temporary:
        for write, part_sizes in parts:
            write(temporary, seed, part_sizes, count)
            before += part_sizes.images()
        write_scene_layouts(temporary)
        write_tiny_diffusion(temporary / MODEL_FOLDER)
        write_tiny_clip(temporary / CLIP_FOLDER)
        write_tiny_captioner(temporary / CAPTIONER_FOLDER, seed)
