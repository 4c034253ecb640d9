"""Finding the caption of a picture in a file of a data set."""

from pathlib import Path

import pytest

from tadp_d2.data.texts import Caption, CaptionFile
from tadp_d2.errors import UserError
from tadp_d2.inference.image_captions import look_up


def captions(*image_ids):
    return CaptionFile(Path("set.jsonl"), {i: Caption(f"caption of {i}") for i in image_ids}, {})


@pytest.mark.parametrize(
    "path, image_id",
    [
        ("VOC2007/JPEGImages/000012.jpg", "000012"),
        ("rgb_anon/val/night/a/b_rgb_anon.png", "night/a/b_rgb_anon.png"),
        ("pictures/deep/1.png", "deep/1.png"),
        ("other/1.png", "1.png"),
        ("1.jpg", "1"),
    ],
)
def test_an_id_is_the_longest_end_of_a_path(path, image_id):
    file = captions("000012", "night/a/b_rgb_anon.png", "deep/1.png", "1.png", "1", "2")
    for root in ("", "/somewhere"):
        picture = Path(root, path)
        assert look_up({picture: "name"}, file) == {picture: f"caption of {image_id}"}


def test_a_picture_without_a_caption_is_named_with_an_example():
    pictures = {Path("a/12.jpg"): "12.jpg", Path("a/2.jpg"): "2.jpg"}
    message = r"set.jsonl: no caption for a/12.jpg \(1 such of 2\).*'2'"
    with pytest.raises(UserError, match=message):
        look_up(pictures, captions("2"))
