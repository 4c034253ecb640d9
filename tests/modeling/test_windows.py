"""Windows cover the picture; their mean is that of a plain loop; one logit map is kept."""

import weakref

import numpy as np
import pytest
import torch

from tadp_d2.modeling.windows import predict_in_windows, windows

SIZES = [(64, 64), (64, 129), (100, 200), (63, 150), (40, 50), (64, 65), (130, 64), (1, 300)]


def fake_logits(crop):
    """3 x h x w that depend on the whole window, so that another window gives other values."""
    mean = crop.mean()
    return torch.stack([crop.sum(0), crop.sum(0) * mean, torch.full_like(crop[0], mean)])


def plain_loop(image, size, stride):
    """The mean of all windows at each pixel, with none of the module's code."""
    height, width = image.shape[1:]
    total = np.zeros((3, height, width))
    count = np.zeros((height, width))
    y = 0
    while True:
        top = max(min(y, height - size), 0)
        x = 0
        while True:
            left = max(min(x, width - size), 0)
            crop = image[:, top : top + size, left : left + size]
            h, w = crop.shape[1:]
            total[:, top : top + h, left : left + w] += fake_logits(crop).numpy()
            count[top : top + h, left : left + w] += 1
            if x + size >= width:
                break
            x += stride
        if y + size >= height:
            break
        y += stride
    return total / count


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("stride", [64, 43])
@pytest.mark.parametrize("batch", [1, 4])
def test_agrees_with_a_plain_loop(height, width, stride, batch):
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, height, width, generator=generator) for _ in range(2)]
    found = predict_in_windows(
        lambda crops: [{"logits": fake_logits(crop)} for _, crop in crops],
        *(images, 64, stride, batch),
    )
    for own, image in zip(found, images, strict=True):
        np.testing.assert_allclose(own["logits"], plain_loop(image, 64, stride), rtol=1e-5)


def test_the_papers_windows():
    found = [(y.start, y.stop, x.start, x.stop) for y, x in windows(512, 1024, 512, 341)]
    assert found == [(0, 512, 0, 512), (0, 512, 341, 853), (0, 512, 512, 1024)]


@pytest.mark.parametrize("height, width", SIZES)
def test_windows_cover_every_pixel_and_have_one_size(height, width):
    covered = np.zeros((height, width), bool)
    shapes = set()
    for window in windows(height, width, 64, 43):
        covered[window] = True
        shapes.add(covered[window].shape)
    assert covered.all()
    assert shapes == {(min(height, 64), min(width, 64))}


def test_never_more_windows_at_once_than_asked_for():
    """Whatever the picture's size: the memory beyond one logit map is that of a batch."""
    asked, made = [], []

    def predict(crops):
        # Of all logits so far, none but those of the latest call may still be held.
        assert sum(logits() is not None for logits in made[:-4]) == 0
        asked.append(len(crops))
        found = [fake_logits(crop) for _, crop in crops]
        made.extend(weakref.ref(logits) for logits in found)
        return [{"logits": logits} for logits in found]

    [*predict_in_windows(predict, torch.rand(1, 3, 64, 64 * 13), 64, 64, 4)]
    assert asked == [4, 4, 4, 1]
    # Those of several images share a batch.
    [*predict_in_windows(predict, torch.rand(2, 3, 64, 64 * 3), 64, 64, 4)]
    assert asked[4:] == [4, 2]


def test_windows_of_images_of_several_sizes_share_batches():
    generator = torch.Generator().manual_seed(0)
    sizes = [(64, 129), (100, 200), (40, 50), (64, 64), (64, 90)]
    images = [torch.rand(3, *size, generator=generator) for size in sizes]
    asked, complete = [], []

    def predict(crops):
        asked.append([of for of, _ in crops])
        return [{"logits": fake_logits(crop)} for _, crop in crops]

    for own, image in zip(predict_in_windows(predict, images, 64, 64, 4), images, strict=True):
        complete.append(len(asked))
        np.testing.assert_allclose(own["logits"], plain_loop(image, 64, 64), rtol=1e-5)
    # The smaller image's only window is of another size.
    assert asked == [[0, 0, 0, 1], [1] * 4, [1] * 3, [2], [3, 4, 4]]
    # Each is given away before those after it are computed.
    assert complete == [1, 3, 4, 5, 5]


def test_low_precision_logits_are_summed_in_float32():
    def ones(crops):
        shapes = [(1, *crop.shape[1:]) for _, crop in crops]
        return [{"logits": torch.ones(shape, dtype=torch.bfloat16)} for shape in shapes]

    (found,) = predict_in_windows(ones, torch.rand(1, 3, 64, 64 + 300), 64, 1, 50)
    assert found["logits"].dtype == torch.float32
    assert (found["logits"] == 1).all()
