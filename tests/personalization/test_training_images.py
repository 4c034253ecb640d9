"""Pictures of every kind become squares of RGB; what cannot be read is named."""

import numpy as np
import pytest
import torch
from PIL import Image

from tadp_d2.personalization.training_images import Crops, TrainingImage, read_pictures


def read_one(image, tmp_path, size=32, **options):
    image.save(tmp_path / "picture.png", **options)
    (picture,), _ = read_pictures([tmp_path / "picture.png"], size)
    return picture.pixels


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image = Image.new("L", (64, 32), 128)
    if mode == "I;16":
        image = Image.fromarray(np.full((32, 64), 128 * 257, np.uint16))
    else:
        image = image.convert(mode)
    pixels = read_one(image, tmp_path)
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, 32, 64))
    if mode != "1":
        assert (pixels.unique() - 128).abs().max() <= 1


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (40, 40), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    (picture,), _ = read_pictures([tmp_path / "a.jpg"], 40)
    red, green, blue = picture.pixels.float().mean(dim=(1, 2)).tolist()
    assert red > 240 and green < 15 and blue < 15


def test_what_is_transparent_lies_on_white(tmp_path):
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    image.paste((10, 20, 30, 255), (0, 0, 16, 32))
    pixels = read_one(image, tmp_path)
    assert pixels[:, 0, 0].tolist() == [10, 20, 30]
    assert pixels[:, 0, 31].tolist() == [255, 255, 255]


def test_rotation_in_exif_is_applied(tmp_path):
    image = Image.new("RGB", (64, 32), "black")
    image.paste("white", (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    pixels = read_one(image, tmp_path, exif=exif)
    assert pixels.shape == (3, 64, 32)
    assert pixels[:, 8].min() == 255 and pixels[:, 56].max() == 0


@pytest.mark.parametrize(
    "size, expected", [((10, 20), (64, 32)), ((300, 100), (32, 96)), ((1, 1), (32, 32))]
)
def test_the_shorter_side_gets_the_size(tmp_path, size, expected):
    assert read_one(Image.new("RGB", size), tmp_path).shape == (3, *expected)


def test_every_picture_comes_once_before_one_comes_again():
    pictures = [
        TrainingImage(None, "", torch.zeros(3, 8, 8 + i, dtype=torch.uint8)) for i in range(5)
    ]
    crops, generator = Crops(pictures, 8), torch.Generator().manual_seed(0)
    drawn = [crops.draw(generator) for _ in range(200)]
    for start in range(0, 200, 5):
        assert sorted(crop.index for crop in drawn[start : start + 5]) == list(range(5))
    assert {crop.left for crop in drawn if crop.index == 4} == set(range(5))
    assert {crop.flip for crop in drawn} == {True, False}


def test_crops_show_the_picture_and_its_mirror_image_in_the_models_range():
    pixels = torch.arange(3 * 4 * 6, dtype=torch.uint8).reshape(3, 4, 6)
    crops = Crops([TrainingImage(None, "", pixels)], 4, center=True)
    middle = crops.middle(0)
    expected = pixels[:, :, 1:5].float() / 127.5 - 1
    assert torch.equal(crops.pixels(middle), expected)
    assert torch.equal(crops.pixels(middle._replace(flip=True)), expected.flip(-1))
    generator = torch.Generator().manual_seed(0)
    assert {crops.draw(generator) for _ in range(20)} == {middle, middle._replace(flip=True)}
    crops.flip = False
    assert {crops.draw(generator) for _ in range(20)} == {middle}
