"""The pictures that both parts of the tiny diffusion model are trained on."""

import numpy as np
import torch
from PIL import Image

from tadp_d2.progress import progress_line
from tadp_d2.synthetic.samples import Sample, draw_sample


def make_samples(count: int, seed: int) -> list[Sample]:
    show = progress_line("pictures drawn")
    samples = []
    for index in range(count):
        samples.append(draw_sample(index, seed))
        show(index + 1, count)
    return samples


def to_input(image: Image.Image) -> torch.Tensor:
    """3 x H x W in [-1, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
