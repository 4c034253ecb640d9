"""The images that the parts of the tiny diffusion model, and the tiny CLIP, are trained on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tadp_d2.files import replacing
from tadp_d2.progress import progress_line
from tadp_d2.synthetic.parallel import in_processes
from tadp_d2.synthetic.training_samples import Sample, draw_sample, draw_turn

# Images in a file.
_PART = 300


def make_samples(count: int, seed: int, styles: Sequence[str]) -> list[Sample]:
    """Samples of scenes and streets in styles that take turns."""
    jobs = [(index, seed, styles[index % len(styles)]) for index in range(count)]
    return in_processes(draw_sample, jobs, progress_line("images drawn"))


def kept_samples(folder: Path, count: int, seed: int) -> list[dict]:
    """Samples of all kinds, kept in files of the folder because to draw them takes minutes.

    Returns:
        For each the fields of `Sample`; the image as a tensor, 3 x H x W, uint8.
    """
    samples = []
    show = progress_line("images drawn")
    for start in range(0, count, _PART):
        path = folder / f"images_{seed}_{start}.pt"
        if not path.exists():
            jobs = [(index, seed) for index in range(start, start + _PART)]
            kept = [_kept(sample) for sample in in_processes(draw_turn, jobs)]
            with replacing(path) as temporary:
                torch.save(kept, temporary)
        samples += torch.load(path, weights_only=True)
        show(start + _PART, count)
    return samples[:count]


def _kept(sample: Sample) -> dict:
    things = [tuple(thing) for thing in sample.things]
    return {**sample._asdict(), "image": to_tensor(sample.image), "things": things}


def to_tensor(image: Image.Image) -> torch.Tensor:
    """3 x H x W, uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def to_input(image: Image.Image) -> torch.Tensor:
    """3 x H x W in [-1, 1]."""
    return to_tensor(image).float() / 127.5 - 1
