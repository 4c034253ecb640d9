"""Image files: what each encoding means, by expectations made without the code under test."""

import contextlib
import io
import os
import struct

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from tadp_d2.data.images import (
    UnreadableImage,
    find_image_files,
    read_rgb,
    read_size,
    read_stored,
    read_stored_rgb,
    read_stored_size,
    set_pixel_limit,
)
from tadp_d2.errors import UserError
from tadp_d2.files import sha256

from .encodings import (
    ADOBE_RGB,
    HEIGHT,
    PROFILES,
    WIDTH,
    chunk,
    exif,
    noise,
    oriented,
    palette,
    png,
    profile,
    to_srgb,
)

COLOR = noise(HEIGHT, WIDTH, 3)
GRAY = noise(HEIGHT, WIDTH, seed=1)


def read(path, content):
    """The pixels of a file with that content, H x W x 3, and the size that is known before."""
    path.write_bytes(content)
    pixels = np.asarray(read_rgb(path)[0])
    assert read_size(path) == pixels.shape[1::-1]
    return pixels


def refused(path, content, why):
    path.write_bytes(content)
    for function in (read_rgb, read_size):
        with pytest.raises(
            UnreadableImage, match=f"{path.name}: cannot be read as an image"
        ) as error:
            function(path)
        assert why in error.value.why


def gray_to_rgb(values):
    return np.stack([values] * 3, -1)


def on_white(color, alpha):
    """Composed with exact fractions, H x W x 3."""
    share = alpha[..., None] / 255
    return color * share + 255 * (1 - share)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_ordinary_pixels_are_those_that_detectron2_reads(tmp_path, mode, orientation):
    pixels = np.random.default_rng(orientation).integers(0, 256, (20, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(pixels).convert(mode).save(path, exif=exif)
    image, digest = read_rgb(path)
    assert np.array_equal(np.asarray(image), read_image(str(path), "RGB"))
    assert digest == sha256(path)


# What EXIF's numbers mean, by the standard: where the stored first row and column are to be seen.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_orientation_is_found_wherever_it_stands(tmp_path, orientation):
    expected = UPRIGHT[orientation](COLOR)
    for name, content in oriented(COLOR, orientation).items():
        pixels = read(tmp_path / name, content)
        allowed = 4 if name.endswith("jpg") else 0  # levels
        assert pixels.shape == expected.shape, name
        assert np.abs(pixels.astype(int) - expected).mean() <= allowed, name


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["raw", "tiff_lzw"])
def test_tiffs_that_pillow_maps_into_memory(tmp_path, orientation, kind):
    for pixels in (GRAY, GRAY.astype(np.uint16) * 257):
        file = io.BytesIO()
        tags = {"tiffinfo": {0x0112: orientation}, "compression": kind}
        Image.fromarray(pixels).save(file, "TIFF", **tags)
        expected = gray_to_rgb(UPRIGHT[orientation](GRAY))
        assert np.array_equal(read(tmp_path / "a.tif", file.getvalue()), expected)


def test_what_says_nothing_of_the_orientation_changes_nothing(tmp_path):
    for number in (0, 9, 42):
        for name, content in oriented(COLOR, number).items():
            if name != "exif_before_xmp.jpg":
                assert read(tmp_path / name, content).shape == COLOR.shape, name
    damaged = b"II*\0\xff\xff\xff\xff"
    for content in (
        png(COLOR, 8, 2, front=chunk(b"eXIf", damaged)),
        png(COLOR, 8, 2, late=chunk(b"eXIf", damaged)),
        png(COLOR, 8, 2, late=chunk(b"zTXt", b"Raw profile type exif\0\0damaged")),
        png(COLOR, 8, 2, late=chunk(b"iTXt", b"XML:com.adobe.xmp")),
    ):
        assert np.array_equal(read(tmp_path / "a.png", content), COLOR)


def test_of_16_bits_the_high_8_count(tmp_path):
    deep = np.random.default_rng(0).integers(0, 2**16, COLOR.shape, np.uint16)
    assert np.array_equal(read(tmp_path / "a.png", png(deep, 16, 2)), deep // 256)
    gray = gray_to_rgb(deep[..., 0] // 256)
    assert np.array_equal(read(tmp_path / "a.png", png(deep[..., 0], 16)), gray)
    file = io.BytesIO()
    Image.fromarray(deep[..., 0]).save(file, "TIFF")
    assert np.array_equal(read(tmp_path / "a.tif", file.getvalue()), gray)


def test_what_is_transparent_lies_on_white(tmp_path):
    alpha = noise(HEIGHT, WIDTH, seed=2)
    rgba = np.dstack([COLOR, alpha])
    for content in (png(rgba, 8, 6), png(rgba.astype(np.uint16) * 257, 16, 6)):
        error = read(tmp_path / "a.png", content) - on_white(COLOR, alpha)
        assert np.abs(error).max() < 1
    error = read(tmp_path / "a.png", png(np.dstack([GRAY, alpha]), 8, 4))
    error = error - on_white(gray_to_rgb(GRAY), alpha)
    assert np.abs(error).max() < 1
    opaque = np.dstack([COLOR, np.full_like(GRAY, 255)])
    assert np.array_equal(read(tmp_path / "a.png", png(opaque, 8, 6)), COLOR)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_one_gray_may_stand_for_transparent(tmp_path, bits):
    values = (GRAY.astype(np.uint16) * 257) >> (16 - bits)
    key = int(values[3, 4])
    expected = gray_to_rgb(np.where(values == key, 255, values.astype(int) * 255 // (2**bits - 1)))
    content = png(values, bits, front=chunk(b"tRNS", struct.pack(">H", key)))
    assert np.array_equal(read(tmp_path / "a.png", content), expected)


def test_a_palette_with_transparency(tmp_path):
    colors, alpha = noise(4, 3, seed=3), np.array([255, 0, 128], np.uint8)
    content = png(GRAY >> 6, 2, 3, front=palette(colors) + chunk(b"tRNS", alpha.tobytes()))
    expected = on_white(colors[GRAY >> 6], np.array([255, 0, 128, 255])[GRAY >> 6])
    assert np.abs(read(tmp_path / "a.png", content) - expected).max() < 1


def test_the_first_frame_counts(tmp_path):
    first, second = Image.fromarray(COLOR), Image.fromarray(255 - COLOR)
    for kind, name, options in (
        ("PNG", "a.png", {}),
        ("WEBP", "a.webp", {"lossless": True}),
        ("TIFF", "a.tif", {}),
    ):
        file = io.BytesIO()
        first.save(file, kind, save_all=True, append_images=[second], **options)
        assert np.array_equal(read(tmp_path / name, file.getvalue()), COLOR), kind
    file = io.BytesIO()
    few = first.quantize(8)
    few.save(file, "GIF", save_all=True, append_images=[second])
    expected = np.asarray(few.convert("RGB"))
    assert np.array_equal(read(tmp_path / "a.gif", file.getvalue()), expected)


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
def test_an_srgb_profile_changes_nothing(tmp_path, mode):
    image = Image.fromarray(COLOR).convert(mode)
    bare = read(tmp_path / "a.png", saved(image))
    assert np.array_equal(
        read(tmp_path / "a.png", saved(image, icc_profile=PROFILES["srgb"])), bare
    )


def test_a_profile_of_colors_is_applied(tmp_path):
    adobe = PROFILES["adobe"]
    expected = to_srgb(COLOR, 2.2, ADOBE_RGB)
    assert np.abs(expected - COLOR).max() > 40
    for kind, name in (("PNG", "a.png"), ("TIFF", "a.tif"), ("WEBP", "a.webp")):
        options = {"lossless": True} if kind == "WEBP" else {}
        content = saved(Image.fromarray(COLOR), kind, icc_profile=adobe, **options)
        assert np.abs(read(tmp_path / name, content) - expected).max() < 2.5, kind
    alpha = noise(HEIGHT, WIDTH, seed=2)
    content = saved(Image.fromarray(np.dstack([COLOR, alpha])), icc_profile=adobe)
    assert np.abs(read(tmp_path / "a.png", content) - on_white(expected, alpha)).max() < 3.5
    # A gray image may have a profile for RGB.
    content = saved(Image.fromarray(GRAY), icc_profile=adobe)
    error = read(tmp_path / "a.png", content) - to_srgb(gray_to_rgb(GRAY), 2.2, ADOBE_RGB)
    assert np.abs(error).max() < 2.5


def test_a_profile_of_grays_is_applied(tmp_path):
    expected = to_srgb(GRAY, 1.8)
    assert np.abs(expected - gray_to_rgb(GRAY)).max() > 15
    for image in (Image.fromarray(GRAY), Image.fromarray(GRAY.astype(np.uint16) * 257)):
        content = saved(image, icc_profile=profile(1.8))
        assert np.abs(read(tmp_path / "a.png", content) - expected).max() < 2.5


def test_what_has_no_known_meaning_is_refused(tmp_path):
    floats, whole = Image.fromarray(GRAY.astype(np.float32)), Image.fromarray(GRAY.astype(np.int32))
    refused(tmp_path / "a.tif", saved(floats, "TIFF"), "pixels of mode F")
    refused(tmp_path / "a.tif", saved(whole, "TIFF"), "pixels of mode I")
    refused(tmp_path / "a.tif", saved(Image.fromarray(COLOR).convert("LAB"), "TIFF"), "mode LAB")
    key = chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))
    refused(
        tmp_path / "a.png", png(COLOR.astype(np.uint16), 16, 2, front=key), "16 bits that stands"
    )
    deep = Image.fromarray(GRAY.astype(np.uint16) * 257)
    refused(tmp_path / "a.tif", saved(deep, "TIFF", tiffinfo={262: 0}), "0 is white")
    damaged = saved(Image.fromarray(COLOR), icc_profile=b"no profile")
    refused(tmp_path / "a.png", damaged, "color profile is damaged")
    for image, icc, space in (
        (Image.fromarray(COLOR), PROFILES["gray"], "GRAY"),
        (Image.fromarray(COLOR).convert("CMYK"), PROFILES["adobe"], "RGB"),
    ):
        content = saved(image, "TIFF", icc_profile=icc)
        refused(tmp_path / "a.tif", content, f"color profile is for {space} pixels")


def test_a_tiff_is_read_under_its_own_name_only(tmp_path):
    content = saved(Image.fromarray(COLOR), "TIFF")
    assert np.array_equal(read(tmp_path / "a.TIFF", content), COLOR)
    refused(tmp_path / "a.jpg", content, "no readable JPEG, PNG, BMP, GIF, WEBP")


def test_what_is_no_image_says_so(tmp_path):
    refused(tmp_path / "a.png", b"no image", "no readable JPEG, PNG")
    with pytest.raises(UnreadableImage, match="there is no such file"):
        read_rgb(tmp_path / "b.png")


def test_files_are_closed(tmp_path, recwarn):
    for content in (png(COLOR, 8, 2), png(COLOR, 8, 2, late=chunk(b"eXIf", b"")), b"no image"):
        (tmp_path / "a.png").write_bytes(content)
        for function in (read_rgb, read_size, read_stored, read_stored_size):
            with contextlib.suppress(UserError):
                function(tmp_path / "a.png")
    assert not [warning for warning in recwarn if warning.category is ResourceWarning]


# Maps of values


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_values_of_a_map_are_those_that_are_stored(tmp_path, bits):
    values = np.random.default_rng(bits).integers(0, 2**bits, (7, 13), np.uint16)
    path = tmp_path / "a.png"
    contents = [png(values, bits)]
    if bits <= 8:
        contents.append(png(values, bits, 3, front=palette(noise(2**bits, 3))))
    for content in contents:
        path.write_bytes(content)
        assert np.array_equal(read_stored(path), values)
        assert read_stored_size(path) == (13, 7)


def test_what_is_no_map_of_values_is_refused(tmp_path):
    path = tmp_path / "a.png"
    for content, why in (
        (png(COLOR, 8, 2), "mode RGB"),
        (png(np.dstack([GRAY, GRAY]), 8, 4), "mode LA"),
        (saved(Image.fromarray(GRAY), "JPEG"), "no readable PNG"),
        (png(GRAY, 8, late=chunk(b"eXIf", exif(6))), "it is to be turned"),
    ):
        path.write_bytes(content)
        for function in (read_stored, read_stored_size):
            with pytest.raises(UnreadableImage, match=f"read as a map of values .*{why}"):
                function(path)


def test_numbers_that_are_spread_over_channels(tmp_path):
    path = tmp_path / "a.png"
    key = chunk(b"tRNS", COLOR[0, 0].astype(">u2").tobytes())
    adobe = saved(Image.fromarray(COLOR), icc_profile=PROFILES["adobe"])
    for content in (png(COLOR, 8, 2), png(COLOR, 8, 2, front=key), adobe):
        path.write_bytes(content)
        assert np.array_equal(read_stored_rgb(path), COLOR)
    for content, why in (
        (png(COLOR.astype(np.uint16), 16, 2), "it has 16 bits"),
        (png(np.dstack([COLOR, GRAY]), 8, 6), "mode RGBA"),
        (png(GRAY, 8), "mode L"),
        (png(COLOR, 8, 2, late=chunk(b"eXIf", exif(6))), "it is to be turned"),
    ):
        path.write_bytes(content)
        with pytest.raises(UnreadableImage, match=why):
            read_stored_rgb(path)


# Finding


def test_files_and_folders_are_found_once_in_order_and_named_below_their_folder(tmp_path):
    for name in ("b.png", "._b.png", "deep/er/a.JPG", "deep/c.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    found = find_image_files([tmp_path / "deep" / "c.webp", tmp_path])
    assert found == {
        tmp_path / "deep" / "c.webp": "c.webp",
        tmp_path / "b.png": "b.png",
        tmp_path / "deep" / "er" / "a.JPG": "deep/er/a.JPG",
    }
    assert list(found.values()) == ["c.webp", "b.png", "deep/er/a.JPG"]
    with pytest.raises(UserError, match="absent: no such file or folder"):
        find_image_files([tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no image; expected files that end in .jpg"):
        find_image_files([tmp_path / "empty"])


def test_what_links_lead_to_is_found_under_every_name(tmp_path):
    for name in ("in/a.png", "elsewhere/b.png", "elsewhere/deep/c.heic"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "in/again.png").symlink_to("a.png")
    (tmp_path / "in/hard.png").hardlink_to(tmp_path / "in/a.png")
    (tmp_path / "in/absent.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "in/folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "in")
    folder = ["folder/b.png", "folder/deep/c.heic"]
    expected = ["a.png", "absent.jpg", "again.png", *folder, "hard.png"]
    assert list(find_image_files([tmp_path / "in"]).values()) == expected
    with pytest.raises(UnreadableImage, match="absent.jpg: .*there is no such file"):
        read_rgb(tmp_path / "in/absent.jpg")
    (tmp_path / "in/part_2").symlink_to("nowhere")
    with pytest.raises(UserError, match="part_2: a link that leads nowhere"):
        find_image_files([tmp_path / "in"])


def test_a_folder_that_cannot_be_searched_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.png").touch()
    (tmp_path / "locked").mkdir()
    search = os.scandir

    def refuse(path):
        if os.path.basename(path) == "locked":
            raise PermissionError(13, "Permission denied")
        return search(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="locked: cannot be searched .*Permission denied"):
        find_image_files([tmp_path])


def test_what_lies_in_the_output_is_no_source(tmp_path):
    for name in ("a.png", "out/samples/b.png", "outside.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_image_files([tmp_path], tmp_path / "deep" / ".." / "out")
    assert list(found.values()) == ["a.png", "outside.png"]
    with pytest.raises(UserError, match="the images lie in .*out: choose another folder"):
        find_image_files([tmp_path / "out"], tmp_path / "out")


def test_an_image_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    set_pixel_limit(9_999)
    for function in (read_rgb, read_size, read_stored, read_stored_size):
        with pytest.raises(UnreadableImage, match="100 x 100 are more than 9999 .*MAX_PIXELS"):
            function(tmp_path / "a.png")
    for limit in (10_000, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert read_rgb(tmp_path / "a.png")[0].size == (100, 100)
