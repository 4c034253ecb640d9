"""What a crop is said to show is in it, at the place that is said."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from tadp_d2.synthetic.training_samples import draw_sample

TOOLS = str(Path(__file__).parents[2] / "tools")
SIZE = 24


@pytest.fixture(scope="module")
def crops():
    sys.path.insert(0, TOOLS)
    try:
        return importlib.import_module("tiny_crops")
    finally:
        sys.path.remove(TOOLS)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_close_up_names_what_is_in_it_at_least_by_half(crops, mirrored):
    """The crop is cut out of its own coordinates, which say where it lay."""
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    grid = torch.stack([columns, rows])
    for index in range(60):
        sample = draw_sample(index, 3, "photo")
        things = crops.seen(sample.things, mirrored)
        for thing, own in zip(things, sample.things, strict=True):
            sides = (1 - own.right, 1 - own.left) if mirrored else (own.left, own.right)
            assert (thing.left, thing.right) == sides
        crop, shown = crops.close_up(grid, things, 12)
        assert crop.shape == (2, 12, 12)
        left, top = crop[0].min().item(), crop[1].min().item()
        inside = []
        for thing in things:
            # The box and the window in latent pixels.
            box = [side * SIZE for side in thing[1:5]]
            wide = min(box[2], left + 12) - max(box[0], left)
            high = min(box[3], top + 12) - max(box[1], top)
            share = max(wide, 0) * max(high, 0) / ((box[2] - box[0]) * (box[3] - box[1]))
            inside.append((thing, share))
        named = [thing.name for thing in shown]
        sure = [thing.name for thing, share in inside if share >= 0.5]
        # Another is named only as the one that the close-up is of.
        assert len(named) - len(sure) in (0, 1) and set(sure) <= set(named)
        for thing in shown:
            assert 0 <= thing.left < thing.right <= 1 and 0 <= thing.top < thing.bottom <= 1
            # Back in the coordinates of the image the box lies within that of such a thing.
            x, y = left + 12 * thing.left, top + 12 * thing.top
            assert any(
                thing.name == own.name
                and own.left * SIZE <= x + 1e-6
                and own.top * SIZE <= y + 1e-6
                and left + 12 * thing.right <= own.right * SIZE + 1e-6
                for own, _ in inside
            )
