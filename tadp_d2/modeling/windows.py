"""Segmentation of a large picture in overlapping windows."""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Window = tuple[slice, slice]


def windows(height: int, width: int, size: int, stride: int) -> list[Window]:
    """Rows and columns of windows that cover a picture.

    The last window of a row or column is moved back inside; a picture smaller than a window is one
    window. All windows of a picture are of one size.

    Args:
        size: side of a window, pixels.
        stride: distance of two windows, pixels, at most `size`.
    """
    return list(itertools.product(_spans(height, size, stride), _spans(width, size, stride)))


def _spans(length: int, size: int, stride: int) -> list[slice]:
    last = max(length - size, 0)
    starts = [*range(0, last, stride), last]
    return [slice(start, min(start + size, length)) for start in starts]


def segment_in_windows(
    segment: Callable[[list[Tensor]], list[Tensor]],
    image: Tensor,
    size: int,
    stride: int,
    batch: int,
) -> Tensor:
    """The mean of the windows' logits at each pixel. One logit map is kept, not one per window.

    Args:
        segment: maps windows of the image (C x h x w each, at most `batch`) to logits, K x h x w.
        image: C x H x W.
        size, stride: as `windows`.
        batch: windows that are segmented together.

    Returns:
        K x H x W, float32.
    """
    height, width = image.shape[-2:]
    total, count = None, None
    for chunk in _chunks(windows(height, width, size, stride), batch):
        for window, logits in zip(chunk, segment([image[:, *w] for w in chunk]), strict=True):
            if total is None:
                total = logits.new_zeros(len(logits), height, width, dtype=torch.float32)
                count = total.new_zeros(height, width)
            total[:, *window] += logits
            count[window] += 1
    return total.div_(count)


def _chunks(items: list[Window], size: int) -> Iterator[list[Window]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
