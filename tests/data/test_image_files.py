"""Pictures in files of every kind."""

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from tadp_d2.data.image_files import UnreadablePicture, find_pictures, read_rgb
from tadp_d2.errors import UserError
from tadp_d2.files import sha256


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_those_that_detectron2_reads(tmp_path, mode, orientation):
    pixels = np.random.default_rng(orientation).integers(0, 256, (20, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(pixels).convert(mode).save(path, exif=exif)
    picture, digest = read_rgb(path)
    assert np.array_equal(np.asarray(picture), read_image(str(path), "RGB"))
    assert digest == sha256(path)


def test_what_is_no_picture_says_so(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(UnreadablePicture, match="a.png: cannot be read as a picture") as error:
        read_rgb(tmp_path / "a.png")
    assert "cannot identify" in error.value.why


def test_files_and_folders_are_found_once_in_order_and_named_below_their_folder(tmp_path):
    for name in ("b.png", "._b.png", "deep/er/a.JPG", "deep/c.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    found = find_pictures([tmp_path / "deep" / "c.webp", tmp_path])
    assert found == {
        tmp_path / "deep" / "c.webp": "c.webp",
        tmp_path / "b.png": "b.png",
        tmp_path / "deep" / "er" / "a.JPG": "deep/er/a.JPG",
    }
    assert list(found.values()) == ["c.webp", "b.png", "deep/er/a.JPG"]
    with pytest.raises(UserError, match="absent: no such file or folder"):
        find_pictures([tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no picture; expected files that end in .jpg"):
        find_pictures([tmp_path / "empty"])


def test_what_lies_in_the_output_is_no_source(tmp_path):
    for name in ("a.png", "out/samples/b.png", "outside.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_pictures([tmp_path], tmp_path / "deep" / ".." / "out")
    assert list(found.values()) == ["a.png", "outside.png"]
    with pytest.raises(UserError, match="the pictures lie in .*out: choose another folder"):
        find_pictures([tmp_path / "out"], tmp_path / "out")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_beyond_pillows_limit_is_refused(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9_999)
    with pytest.raises(UnreadablePicture, match="100 x 100 are more than 9999 pixels"):
        read_rgb(tmp_path / "a.png")
    for limit in (10_000, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert read_rgb(tmp_path / "a.png")[0].size == (100, 100)
