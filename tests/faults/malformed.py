"""Ways to damage a small world, its weights and configs, and what a message must then name."""

import io
import itertools
import json
import os
import pickle
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from ..tiny_model import TEXT_WIDTH

ROOT = Path(__file__).parents[2]
QUICK = ROOT / "configs" / "quick_schedules"
DETECTION = QUICK / "voc2watercolor_simple.yaml"
SEGMENTATION = QUICK / "cityscapes2darkzurich_simple.yaml"


@dataclass(frozen=True)
class Case:
    """One thing that is wrong.

    Attributes:
        damage: does it to a world.
        named: patterns that the message must match: the culprit, and what is wrong.
        config: of the run.
        options: further arguments of `train_net.py`; {world} stands for the world's folder.
        late: found when the file is read, not before the run begins.
    """

    damage: Callable[[Path], Any]
    named: tuple[str, ...]
    config: Path = DETECTION
    options: tuple[str, ...] = ()
    late: bool = False


def attack(world: Path) -> Any:
    """An object that writes `world`/executed when it is unpickled."""
    return _Attack(f"open({str(world / 'executed')!r}, 'w')")


class _Attack:
    def __init__(self, code: str):
        self.code = code

    def __reduce__(self) -> tuple:
        return eval, (self.code,)


# The files that are damaged: the third picture of the data set.
XML = "watercolor/Annotations/5003.xml"
JPEG = "watercolor/JPEGImages/5003.jpg"
SPLIT = "watercolor/ImageSets/Main/test.txt"
CAPTIONS = "captions/watercolor_test.jsonl"
CITY = "dark_zurich/rgb_anon/val/night"


def put(name: str, content: bytes | str) -> Callable[[Path], None]:
    """Replaces a file."""
    data = content.encode() if isinstance(content, str) else content
    return lambda world: (world / name).write_bytes(data)


def swap(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Replaces what matches a pattern in a text file, once."""

    def damage(world: Path) -> None:
        text, count = re.subn(old, new, (world / name).read_text("utf-8"), count=1, flags=re.S)
        assert count, f"no {old!r} in {name}"
        (world / name).write_bytes(text.encode("utf-8", "surrogatepass"))

    return damage


def cut(name: str, share: float) -> Callable[[Path], None]:
    """Keeps the first part of a file."""

    def damage(world: Path) -> None:
        data = (world / name).read_bytes()
        (world / name).write_bytes(data[: int(len(data) * share)])

    return damage


def remove(name: str) -> Callable[[Path], None]:
    def damage(world: Path) -> None:
        path = world / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def instead(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Puts something else than a file in a file's place."""

    def damage(world: Path) -> None:
        (world / name).unlink()
        make(world / name)

    return damage


def both(*damages: Callable[[Path], Any]) -> Callable[[Path], None]:
    def damage(world: Path) -> None:
        for part in damages:
            part(world)

    return damage


# XML

_OBJECT = "<object><name>{}</name><bndbox>{}</bndbox></object>"


def _box(xmin: Any = 1, ymin: Any = 1, xmax: Any = 9, ymax: Any = 9, name: str = "dog") -> Callable:
    sides = {"xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}
    inner = "".join(f"<{side}>{value}</{side}>" for side, value in sides.items())
    return swap(XML, "</annotation>", _OBJECT.format(name, inner) + "</annotation>")


def _entities(declarations: str) -> Callable:
    text = f"<!DOCTYPE annotation [{declarations}]>\n<annotation>"
    both_names = swap(XML, "<annotation>", text), swap(XML, "</annotation>", "&e;</annotation>")
    return both(*both_names)


_LAUGHS = '<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in itertools.pairwise("abcdfghe")
)

XML_CASES = {
    "empty": Case(put(XML, ""), (XML, "not a VOC annotation")),
    "text": Case(put(XML, "dog 1 1 9 9"), (XML, "not a VOC annotation")),
    "json": Case(put(XML, "{}"), (XML, "not a VOC annotation")),
    "binary": Case(put(XML, bytes(range(256))), (XML, "not a VOC annotation")),
    "cut off": Case(cut(XML, 0.5), (XML, "not a VOC annotation")),
    "html": Case(put(XML, "<html><p>Not found<p></html>"), (XML, "not a VOC annotation")),
    "other root": Case(put(XML, "<a/>"), (XML, "without size/width")),
    "other encoding": Case(
        put(XML, '<?xml version="1.0" encoding="nonsense"?><annotation/>'), (XML, "nonsense|encod")
    ),
    "latin-1 undeclared": Case(
        put(XML, b"<annotation>\xe9</annotation>"), (XML, "not a VOC annotation")
    ),
    "nul": Case(swap(XML, "</annotation>", "\0</annotation>"), (XML, "not a VOC annotation")),
    "deep": Case(put(XML, "<a>" * 10_000), (XML, "not a VOC annotation")),
    "no size": Case(swap(XML, "<size>.*</size>", ""), (XML, "without size/width")),
    "no width": Case(swap(XML, "<width>.*</width>", ""), (XML, "without size/width")),
    "empty width": Case(swap(XML, "<width>.*</width>", "<width/>"), (XML, "invalid literal")),
    "width in words": Case(swap(XML, "<width>.*</width>", "<width>ten</width>"), (XML, "'ten'")),
    "width of a fraction": Case(swap(XML, "<width>.*</width>", "<width>1.5</width>"), (XML, "1.5")),
    "width 0": Case(swap(XML, "<width>.*</width>", "<width>0</width>"), (XML, "0 x|not inside")),
    "negative width": Case(
        swap(XML, "<width>.*</width>", "<width>-320</width>"), (XML, "-320 x|not inside")
    ),
    "huge width": Case(
        swap(XML, "<width>.*</width>", f"<width>{'9' * 5000}</width>"), (XML, "not a VOC annot")
    ),
    "other width": Case(
        swap(XML, "<width>.*</width>", "<width>5000</width>"), (XML, "5000 x", JPEG)
    ),
    "no name": Case(
        swap(XML, "</annotation>", "<object><bndbox/></object></annotation>"), (XML, "without")
    ),
    "no box": Case(
        swap(XML, "</annotation>", "<object><name>dog</name></object></annotation>"),
        (XML, "without bndbox/xmin"),
    ),
    "no xmax": Case(both(_box(), swap(XML, r"<xmax>9</xmax>", "")), (XML, "without bndbox/xmax")),
    "unknown class": Case(_box(name="dragon"), (XML, "unknown class 'dragon'", "bicycle")),
    "empty class": Case(_box(name=""), (XML, "unknown class ''")),
    "class in capitals": Case(_box(name="Dog"), (XML, "unknown class 'Dog'")),
    "class of 1 MB": Case(_box(name="x" * 2**20), (XML, "unknown class 'xxx")),
    "box outside": Case(_box(xmax=100_000), (XML, "'dog', 1 1 100000 9", "not inside")),
    "box left of 0": Case(_box(xmin=-1), (XML, "not inside")),
    "box in shares of the size": Case(
        _box(0.1, 0.1, 0.9, 0.9), (XML, "'dog', 0.1 0.1 0.9 0.9", "no shares")
    ),
    "dummy box": Case(_box(1, 1, 1, 1), (XML, "'dog', 1 1 1 1", "dummy")),
    "difficult in words": Case(
        both(_box(), swap(XML, "</name>(<bndbox>)?", r"</name><difficult>True</difficult>\1")),
        (XML, "difficult is 'True'"),
    ),
    "box reversed": Case(_box(xmin=9, xmax=1), (XML, "not inside")),
    "box of nan": Case(_box(ymax="nan"), (XML, "not inside")),
    "box of inf": Case(_box(ymin="-inf"), (XML, "not inside")),
    "box in words": Case(_box(xmin="left"), (XML, "'left'")),
    "box of an empty side": Case(_box(ymin=""), (XML, "could not convert")),
    "entity bomb": Case(_entities(_LAUGHS), (XML, "document type")),
    "outside entity": Case(
        _entities('<!ENTITY e SYSTEM "file:///etc/passwd">'), (XML, "document type")
    ),
    "outside document type": Case(
        swap(XML, "<annotation>", '<!DOCTYPE annotation SYSTEM "http://127.0.0.1/a"><annotation>'),
        (XML, "document type"),
    ),
    "a folder": Case(instead(XML, Path.mkdir), (XML, "not a VOC annotation|no .*5003.xml")),
    "a broken link": Case(
        instead(XML, lambda path: path.symlink_to("nowhere")), (XML, "not a VOC annotation")
    ),
    "a pipe": Case(instead(XML, os.mkfifo), (XML, "not a VOC annotation")),
    "absent": Case(remove(XML), ("test.txt", "lists '5003'", "5003.xml")),
}

# JPEG


def _saved(kind: str = "JPEG", size: tuple[int, int] = (32, 32), **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(options.pop("mode", "RGB"), size).save(buffer, kind, **options)
    return buffer.getvalue()


def _png(width: int, height: int, extra: bytes = b"") -> bytes:
    """A PNG of any size in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", b"x\x9c")


def _turned(world: Path) -> None:
    with Image.open(world / JPEG) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(world / JPEG, exif=exif)


def _rest_of_noise(name: str) -> Callable:
    def damage(world: Path) -> None:
        data = (world / name).read_bytes()
        noise = np.random.default_rng(0).integers(0, 255, len(data) // 2, np.uint8).tobytes()
        (world / name).write_bytes(data[: len(data) - len(noise)] + noise)

    return damage


_EPS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 320 240\n%%EndComments\nshowpage\n"
_READ = "cannot be read as"

JPEG_CASES = {
    "empty": Case(put(JPEG, ""), (JPEG, _READ)),
    "text": Case(put(JPEG, "<html>404</html>"), (JPEG, _READ)),
    "noise": Case(put(JPEG, np.random.default_rng(0).bytes(5000)), (JPEG, _READ)),
    "magic alone": Case(put(JPEG, b"\xff\xd8\xff\xe0"), (JPEG, _READ)),
    "header cut off": Case(put(JPEG, _saved()[:100]), (JPEG, _READ)),
    "cut off": Case(cut(JPEG, 0.6), (JPEG, _READ), options=("--eval-only",), late=True),
    "another size": Case(put(JPEG, _saved()), (XML, JPEG, "32 x 32")),
    "turned by its EXIF": Case(_turned, (XML, JPEG, "of an image of")),
    "bomb": Case(put(JPEG, _png(60_000, 60_000)), (JPEG, "too large", "MAX_PIXELS")),
    "beyond the limit": Case(
        lambda world: None, ("jpg|png", "too large"), options=("INPUT.MAX_PIXELS", "100")
    ),
    "postscript": Case(put(JPEG, _EPS), (JPEG, _READ)),
    "svg": Case(put(JPEG, "<svg xmlns='http://www.w3.org/2000/svg'/>"), (JPEG, _READ)),
    "tiff": Case(put(JPEG, _saved("TIFF")), (JPEG, _READ)),
    "a folder": Case(instead(JPEG, Path.mkdir), (JPEG, _READ)),
    "a broken link": Case(instead(JPEG, lambda path: path.symlink_to("nowhere")), (JPEG, _READ)),
    "a link in a circle": Case(
        instead(JPEG, lambda path: path.symlink_to(path.name)), (JPEG, _READ)
    ),
    "a pipe": Case(instead(JPEG, os.mkfifo), (JPEG, _READ)),
    "absent": Case(remove(JPEG), ("test.txt", "lists '5003'", "5003.jpg")),
}

# PNG: pictures and label maps


def _first(folder: str) -> Callable[[Path], Path]:
    return lambda world: sorted((world / folder).rglob("*.png"))[0]


_PICTURE = _first(CITY)
_LABELS = _first("dark_zurich/gt/val/night")


def at(find: Callable[[Path], Path], change: Callable[[Path], Any]) -> Callable[[Path], None]:
    return lambda world: change(find(world))


def _write(data: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(data)


def _change_labels(change: Callable[[np.ndarray], np.ndarray], **options: Any) -> Callable:
    def damage(world: Path) -> None:
        path = _LABELS(world)
        Image.fromarray(change(np.array(Image.open(path)))).save(path, "PNG", **options)

    return damage


def _set(value: int) -> Callable:
    def change(pixels: np.ndarray) -> np.ndarray:
        pixels[1, 2] = value
        return pixels

    return _change_labels(change)


def _turned_labels(world: Path) -> None:
    path, exif = _LABELS(world), Image.Exif()
    exif[0x0112] = 3
    Image.open(path).save(path, exif=exif)


def _text_bomb(path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "x" * 2**21, zip=True)
    Image.open(path).save(path, pnginfo=info)


def _bad_checksum(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"IHDR") + 6] ^= 1
    path.write_bytes(data)


def _cut(share: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


_PNG_NAME = "rgb_anon.png"
_MAP_NAME = "labelTrainIds.png"

PNG_CASES = {
    "picture empty": Case(at(_PICTURE, _write(b"")), (_PNG_NAME, _READ)),
    "picture of text": Case(at(_PICTURE, _write(b"night")), (_PNG_NAME, _READ)),
    "picture's header cut off": Case(at(_PICTURE, _cut(0.0001)), (_PNG_NAME, _READ)),
    "picture's checksum": Case(at(_PICTURE, _bad_checksum), (_PNG_NAME, _READ)),
    "picture is a bomb": Case(at(_PICTURE, _write(_png(2**16, 2**15))), (_PNG_NAME, "too large")),
    "picture with a text bomb": Case(at(_PICTURE, _text_bomb), (_PNG_NAME, _READ)),
    "picture absent": Case(at(_PICTURE, Path.unlink), (_MAP_NAME, "without its image")),
    "pictures not nested": Case(
        lambda world: [
            path.rename(world / CITY / path.name) for path in (world / CITY).rglob("*.png")
        ],
        (CITY, "keep the nested folders"),
    ),
    "map cut off": Case(at(_LABELS, _cut(0.5)), (_MAP_NAME, "cannot be read")),
    "map empty": Case(at(_LABELS, _write(b"")), (_MAP_NAME, _READ)),
    "map is a bomb": Case(at(_LABELS, _write(_png(2**16, 2**15))), (_MAP_NAME, "too large")),
    "map absent": Case(at(_LABELS, Path.unlink), (_PNG_NAME, "has no label map", _MAP_NAME)),
    "map of another size": Case(
        _change_labels(lambda pixels: pixels[:-1]), (_MAP_NAME, "but its image")
    ),
    "map in colour": Case(
        _change_labels(lambda pixels: np.stack([pixels] * 3, -1)), (_MAP_NAME, "mode RGB")
    ),
    "map of 16 bits": Case(
        _change_labels(lambda pixels: pixels.astype(np.uint16) + 300),
        (_MAP_NAME, "class indices are at most 255"),
    ),
    "map to be turned": Case(_turned_labels, (_MAP_NAME, "it is to be turned")),
    "map with transparency": Case(
        _change_labels(lambda pixels: np.stack([pixels] * 2, -1)), (_MAP_NAME, "mode LA")
    ),
    "map as a JPEG": Case(at(_LABELS, _write(_saved(mode="L"))), (_MAP_NAME, _READ)),
    "map with label ids": Case(_set(33), (_MAP_NAME, "value 33 in 1 pixels", "csCreateTrainId")),
    "map with a class too many": Case(_set(19), (_MAP_NAME, "value 19")),
    "map with 254": Case(_set(254), (_MAP_NAME, "value 254")),
    "map a folder": Case(
        at(_LABELS, lambda path: (path.unlink(), path.mkdir())), (_MAP_NAME, "has no label map")
    ),
    "no maps": Case(remove("dark_zurich/gt"), (_PNG_NAME, "has no label map", "3 such of 3")),
    "no pictures": Case(remove("dark_zurich/rgb_anon/val"), ("dark_zurich_val", "not found")),
}
PNG_CASES = {name: Case(case.damage, case.named, SEGMENTATION) for name, case in PNG_CASES.items()}

# Splits

SPLIT_CASES = {
    "absent": Case(remove(SPLIT), ("watercolor_test", "test.txt", "tadp-d2 synth")),
    "empty": Case(put(SPLIT, ""), (SPLIT, "the split is empty")),
    "blank": Case(put(SPLIT, "\n \n"), (SPLIT, "the split is empty")),
    "binary": Case(put(SPLIT, b"5001\n\xff\xfe\n"), (SPLIT, "UTF-8")),
    "utf-16": Case(put(SPLIT, "5001\n".encode("utf-16")), (SPLIT, "UTF-8")),
    "nul": Case(put(SPLIT, "5001\n50\x0002\n"), (f"{SPLIT}:2", "the name of one image")),
    "twice": Case(put(SPLIT, "5001\n5002\n5001\n"), (f"{SPLIT}:3", "already in line 1")),
    "unknown id": Case(put(SPLIT, "5001\nmissing\n"), (SPLIT, "lists 'missing'", "1 such of 2")),
    "with endings": Case(put(SPLIT, "5001.jpg\n"), (SPLIT, "lists '5001.jpg'")),
    "with labels": Case(put(SPLIT, "5001 -1\n"), (f"{SPLIT}:1", "the name of one image")),
    "leads out": Case(put(SPLIT, "../../../etc/passwd\n"), (f"{SPLIT}:1", "without folder")),
    "absolute": Case(put(SPLIT, "/etc/passwd\n"), (f"{SPLIT}:1", "without folder")),
    "a parent": Case(put(SPLIT, "..\n"), (SPLIT, r"lists '\.\.'")),
    "a line of 1 MB": Case(
        put(SPLIT, "5" * 2**20), (f"{SPLIT}:1", "the name of one image", "'555")
    ),
    "a folder": Case(instead(SPLIT, Path.mkdir), ("watercolor_test", "test.txt")),
    "without pictures": Case(remove("watercolor/JPEGImages"), ("JPEGImages", "not found")),
    "without annotations": Case(remove("watercolor/Annotations"), ("Annotations", "not found")),
    "pictures are a file": Case(
        both(remove("watercolor/JPEGImages"), put("watercolor/JPEGImages", "")),
        ("JPEGImages", "not found"),
    ),
    "without objects to train on": Case(
        lambda world: [
            swap(f"VOC2012/Annotations/{path.name}", "<object>.*</object>", "")(world)
            for path in (world / "VOC2012/Annotations").iterdir()
            if "<object>" in path.read_text()
        ],
        ("voc_2012_trainval", "no image of it has an object"),
    ),
}

# Captions

_RECORD = r'\{"image_id": "5003"[^\n]*'
_PUBLISHED = "captions/watercolor_test.json"


def _published(content: Any) -> Callable:
    text = content if isinstance(content, str) else json.dumps(content)
    return both(remove(CAPTIONS), put(_PUBLISHED, text))


def _line(text: str) -> Callable:
    return swap(CAPTIONS, _RECORD, text.replace("\\", r"\\"))


CAPTION_CASES = {
    "absent": Case(remove(CAPTIONS), ("watercolor_test", "no captions", CAPTIONS)),
    "both formats": Case(put(_PUBLISHED, "{}"), (CAPTIONS, "both exist")),
    "empty": Case(put(CAPTIONS, ""), (f"{CAPTIONS}:1", "header")),
    "binary": Case(put(CAPTIONS, b"\xff\xfe\x00"), (CAPTIONS, "UTF-8|header")),
    "latin-1": Case(put(CAPTIONS, b'{"caf\xe9": 1}\n'), (CAPTIONS, "UTF-8")),
    "no header": Case(swap(CAPTIONS, r"^[^\n]*\n", ""), (f"{CAPTIONS}:1", "header")),
    "other version": Case(swap(CAPTIONS, '"version": 1', '"version": 9'), (CAPTIONS, "header")),
    "other format": Case(swap(CAPTIONS, "tadp_d2 captions", "mine"), (CAPTIONS, "header")),
    "made by a list": Case(swap(CAPTIONS, '"made_by": {[^}]*}', '"made_by": []'), (CAPTIONS, "1")),
    "not json": Case(_line("{oops"), (f"{CAPTIONS}:4", "not JSON")),
    "a list": Case(_line("[]"), (f"{CAPTIONS}:4", "JSON object")),
    "deep": Case(_line("[" * 100_000), (f"{CAPTIONS}:4", "not JSON")),
    "a huge number": Case(_line('{"image_id": ' + "9" * 5000 + "}"), (f"{CAPTIONS}:4", "not JS")),
    "a key twice": Case(
        _line('{"image_id": "5003", "raw": "a", "raw": "b"}'), (f"{CAPTIONS}:4", "'raw'", "twice")
    ),
    "a number as id": Case(_line('{"image_id": 5003, "raw": "a"}'), (f"{CAPTIONS}:4", "image_id")),
    "no id": Case(_line('{"raw": "a"}'), (f"{CAPTIONS}:4", "image_id")),
    "no text": Case(_line('{"image_id": "5003"}'), (f"{CAPTIONS}:4", "raw")),
    "null text": Case(_line('{"image_id": "5003", "raw": null}'), (f"{CAPTIONS}:4", "raw")),
    "half a character": Case(
        _line('{"image_id": "5003", "raw": "\\ud800"}'), (f"{CAPTIONS}:4", "raw")
    ),
    "cleaned by a list": Case(
        _line('{"image_id": "5003", "raw": "a", "cleaned_by": []}'), (f"{CAPTIONS}:4", "cleaned")
    ),
    "twice": Case(_line('{"image_id": "5002", "raw": "a"}'), (f"{CAPTIONS}:4", "already")),
    "cleaned before captioned": Case(
        _line('{"image_id": "5003", "clean": "a"}'), (f"{CAPTIONS}:4", "no caption yet")
    ),
    "one missing": Case(_line(""), (CAPTIONS, "no caption for image '5003'", "tadp-d2 caption")),
    "of other pictures": Case(
        _line('{"image_id": "../5003", "raw": "a"}'), (CAPTIONS, "no caption for image '5003'")
    ),
    "a folder": Case(instead(CAPTIONS, Path.mkdir), ("watercolor_test", "no captions")),
    "published, a list": Case(_published([]), (_PUBLISHED, "JSON object")),
    "published, not json": Case(_published("{'a': 1}"), (_PUBLISHED, "not JSON")),
    "published, empty": Case(_published({}), (_PUBLISHED, "no caption for image")),
    "published, a text": Case(_published({"5001": "a dog"}), (_PUBLISHED, "'5001'", "captions")),
    "published, no captions": Case(
        _published({"5001": {"captions": []}}), (_PUBLISHED, "'5001'", "captions")
    ),
    "published, letters": Case(
        _published({"5001": {"captions": "a dog"}}), (_PUBLISHED, "'5001'", "captions")
    ),
    "published, an id twice": Case(
        _published('{"5001": {"captions": ["a"]}, "5001": {"captions": ["b"]}}'),
        (_PUBLISHED, "'5001'", "twice"),
    ),
    "published, deep": Case(_published("[" * 100_000), (_PUBLISHED, "not JSON")),
}

# Learned tokens

_TOKEN = ("TEXT.TOKENS", "('{world}/token.safetensors',)")
_TOKEN_BIN = ("TEXT.TOKENS", "('{world}/token.bin',)")


def _tokens(tensors: Mapping[str, torch.Tensor]) -> Callable:
    return lambda world: save_file(dict(tensors), world / "token.safetensors")


def _known_word(world: Path) -> None:
    config = json.loads((world / "stable-diffusion-tiny/unet/config.json").read_text())
    _tokens({"dog</w>": torch.zeros(1, config["cross_attention_dim"])})(world)


def _token_bin(make: Callable[[Path], Any], **options: Any) -> Callable:
    return lambda world: torch.save(make(world), world / "token.bin", **options)


def _token(damage: Callable, *named: str) -> Case:
    return Case(damage, ("token.safetensors", *named), options=_TOKEN)


def _bin(damage: Callable, *named: str) -> Case:
    return Case(damage, ("token.bin", *named), options=_TOKEN_BIN)


TOKEN_CASES = {
    "absent": _token(lambda world: None, "no learned token at"),
    "empty": _token(put("token.safetensors", ""), "cannot be read"),
    "text": _token(put("token.safetensors", "<watercolor>"), "cannot be read"),
    "header beyond the file": _token(put("token.safetensors", b"\xff" * 7 + b"\0ab"), "be read"),
    "cut off": _token(
        both(_tokens({"<a>": torch.zeros(1, TEXT_WIDTH)}), cut("token.safetensors", 0.7)),
        "cannot be read",
    ),
    "nothing in it": _token(_tokens({}), "expected a mapping"),
    "a scalar": _token(_tokens({"<a>": torch.tensor(1.0)}), "mapping", "<a>"),
    "no vector": _token(_tokens({"<a>": torch.zeros(0, TEXT_WIDTH)}), "mapping", "<a>"),
    "three axes": _token(_tokens({"<a>": torch.zeros(1, 1, TEXT_WIDTH)}), "mapping", "<a>"),
    "integers": _token(_tokens({"<a>": torch.zeros(1, TEXT_WIDTH).int()}), "finite numbers", "<a>"),
    "nan": _token(
        _tokens({"<a>": torch.full((1, TEXT_WIDTH), torch.nan)}), "finite numbers", "<a>"
    ),
    "of two text encoders": _token(
        _tokens({"clip_l": torch.zeros(1, TEXT_WIDTH), "clip_g": torch.zeros(1, 80)}),
        rf"and width 80 \(clip_g\), and the base model reads width {TEXT_WIDTH}: .* another base",
    ),
    "of another width": _token(
        _tokens({"<a>": torch.zeros(1, 32)}), f"width 32, .* width {TEXT_WIDTH}:"
    ),
    "of half a pair": _token(
        _tokens({"clip_g": torch.zeros(1, TEXT_WIDTH)}), "holds clip_g; expected"
    ),
    "two words": _token(_tokens({"a b": torch.zeros(1, TEXT_WIDTH)}), "'a b' is no token"),
    "no name": _token(_tokens({"": torch.zeros(1, TEXT_WIDTH)}), "'' is no token"),
    "bin of a pickle attack": _bin(_token_bin(attack), "cannot be read"),
    "bin of a bare pickle": _bin(
        lambda world: (world / "token.bin").write_bytes(pickle.dumps(attack(world))), "be read"
    ),
    "old bin of a pickle attack": _bin(
        _token_bin(attack, _use_new_zipfile_serialization=False), "cannot be read"
    ),
    "bin of a list": _bin(_token_bin(lambda _: [torch.zeros(TEXT_WIDTH)]), "expected a mapping"),
    "bin with numbers as names": _bin(
        _token_bin(lambda _: {1: torch.zeros(TEXT_WIDTH)}), "no token"
    ),
    # These two are known when the text encoder is.
    "another width": Case(
        _tokens({"<a>": torch.zeros(1, 768)}),
        ("'<a>'", "768", "base model"),
        options=_TOKEN,
        late=True,
    ),
    "a known word": Case(_known_word, ("'dog</w>' exists",), options=_TOKEN, late=True),
}

# Base models

_MODEL = "model"


def _model(damage: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Damages a copy of the base model."""

    def damaged(world: Path) -> None:
        shutil.copytree(world / "stable-diffusion-tiny", world / _MODEL)
        damage(world)

    return damaged


def _weights(damage: Callable, *named: str, late: bool = True) -> Case:
    options = ("MODEL.DIFFUSION.WEIGHTS", "{world}/model")
    return Case(_model(damage), named, options=options, late=late)


def _without_a_weight(part: str, file: str) -> Callable:
    def damage(world: Path) -> None:
        path = world / _MODEL / part / file
        tensors = load_file(path)
        tensors.pop(min(tensors))
        save_file(tensors, path, metadata={"format": "pt"})

    return damage


def _pickled(part: str, old: str, new: str) -> Callable:
    def damage(world: Path) -> None:
        (world / _MODEL / part / old).unlink()
        torch.save({"a": attack(world)}, world / _MODEL / part / new)

    return damage


def _with_an_adapter(world: Path) -> None:
    path = world / _MODEL / "unet" / f"{_DIFFUSION}.safetensors"
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_q_lora.down.weight"
    save_file({**load_file(path), layer: torch.zeros(4, 8)}, path, metadata={"format": "pt"})


def _with_half_a_token(world: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(world / _MODEL / "tokenizer")
    tokenizer.add_tokens(["<watercolor>"])
    tokenizer.save_pretrained(world / _MODEL / "tokenizer")


def _with_few_merges(world: Path) -> None:
    path = world / _MODEL / "tokenizer/merges.txt"
    lines = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]), "utf-8")


def _with_two_variants(world: Path) -> None:
    path = world / _MODEL / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(path, path.with_suffix(".fp16.safetensors"))
    path.rename(path.with_suffix(".ema.safetensors"))


_DIFFUSION = "diffusion_pytorch_model"
_TEXT = "model/text_encoder"

WEIGHTS_CASES = {
    "another UNet absent": Case(
        lambda world: None,
        ("no/unet: lacks config.json",),
        options=("MODEL.DIFFUSION.UNET", "{world}/no/unet"),
    ),
    "no vae": _weights(remove("model/vae"), "model", "lacks vae/config.json", late=False),
    "no tokenizer": _weights(remove("model/tokenizer"), "lacks tokenizer/", late=False),
    "unet's config": _weights(put("model/unet/config.json", "{"), "model/unet", late=False),
    "unet's config a list": _weights(put("model/unet/config.json", "[]"), "model/unet", late=False),
    "unet cut off": _weights(cut(f"model/unet/{_DIFFUSION}.safetensors", 0.5), "model/unet"),
    "unet lacks a weight": _weights(
        _without_a_weight("unet", f"{_DIFFUSION}.safetensors"), "model/unet", "lack conv_in.bias"
    ),
    "unet of other sizes": _weights(
        swap("model/unet/config.json", r'"cross_attention_dim": \d+', '"cross_attention_dim": 16'),
        "model/unet",
        late=False,
    ),
    "unet of a pickle attack": _weights(
        _pickled("unet", f"{_DIFFUSION}.safetensors", f"{_DIFFUSION}.bin"), "model/unet"
    ),
    "vae lacks a weight": _weights(
        _without_a_weight("vae", f"{_DIFFUSION}.safetensors"), "model/vae", "lack decoder"
    ),
    "vae of a pickle attack": _weights(
        _pickled("vae", f"{_DIFFUSION}.safetensors", f"{_DIFFUSION}.bin"), "model/vae"
    ),
    "text encoder's config": _weights(put(f"{_TEXT}/config.json", "nothing"), _TEXT, late=False),
    "text encoder empty": _weights(put(f"{_TEXT}/model.safetensors", ""), _TEXT),
    "text encoder lacks a weight": _weights(
        _without_a_weight("text_encoder", "model.safetensors"), _TEXT, "lack"
    ),
    "text encoder of a pickle attack": _weights(
        _pickled("text_encoder", "model.safetensors", "pytorch_model.bin"), _TEXT
    ),
    "vocabulary": _weights(put("model/tokenizer/vocab.json", "{"), "model/tokenizer"),
    "merges": _weights(put("model/tokenizer/merges.txt", b"\xff\xff"), "model/tokenizer"),
    "merges cut off between lines": _weights(_with_few_merges, "model/tokenizer", "merges.txt is"),
    "half a token": _weights(_with_half_a_token, "'<watercolor>'", "do not belong together"),
    "an adapter beside the unet": _weights(_with_an_adapter, "model/unet", "merge it in diffusers"),
    "an option that is not computed": _weights(
        swap("model/unet/config.json", '("center_input_sample": )false', r"\1true"),
        "model/unet/config.json: center_input_sample is true, expected false",
        late=False,
    ),
    "a unet of two variants": _weights(
        _with_two_variants, "model: lacks unet/", "variants ema and fp16", late=False
    ),
    "a fine-tuned unet of nothing": Case(
        lambda world: (world / "unet").mkdir(),
        ("unet", "config.json"),
        options=("MODEL.DIFFUSION.UNET", "{world}/unet"),
        late=True,
    ),
}

# Checkpoints

_CHECKPOINT = ("--eval-only", "MODEL.WEIGHTS", "{world}/model.pth")


def _saved_checkpoint(make: Callable[[Path], Any], **options: Any) -> Callable:
    return lambda world: torch.save(make(world), world / "model.pth", **options)


def _checkpoint(damage: Callable, *named: str, late: bool = False) -> Case:
    return Case(damage, ("model.pth", *named), options=_CHECKPOINT, late=late)


def _zip(world: Path) -> None:
    with zipfile.ZipFile(world / "model.pth", "w") as archive:
        archive.writestr("readme.txt", "weights are elsewhere")


CHECKPOINT_CASES = {
    "absent": _checkpoint(lambda world: None, "no checkpoint at"),
    "empty": _checkpoint(put("model.pth", ""), "cannot be read"),
    "text": _checkpoint(put("model.pth", "weights"), "cannot be read"),
    "cut off": _checkpoint(
        both(
            _saved_checkpoint(lambda _: {"model": {"a": torch.zeros(999)}}), cut("model.pth", 0.5)
        ),
        "cannot be read",
    ),
    "another archive": _checkpoint(_zip, "cannot be read"),
    "pickle attack": _checkpoint(
        _saved_checkpoint(lambda world: {"model": {}, "trainer": attack(world)}), "cannot be read"
    ),
    "old pickle attack": _checkpoint(
        _saved_checkpoint(attack, _use_new_zipfile_serialization=False), "cannot be read"
    ),
    "bare pickle": _checkpoint(
        lambda world: (world / "model.pth").write_bytes(pickle.dumps(attack(world))), "be read"
    ),
    "a list": _checkpoint(_saved_checkpoint(lambda _: [1]), "expected a checkpoint of train_net"),
    "no weights": _checkpoint(_saved_checkpoint(lambda _: {"a": 1}), "expected a checkpoint"),
    "weights a list": _checkpoint(
        _saved_checkpoint(lambda _: {"model": [torch.zeros(1)]}), "expected a checkpoint"
    ),
    "weights of numbers": _checkpoint(
        _saved_checkpoint(lambda _: {"model": {"a": 1}}), "expected a checkpoint"
    ),
    "another architecture": _checkpoint(
        _saved_checkpoint(lambda _: {"model": {"a": torch.zeros(1)}}),
        "another architecture",
        late=True,
    ),
    "a record of another kind": _checkpoint(
        _saved_checkpoint(lambda _: {"model": {"a": torch.zeros(1)}, "provenance": {"vae": 1}}),
        "another VAE",
        late=True,
    ),
    "a record of nothing": _checkpoint(
        _saved_checkpoint(lambda _: {"model": {"a": torch.zeros(1)}, "provenance": [1]}),
        "not that of a checkpoint",
        late=True,
    ),
    "a folder": _checkpoint(lambda world: (world / "model.pth").mkdir(), "no checkpoint at"),
}

# YAML

_YAML = "my.yaml"


def _yaml(text: str | bytes, *named: str, based: bool = True) -> Case:
    """A config file with a text, on top of the quick schedule."""
    base = f"_BASE_: {DETECTION}\n".encode() if based else b""
    data = text.encode() if isinstance(text, str) else text

    def damage(world: Path) -> None:
        (world / _YAML).write_bytes((base + data).replace(b"{world}", bytes(world)))

    return Case(damage, named, config=Path(_YAML))


_BOMB = "a: &a [x]\n" + "".join(
    f"{name}: &{name} {{{', '.join(f'k{i}: *{before}' for i in range(9))}}}\n"
    for before, name in itertools.pairwise("abcdefghi")
)

YAML_CASES = {
    "absent": Case(lambda world: None, (_YAML, "no config file"), config=Path(_YAML)),
    "empty": _yaml("", _YAML, "keys and values", based=False),
    "a list": _yaml("- 1\n", _YAML, "keys and values", based=False),
    "a text": _yaml("watercolor", _YAML, "keys and values", based=False),
    "binary": _yaml(b"\xff\xfe\x00", _YAML, "not a safe YAML", based=False),
    "a control character": _yaml("SEED: \x07", _YAML, "not a safe YAML"),
    "tabs": _yaml("TEXT:\n\tMODIFIER: null\n", f"{_YAML}:3", "not a safe YAML"),
    "open bracket": _yaml("DATASETS: [\n", _YAML, "not a safe YAML"),
    "deep": _yaml("[" * 5000, _YAML, "not a safe YAML"),
    "two documents": _yaml("SEED: 1\n---\nSEED: 2\n", f"{_YAML}", "not a safe YAML"),
    "python object": _yaml(
        "SEED: !!python/object/apply:os.mkdir ['{world}/executed']\n",
        f"{_YAML}:2",
        "not a safe YAML",
    ),
    "python name": _yaml("SEED: !!python/name:os.system\n", f"{_YAML}:2", "not a safe YAML"),
    "unknown tag": _yaml("SEED: !secret 1\n", f"{_YAML}:2", "not a safe YAML"),
    "alias bomb": _yaml(_BOMB, _YAML, "alias"),
    "alias in a circle": _yaml("TEXT: &a {DOMAIN: *a}\n", _YAML, "alias"),
    "undefined alias": _yaml("TEXT: *a\n", f"{_YAML}:2", "not a safe YAML"),
    "a key twice": _yaml("SEED: 1\nTEST: {}\nSEED: 2\n", _YAML, "'SEED' stands there twice"),
    "base absent": _yaml("_BASE_: nowhere.yaml\n", _YAML, "nowhere.yaml", based=False),
    "base in a circle": _yaml(f"_BASE_: {_YAML}\n", _YAML, "rests on itself", based=False),
    "base a number": _yaml("_BASE_: 7\n", _YAML, "_BASE_ is 7", based=False),
    "base elsewhere": _yaml("_BASE_: http://127.0.0.1:9/a.yaml\n", _YAML, "_BASE_", based=False),
    "unsafe base": Case(
        both(
            put(_YAML, "_BASE_: base.yaml\n"),
            put("base.yaml", "SEED: !!python/object/apply:os.mkdir [executed]\n"),
        ),
        ("base.yaml:1", "not a safe YAML"),
        config=Path(_YAML),
    ),
    "unknown key": _yaml("TEXT:\n  MODIFER: null\n", _YAML, "did you mean TEXT.MODIFIER"),
    "a key of a number": _yaml("1: 2\n", _YAML),
    "section a number": _yaml("TEXT: 3\n", _YAML, "TEXT"),
    "section null": _yaml("TEXT:\n", _YAML, "TEXT"),
    "value a section": _yaml("SEED: {A: 1}\n", _YAML, "SEED"),
    "text for a number": _yaml("SEED: one\n", _YAML, "SEED"),
    "number for a list": _yaml("DATASETS: {TRAIN: 3}\n", _YAML, "TRAIN"),
    "null for a number": _yaml("SOLVER: {IMS_PER_BATCH: null}\n", "IMS_PER_BATCH is null"),
    "null for a list": _yaml("DATASETS: {TRAIN: null}\n", "DATASETS.TRAIN is null"),
    "version of words": _yaml("VERSION: two\n", _YAML),
    "version of the future": _yaml("VERSION: 99\n", _YAML, "v99"),
    "not a number": _yaml("SOLVER: {BASE_LR: .nan}\n", "SOLVER.BASE_LR is nan"),
    "infinite": _yaml("SOLVER: {BASE_LR: .inf}\n", "SOLVER.BASE_LR is inf"),
    "negative": _yaml("SOLVER: {MAX_ITER: -1}\n", "SOLVER.MAX_ITER is -1"),
    "numbers as data sets": _yaml("DATASETS: {TRAIN: [1]}\n", "DATASETS.TRAIN is"),
    "unknown data set": _yaml("DATASETS: {TRAIN: [voc]}\n", "unknown data set 'voc'"),
    "no data set": _yaml("DATASETS: {TRAIN: []}\n", "DATASETS.TRAIN names no data set"),
    "numbers as tokens": _yaml("TEXT: {TOKENS: [1]}\n", "TEXT.TOKENS is"),
    "pixels of words": _yaml("MODEL: {PIXEL_MEAN: [a, b, c]}\n", "MODEL.PIXEL_MEAN is"),
    "pixels divided by 0": _yaml("MODEL: {PIXEL_STD: [0, 1, 1]}\n", "MODEL.PIXEL_STD"),
    "unknown device": _yaml("MODEL: {DEVICE: tpu9}\n", "MODEL.DEVICE tpu9: cannot be used"),
    "a GPU too many": _yaml("MODEL: {DEVICE: 'cuda:99'}\n", "MODEL.DEVICE cuda:99: cannot be used"),
    "a seed too large": _yaml("SEED: 5000000000\n", "SEED is 5000000000"),
    "unknown order of colours": _yaml("INPUT: {FORMAT: RBG}\n", "INPUT.FORMAT is 'RBG'"),
    "unknown mirroring": _yaml("INPUT: {RANDOM_FLIP: right}\n", "INPUT.RANDOM_FLIP is 'right'"),
    "unknown crop": _yaml("INPUT: {CROP: {TYPE: absolut}}\n", "INPUT.CROP.TYPE is 'absolut'"),
    "crops by classes for boxes": _yaml(
        "INPUT: {CROP: {SINGLE_CATEGORY_MAX_AREA: 0.75}}\n", "SINGLE_CATEGORY_MAX_AREA is 0.75"
    ),
    "unknown path of maps": _yaml(
        "MODEL: {DIFFUSION: {ATTENTION_MAPS: {PATHS: [down, upp]}}}\n", "ATTENTION_MAPS.PATHS is"
    ),
    "levels of numbers": _yaml(
        "MODEL: {DIFFUSION: {ATTENTION_MAPS: {LEVELS: [4]}}}\n", "ATTENTION_MAPS.LEVELS is"
    ),
    "results to expect": _yaml(
        "TEST: {EXPECTED_RESULTS: [[voc07, AP50, 40, 5]]}\n", "TEST.EXPECTED_RESULTS is"
    ),
    "unknown model": _yaml("MODEL: {META_ARCHITECTURE: A}\n", "META_ARCHITECTURE is 'A'"),
    "unknown backbone": _yaml("MODEL: {BACKBONE: {NAME: A}}\n", "BACKBONE.NAME is 'A'"),
    "unknown modifier": _yaml("TEXT: {MODIFIER: simpel}\n", "unknown modifier 'simpel'"),
    "template of two slots": _yaml(
        "TEXT: {MODIFIER: 'a {caption} of {caption}'}\n", "exactly one {caption}"
    ),
}

# What is read although it is unusual, by the rules of datasets/README.md.


def _image(mode: str, kind: str = "JPEG", **options: Any) -> Callable:
    """Saves the picture again, in another way."""

    def damage(world: Path) -> None:
        with Image.open(world / JPEG) as image:
            converted = image.convert(mode)
        converted.save(world / JPEG, kind, **options)

    return damage


TOLERATED = {
    "captions with a byte-order mark": swap(CAPTIONS, "^", "\ufeff"),
    "split with a byte-order mark": swap(SPLIT, "^", "\ufeff"),
    "split with other line ends": swap(SPLIT, "5001\n5002\n", "5001 \r\n\r\n5002\r\n"),
    "split without a last line end": swap(SPLIT, "\n$", ""),
    "split of one picture": put(SPLIT, "5003\n"),
    "no objects": swap(XML, "<object>.*</object>", ""),
    "box at the rim, counted from 0": swap(XML, "<xmin>[0-9]+<", "<xmin>0<"),
    "box of half pixels": swap(XML, "<ymin>[0-9]+<", "<ymin>1.5<"),
    "name with spaces": swap(XML, "<name>([a-z]+)<", r"<name> \1\n <"),
    "unknown elements": swap(XML, "</annotation>", "<owner>me</owner></annotation>"),
    "file name that leads out": swap(XML, "<filename>[^<]*<", "<filename>../../../etc/passwd<"),
    "utf-16 annotation": lambda world: (world / XML).write_bytes(
        (world / XML).read_text().encode("utf-16")
    ),
    "grey picture": _image("L"),
    "cmyk picture": _image("CMYK"),
    "progressive picture": _image("RGB", progressive=True),
    "png in a jpg's place": _image("RGB", "PNG"),
    "png with transparency": _image("RGBA", "PNG"),
    "picture with a palette": _image("P", "PNG"),
    "picture with damaged EXIF": _image("RGB", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "bytes behind the picture": lambda world: (world / JPEG).write_bytes(
        (world / JPEG).read_bytes() + b"PK\x03\x04" * 99
    ),
    "caption file without a last line end": swap(CAPTIONS, "\n$", ""),
    "empty lines between captions": swap(CAPTIONS, "\n", "\n\n \n"),
    "empty caption": _line('{"image_id": "5003", "raw": ""}'),
    "caption in many scripts": _line(
        json.dumps({"image_id": "5003", "raw": "犬と🎨 — собака\u202e\0"})
    ),
    "caption of 200 000 words": _line(json.dumps({"image_id": "5003", "raw": "dog " * 200_000})),
    "caption of one long word": _line(json.dumps({"image_id": "5003", "raw": "x" * 100_000})),
    "caption with a learned token": _line('{"image_id": "5003", "raw": "<watercolor> {caption}"}'),
    "captions of further pictures": swap(
        CAPTIONS, r"\Z", '{"image_id": "../../etc/passwd", "raw": "a"}\n'
    ),
    "caption line cut off at the end": swap(CAPTIONS, r"\Z", '{"image_id": "9", "ra'),
}

GROUPS = {
    "xml": XML_CASES,
    "jpeg": JPEG_CASES,
    "png": PNG_CASES,
    "split": SPLIT_CASES,
    "captions": CAPTION_CASES,
    "tokens": TOKEN_CASES,
    "weights": WEIGHTS_CASES,
    "checkpoint": CHECKPOINT_CASES,
    "yaml": YAML_CASES,
}
CASES = {
    f"{group}, {name}": case for group, cases in GROUPS.items() for name, case in cases.items()
}
