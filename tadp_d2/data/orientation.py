"""The orientation of the pixels of an image file, wherever in the file it is noted."""

import contextlib
import io
import re
from collections.abc import Iterator
from typing import BinaryIO

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile

# EXIF's number -> what makes the image upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The numbers for which width and height change places.
LYING = (5, 6, 7, 8)

_XMP_PREFIX = re.compile(r"xmlns:([\w.-]+)\s*=\s*[\"']http://ns\.adobe\.com/tiff/1\.0/")
# PNG: signature and header, the chunks that may hold metadata, and the end.
_HEAD, _METADATA, _END = 33, (b"eXIf", b"iTXt", b"tEXt", b"zTXt"), b"\0\0\0\0IEND\xaeB`\x82"


def orientation(image: Image.Image) -> int:
    """EXIF's number for how an opened image, not yet decoded, lies; 1 if it is not noted.

    EXIF counts before XMP. What is damaged does not count, as for any viewer. Of a TIFF the tag
    alone counts, and Pillow obeys it already.
    """
    if image.format == "TIFF":
        return 1
    places = [image, *_behind_pixels(image)]
    for look in (_in_exif, _in_xmp):
        for place in places:
            number = look(place)
            if number in range(1, 9):
                return number
    return 1


def _in_exif(image: Image.Image) -> int | None:
    info = image.info
    try:
        # ImageMagick calls it APP1 if it comes from a JPEG.
        if "exif" not in info and "Raw profile type APP1" in info:
            info["exif"] = _raw_profile(info["Raw profile type APP1"])
        # The class's own, because that of a PNG without EXIF in front decodes all pixels.
        return Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises many kinds for damaged EXIF
        return None


def _in_xmp(image: Image.Image) -> int | None:
    xmp = image.info.get("xmp", b"")
    with contextlib.suppress(ValueError):
        xmp = xmp or _raw_profile(image.info.get("Raw profile type xmp", ""))
    text = xmp if isinstance(xmp, str) else xmp.replace(b"\0", b"").decode("latin-1")
    for prefix in _XMP_PREFIX.findall(text):
        name = re.escape(f"{prefix}:Orientation")
        found = re.search(rf"\b{name}\s*(?:=\s*[\"']|>)\s*(\d)\s*[\"'<]", text)
        if found:
            return int(found[1])
    return None


def _raw_profile(text: str) -> bytes:
    """What ImageMagick writes into a text chunk: a name, a length, and hexadecimal digits."""
    return bytes.fromhex("".join(text.split()[2:]))


def _behind_pixels(image: Image.Image) -> Iterator[Image.Image]:
    """The metadata behind the pixels of a PNG, if there are any, as a PNG without pixels.

    Pillow finds them when it decodes the pixels, and not at all behind an animation.
    """
    if image.format != "PNG":
        return
    place = image.fp.tell()
    image.fp.seek(0)
    head = image.fp.read(_HEAD)
    chunks = b"".join(_late_chunks(image.fp))
    image.fp.seek(place)
    if chunks:
        with contextlib.suppress(SyntaxError, OSError, ValueError):  # damaged
            yield PngImageFile(io.BytesIO(head + chunks + _END))


def _late_chunks(file: BinaryIO) -> Iterator[bytes]:
    late = False
    while len(start := file.read(8)) == 8:
        size, kind = int.from_bytes(start[:4]) + 4, start[4:]
        late = late or kind == b"IDAT"
        if late and kind in _METADATA:
            yield start + file.read(size)
        else:
            file.seek(size, 1)
