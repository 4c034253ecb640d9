"""What `tadp-d2 synth` writes: synthetic data sets with captions, and tiny models."""

import json
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path

from tadp_d2.errors import UserError
from tadp_d2.files import check_is_free, growing_folder
from tadp_d2.synthetic.refer_data_sets import ReferSizes, write_refer_data_sets
from tadp_d2.synthetic.room_data_sets import RoomSizes, write_room_data_sets
from tadp_d2.synthetic.scene_layouts import write_scene_layouts
from tadp_d2.synthetic.sizes import PARTS
from tadp_d2.synthetic.street_data_sets import StreetSizes, write_street_data_sets
from tadp_d2.synthetic.tiny_captioner import write_tiny_captioner
from tadp_d2.synthetic.tiny_clip import write_tiny_clip
from tadp_d2.synthetic.tiny_diffusion import write_tiny_diffusion
from tadp_d2.synthetic.voc_data_sets import VocSizes, write_voc_data_sets

MODEL_FOLDER = "stable-diffusion-tiny"
CAPTIONER_FOLDER = "blip2-tiny"
CLIP_FOLDER = "clip-tiny"
# Holds a file for each part that is there.
_RECORDS = "synthetic"


def write_data_folder(
    folder: Path,
    seed: int = 0,
    sizes: VocSizes | None = None,
    street_sizes: StreetSizes | None = None,
    room_sizes: RoomSizes | None = None,
    refer_sizes: ReferSizes | None = None,
    progress: Callable[[int, int], None] | None = None,
    parts: Collection[str] = PARTS,
) -> None:
    """Writes the folder, whole or not at all; the same seed gives the same bytes.

    The seed is that of the images; the diffusion model and CLIP are the same in every folder.

    Args:
        folder: must not exist, be empty, or hold other parts, which stay. It becomes a
            `$DETECTRON2_DATASETS`, its `stable-diffusion-tiny` a `MODEL.DIFFUSION.WEIGHTS`, its
            `clip-tiny` a `MODEL.CONDITIONER.IMAGE_ENCODER`, and its `blip2-tiny`, which is
            untrained, a `--model` of `tadp-d2 caption`.
        sizes: numbers of images for detection, in all of Pascal's layouts; None for the defaults.
        street_sizes: numbers of images for segmentation; None for the defaults.
        room_sizes: numbers of images for depth; None for the defaults.
        refer_sizes: numbers of images for referring segmentation; None for the defaults.
        progress: called with the number of images written and to be written.
        parts: those of `PARTS` that are to be there afterwards.

    Raises:
        UserError: `folder` holds something else, or images of another seed.
    """
    writers = {
        "detection": (_write_detection_data_sets, sizes or VocSizes()),
        "streets": (write_street_data_sets, street_sizes or StreetSizes()),
        "rooms": (write_room_data_sets, room_sizes or RoomSizes()),
        "expressions": (write_refer_data_sets, refer_sizes or ReferSizes()),
    }
    held = _held_parts(folder, seed)
    missing = [part for part in PARTS if part in parts and part not in held]
    total = sum(writers[part][1].images() for part in missing)
    before = 0

    def count(done: int, _: int) -> None:
        if progress:
            progress(before + done, total)

    with growing_folder(folder, last=_RECORDS) as temporary:
        (temporary / _RECORDS).mkdir()
        for part in missing:
            write, part_sizes = writers[part]
            write(temporary, seed, part_sizes, count)
            before += part_sizes.images()
            record = {"seed": seed, "images": asdict(part_sizes)}
            (temporary / _RECORDS / f"{part}.json").write_text(json.dumps(record, indent=1) + "\n")
        if not held:
            write_tiny_diffusion(temporary / MODEL_FOLDER)
            write_tiny_clip(temporary / CLIP_FOLDER)
            write_tiny_captioner(temporary / CAPTIONER_FOLDER, seed)


def _held_parts(folder: Path, seed: int) -> set[str]:
    """
    Raises:
        UserError: the folder holds something else than parts of this seed.
    """
    held = {path.stem: path for path in (folder / _RECORDS).glob("*.json")}
    if not held:
        check_is_free(folder)
    for path in held.values():
        other = json.loads(path.read_text("utf-8"))["seed"]
        if other != seed:
            raise UserError(
                f"{folder} holds images of the seed {other} ({path}), not {seed}: choose another "
                "folder, or the same seed"
            )
    return set(held)


def _write_detection_data_sets(
    root: Path, seed: int, sizes: VocSizes, progress: Callable[[int, int], None]
) -> None:
    write_voc_data_sets(root, seed, sizes, progress)
    write_scene_layouts(root)
