"""The images that both parts of the tiny diffusion model are trained on."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from tadp_d2.progress import progress_line
from tadp_d2.synthetic.parallel import in_processes
from tadp_d2.synthetic.training_samples import Sample, draw_sample


def make_samples(count: int, seed: int, styles: Sequence[str]) -> list[Sample]:
    """Samples in styles that take turns."""
    jobs = [(index, seed, styles[index % len(styles)]) for index in range(count)]
    return in_processes(draw_sample, jobs, progress_line("images drawn"))


def to_input(image: Image.Image) -> torch.Tensor:
    """3 x H x W in [-1, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
