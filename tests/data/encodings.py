"""Image files in many encodings, made without the code under test."""

import io
import itertools
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageCms

# Pixels of all files, not square and without symmetry.
WIDTH, HEIGHT = 24, 16

Array = np.ndarray


def noise(*shape: int, seed: int = 0) -> Array:
    """uint8."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


# PNG, of which Pillow does not write all kinds


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values: Array, bits: int, color: int = 0, front: bytes = b"", late: bytes = b"") -> bytes:
    """
    Args:
        values: H x W, or H x W x channels of 8 or 16 bits.
        color: PNG's type: 0 gray, 2 RGB, 3 palette, 4 gray and alpha, 6 RGBA.
        front, late: chunks before and behind the pixels.
    """
    height, width = values.shape[:2]
    if bits == 16:
        rows = values.astype(">u2").reshape(height, -1).view(np.uint8)
    elif bits == 8:
        rows = values.astype(np.uint8).reshape(height, -1)
    else:
        single = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., -bits:]
        rows = np.packbits(single.reshape(height, -1), axis=-1)
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            front,
            chunk(b"IDAT", zlib.compress(pixels)),
            late,
            chunk(b"IEND", b""),
        )
    )


def palette(colors: Array) -> bytes:
    return chunk(b"PLTE", colors.astype(np.uint8).tobytes())


# Orientation


def exif(orientation: int) -> bytes:
    """A TIFF header with one tag."""
    return (
        b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + b"\0" * 4
    )


def xmp(orientation: int, how: str = '{p}:Orientation="{n}"', prefix: str = "tiff") -> bytes:
    """
    Args:
        how: an attribute, or else an element.
    """
    said = how.format(p=prefix, n=orientation)
    attribute, element = ("", said) if said.startswith("<") else (said, "")
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
        f'syntax-ns#"><rdf:Description xmlns:{prefix}="http://ns.adobe.com/tiff/1.0/" {attribute}>'
        f"{element}</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def itxt(data: bytes) -> bytes:
    return chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + data)


def raw_profile(kind: bytes, data: bytes) -> bytes:
    """As ImageMagick writes it."""
    text = b"\n%s\n%8d\n%s\n" % (kind.lower(), len(data), data.hex().encode())
    return chunk(b"zTXt", b"Raw profile type " + kind + b"\0\0" + zlib.compress(text))


def oriented(pixels: Array, orientation: int) -> dict[str, bytes]:
    """Files of RGB pixels that say in many ways how they lie: file name -> content."""
    plain, marked = Image.fromarray(pixels), b"Exif\0\0" + exif(orientation)
    elements = "<{p}:Orientation>{n}</{p}:Orientation>"
    named = xmp(orientation)

    def save(kind: str, **options) -> bytes:
        file = io.BytesIO()
        plain.save(file, kind, **options)
        return file.getvalue()

    def jpeg(*segments: bytes) -> bytes:
        data = save("JPEG", quality=95, subsampling=0)
        parts = (b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in segments)
        return data[:2] + b"".join(parts) + data[2:]

    def wrapped(content: bytes) -> bytes:
        return jpeg(b"http://ns.adobe.com/xap/1.0/\0" + content)

    chunks = {
        "exif": chunk(b"eXIf", exif(orientation)),
        "xmp": itxt(named),
        "raw_exif": raw_profile(b"exif", marked),
        "raw_app1": raw_profile(b"APP1", marked),
        "raw_xmp": raw_profile(b"xmp", named),
    }
    return {
        "exif.jpg": jpeg(marked),
        "xmp.jpg": wrapped(named),
        "xmp_element.jpg": wrapped(xmp(orientation, elements)),
        "xmp_apostrophes.jpg": wrapped(xmp(orientation, "{p}:Orientation = '{n}'")),
        "xmp_other_prefix.jpg": wrapped(xmp(orientation, elements, prefix="t")),
        "exif_before_xmp.jpg": jpeg(marked, b"http://ns.adobe.com/xap/1.0/\0" + xmp(3)),
        **{f"front_{name}.png": png(pixels, 8, 2, front=data) for name, data in chunks.items()},
        **{f"late_{name}.png": png(pixels, 8, 2, late=data) for name, data in chunks.items()},
        "animated.png": png(
            pixels,
            *(8, 2),
            front=chunk(b"acTL", struct.pack(">II", 2, 0)) + _frame(0),
            late=_frame(1) + chunk(b"fdAT", _second_frame(pixels)) + chunks["exif"],
        ),
        "exif.webp": save("WEBP", lossless=True, exif=marked),
        "xmp.webp": save("WEBP", lossless=True, xmp=named),
        "tag.tif": save("TIFF", tiffinfo={0x0112: orientation}),
        # Pillow's writer of compressed ones takes the meant values only.
        "compressed.tif": save(
            "TIFF",
            tiffinfo={0x0112: orientation},
            compression="tiff_deflate" if orientation in range(1, 9) else "raw",
        ),
    }


def _frame(number: int) -> bytes:
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, WIDTH, HEIGHT, 0, 0, 1, 1, 0, 0))


def _second_frame(pixels: Array) -> bytes:
    rows = (255 - pixels).reshape(len(pixels), -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    return struct.pack(">I", 2) + zlib.compress(data)


# Color profiles

# Columns: the primaries of Adobe RGB (1998) in CIE XYZ, adapted to D50, from its specification.
ADOBE_RGB = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)
# The same of sRGB, from its ICC profile.
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)


def profile(gamma: float, primaries: Array | None = None) -> bytes:
    """A color profile of version 2 of a display, or of gray without primaries."""

    def numbers(values) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {b"desc": b"desc\0\0\0\0\0\0\0\x01" + b"\0" * 79, b"wtpt": numbers((0.9642, 1, 0.8249))}
    if primaries is None:
        tags[b"kTRC"] = curve
    else:
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries.T, strict=True):
            tags[name] = numbers(column)
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, data, at = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += name + struct.pack(">II", at + len(data), len(content))
        data += content
    space = b"GRAY" if primaries is None else b"RGB "
    head = struct.pack(">II", at + len(data), 0) + b"\x02\x40\0\0mntr" + space + b"XYZ "
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28
    return head + numbers((0.9642, 1, 0.8249))[8:] + b"\0" * 48 + table + data


def to_srgb(pixels: Array, gamma: float, primaries: Array | None = None) -> Array:
    """What pixels of such a profile are in sRGB, by the definitions; H x W x 3, float of 0 to 255.

    Args:
        pixels: H x W x 3, or H x W gray.
    """
    linear = (pixels / 255) ** gamma
    if primaries is None:
        linear = np.stack([linear] * 3, -1)
    else:
        linear = (linear @ primaries.T @ np.linalg.inv(SRGB).T).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


PROFILES = {
    "none": None,
    "srgb": srgb_profile(),
    "adobe": profile(2.2, ADOBE_RGB),
    "gray": profile(1.8),
    "damaged": b"no profile",
}


# All together


def grid() -> Iterator[tuple[str, bytes]]:
    """File names and contents over mode, depth, alpha, orientation, profile and container.

    The names say what is in them, and end as the container is called.
    """
    color, gray = noise(HEIGHT, WIDTH, 3), noise(HEIGHT, WIDTH, seed=1)
    clear = np.dstack([color, np.where(gray < 128, 0, gray)])
    modes = {
        "1": Image.fromarray(gray > 127),
        "L": Image.fromarray(gray),
        "LA": Image.fromarray(np.dstack([gray, gray.T.reshape(gray.shape)]), "LA"),
        "P": Image.fromarray(color).quantize(16),
        "RGB": Image.fromarray(color),
        "RGBA": Image.fromarray(clear),
        "CMYK": Image.fromarray(color).convert("CMYK"),
        "I;16": Image.fromarray(gray.astype(np.uint16) * 257),
        "I": Image.fromarray(gray.astype(np.int32)),
        "F": Image.fromarray(gray.astype(np.float32)),
    }
    containers = {
        "JPEG": ("jpg", ("L", "RGB", "CMYK")),
        "PNG": ("png", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        "WEBP": ("webp", ("RGB", "RGBA")),
        "GIF": ("gif", ("1", "L", "P", "RGB", "RGBA")),
        "BMP": ("bmp", ("1", "L", "P", "RGB", "RGBA")),
        "TIFF": ("tif", tuple(modes)),
    }
    for kind, (suffix, allowed) in containers.items():
        profiles = {"none": None} if kind in ("GIF", "BMP") else PROFILES
        for mode, lying, icc in itertools.product(allowed, (1, 6), profiles):
            options = {} if profiles[icc] is None else {"icc_profile": profiles[icc]}
            if lying != 1 and kind == "TIFF":
                options["tiffinfo"] = {0x0112: lying}
            elif lying != 1 and kind in ("JPEG", "PNG", "WEBP"):
                options["exif"] = b"Exif\0\0" + exif(lying)
            file = io.BytesIO()
            modes[mode].save(file, kind, **options)
            yield f"{kind}-{mode.replace(';', '_')}-{lying}-{icc}.{suffix}", file.getvalue()
    for name, data in oriented(color, 6).items():
        yield f"oriented-{name}", data
    for bits, pixels in (
        (1, gray >> 7),
        (2, gray >> 6),
        (4, gray >> 4),
        (16, gray * np.uint16(257)),
    ):
        key = chunk(b"tRNS", struct.pack(">H", int(pixels[0, 0])))
        yield f"gray-{bits}.png", png(pixels, bits)
        yield f"gray-{bits}-key.png", png(pixels, bits, front=key)
    for alpha in (False, True):
        deep = (clear if alpha else color).astype(np.uint16) * 257
        yield f"deep-{alpha}.png", png(deep, 16, 6 if alpha else 2)
    key = chunk(b"tRNS", deep[0, 0, :3].astype(">u2").tobytes())
    yield "deep-key.png", png(deep[..., :3], 16, 2, front=key)
    yield "TIFF-called.jpg", dict(oriented(color, 1))["tag.tif"]
    yield "text.png", b"no image"
    yield "cut.jpg", dict(oriented(color, 1))["exif.jpg"][:400]
