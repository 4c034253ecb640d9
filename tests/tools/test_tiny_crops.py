"""What a close-up is said to show is in it."""

import runpy
from pathlib import Path

import pytest
import torch

from tadp_d2.synthetic.training_samples import draw_sample

close_up = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "tiny_crops.py"))["close_up"]
SIZE = 24


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_close_up_names_what_is_in_it_at_least_by_half(mirrored):
    """The crop is cut out of its own coordinates, which say where it lay."""
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    if mirrored:
        columns = SIZE - 1 - columns
    grid = torch.stack([columns, rows])
    for index in range(60):
        sample = draw_sample(index, 3, "photo")
        crop, caption = close_up(grid, sample.setting, list(sample.things), mirrored, 12)
        assert crop.shape == (2, 12, 12)
        held = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        held[crop[1].flatten(), crop[0].flatten()] = True
        shares = {}
        for thing in sample.things:
            # Places of a finer grid, so that boxes need not be rounded much.
            fine = held.repeat_interleave(16, 0).repeat_interleave(16, 1).float()
            left, top, right, bottom = (round(side * SIZE * 16) for side in thing[1:])
            share = fine[top:bottom, left:right].mean().item()
            shares[thing.name] = max(share, shares.get(thing.name, 0))
        singular = caption.replace("people", "person")
        named = {name for name in shares if name in singular}
        sure = {name for name, share in shares.items() if share > 0.53}
        absent = {name for name, share in shares.items() if share < 0.2}
        assert sure <= named, (index, caption, shares)
        assert not absent & named, (index, caption, shares)
