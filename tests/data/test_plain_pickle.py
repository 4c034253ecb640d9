"""Pickles are read as data: what they hold is returned, what they would run is named."""

import collections
import pickle
import random
import struct
from pathlib import Path

import numpy as np
import pytest

from tadp_d2.data.readers.plain_pickle import read_plain_pickle
from tadp_d2.errors import UserError

RAN = Path("ran")


class Evil:
    def __reduce__(self):
        return Path.touch, (RAN,)


def read(tmp_path, data: bytes):
    (tmp_path / "refs.p").write_bytes(data)
    return read_plain_pickle(tmp_path / "refs.p")


def random_value(rng, depth=0):
    kind = rng.randrange(5 if depth > 4 else 8)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([0, -1, 255, 256, 65536, -(2**31), 2**31, 2**63, -(2**200)])
    if kind == 2:
        return rng.uniform(-1e9, 1e9)
    if kind in (3, 4):
        return rng.choice(["", "a dog", "ein großer Hund", "犬\n\\x00'", "x" * 300])
    items = [random_value(rng, depth + 1) for _ in range(rng.randrange(6))]
    if kind == 5:
        return items
    if kind == 6:
        return tuple(items)
    return {rng.choice([f"key {n}", n, n / 3]): item for n, item in enumerate(items)}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_comes_back_as_python_reads_it(tmp_path, protocol):
    rng = random.Random(protocol)
    for _ in range(200):
        value = random_value(rng)
        assert read(tmp_path, pickle.dumps([value, value], protocol)) == [value, value]


def test_text_of_python_2_is_utf_8(tmp_path):
    text = "caf\u00e9".encode()
    assert read(tmp_path, b"U" + bytes([len(text)]) + text + b".") == "caf\u00e9"
    assert read(tmp_path, b"T" + struct.pack("<i", len(text)) + text + b".") == "caf\u00e9"
    assert read(tmp_path, b"(lp0\n(dp1\nS'sent'\np2\nS'the left dog'\np3\nsa.") == [
        {"sent": "the left dog"}
    ]
    with pytest.raises(UserError, match="cannot be read as a pickle"):
        read(tmp_path, b"U\x01\xe9.")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value, found",
    [
        (Evil(), "the object .*touch|the object __builtin__.getattr|the object builtins.getattr"),
        (np.int64(3), "the object numpy"),
        (collections.OrderedDict(a=1), "the object collections.OrderedDict"),
        (b"bytes", "bytes|the object _codecs.encode"),
        ({1, 2}, "a set|the object .*set"),
        (len, "the object .*len"),
        (1j, "the object .*complex"),
    ],
)
def test_anything_else_is_named_and_not_run(tmp_path, monkeypatch, protocol, value, found):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"refs\.p: holds ({found}).*Nothing of it was run"):
        read(tmp_path, pickle.dumps([1, {"sent": value}], protocol))
    assert not RAN.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'touch ran'\ntR.",
        b"(S'touch ran'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch ran'\no.",
        b"\x82\x01.",  # from the registry of extensions
        b"Pname\n.",  # a persistent id
        b"}b.",
        b"\x80\x05\x97.",  # a buffer from outside
        b"\x80\x05\x96\x01\x00\x00\x00\x00\x00\x00\x00a.",  # a bytearray
    ],
)
def test_no_instruction_that_makes_an_object_is_known(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="holds (the|bytes)"):
        read(tmp_path, data)
    assert not RAN.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"]",  # no end
        b"]].",  # two values
        b"0.",
        b"a.",
        b"]a.",
        b"e.",
        b"](e",
        b"u.",
        b"}(K\x01u.",  # a key without a value
        b"}(}K\x01u.",  # a dict as a key
        b"K\x01K\x02a.",  # append to a number
        b"h\x05.",  # never stored
        b"]r\xff\xff\xff\x7f",  # 2^31 places of memory
        b"X\xff\xff\xff\x7fab.",  # 2 GiB of text that are not there
        b"\x8d" + b"\xff" * 7 + b"\x7fab.",
        b"\x8b\xff\xff\xff\x7f\x01.",  # a number of 2 GiB
        b"I" + b"9" * 10**6 + b"\n.",
        b"I" + b"9" * 10**6,
        b"X\x01\x00\x00\x00\xff.",
        b"\xfe\xfd",
        b"[" * 100,
    ],
)
def test_a_damaged_file_or_a_bomb_is_one_error(tmp_path, data):
    with pytest.raises(UserError, match=r"refs\.p: (cannot be read as a pickle|holds)"):
        read(tmp_path, data)


def test_a_place_far_out_in_memory_takes_none(tmp_path):
    assert read(tmp_path, b"]r\xff\xff\xff\x7f.") == []


def test_depth_is_no_danger(tmp_path):
    value = read(tmp_path, b"]" * 200_000 + b"a" * 199_999 + b".")
    assert len(value) == 1
    # As the key of a dict it would be hashed, depth after depth.
    with pytest.raises(UserError, match="keys are text or numbers"):
        read(tmp_path, b"})" + b"\x85" * 200_000 + b"K\x01s.")


def test_an_absent_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"refs\.p: cannot be read"):
        read_plain_pickle(tmp_path / "refs.p")
