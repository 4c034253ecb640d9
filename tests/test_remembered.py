"""What was read strictly is not read again, until it changes; what is wrong always is."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from tadp_d2 import remembered
from tadp_d2.data.readers import label_maps
from tadp_d2.data.readers.label_maps import Folders, check_values, read_pairs
from tadp_d2.errors import UserError
from tadp_d2.remembered import Remembered, forgotten


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Three images with label maps, settled; `reads` counts what is opened."""
    monkeypatch.setenv("TADP_D2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered, "_SETTLED_AFTER", -1.0)
    for name in "abc":
        write(tmp_path, name, 1)
    return tmp_path


def write(tree, name, value, size=(6, 4)):
    for folder, suffix, pixels in (
        ("images", ".jpg", np.zeros((*size[::-1], 3), np.uint8)),
        ("labels", ".png", np.full(size[::-1], value, np.uint8)),
    ):
        (tree / folder).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tree / folder / f"{name}{suffix}")


@pytest.fixture
def reads(monkeypatch):
    opened = []
    for name in ("read_size", "read_stored_size", "count_labels"):
        original = getattr(label_maps, name)

        def counted(path, original=original):
            opened.append(os.path.basename(path))
            return original(path)

        monkeypatch.setattr(label_maps, name, counted)
    return opened


def read(tree, allowed=(1, 2)):
    pairs = read_pairs(Folders(tree / "images", ".", ".jpg", tree / "labels", ".png"), "set")
    check_values([pair.label for pair in pairs], allowed)
    return [(pair.image_id, pair.width, pair.height) for pair in pairs]


def test_unchanged_files_are_read_once(tree, reads):
    first = read(tree)
    assert sorted(reads) == sorted(
        [*("a.jpg", "b.jpg", "c.jpg"), *(2 * ["a.png", "b.png", "c.png"])]
    )
    reads.clear()
    assert read(tree) == first == [(f"{name}.jpg", 6, 4) for name in "abc"]
    assert reads == []
    # A file that is written again is read again, and no other.
    write(tree, "b", 2, size=(8, 5))
    assert read(tree) == [("a.jpg", 6, 4), ("b.jpg", 8, 5), ("c.jpg", 6, 4)]
    assert sorted(set(reads)) == ["b.jpg", "b.png"]


def test_of_equal_size_and_times_set_back_too(tree, reads):
    read(tree)
    path = tree / "labels" / "a.png"
    before = path.stat()
    write(tree, "a", 3)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UserError, match=r"a\.png: has the value 3 in 24 pixels"):
        read(tree)


def test_what_is_wrong_is_found_every_time(tree, reads):
    write(tree, "b", 9)
    for _ in range(2):
        with pytest.raises(UserError, match=r"b\.png: has the value 9"):
            read(tree)
    # What is allowed is not part of what is kept.
    read(tree, allowed=(1, 9))
    with pytest.raises(UserError, match=r"b\.png: has the value 9"):
        read(tree)
    (tree / "labels" / "c.png").write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(UserError, match=r"c\.png: cannot be read"):
            read(tree, allowed=(1, 9))


def test_what_was_read_before_an_error_is_kept(tree, reads):
    read(tree)
    write(tree, "a", 9)
    with pytest.raises(UserError, match=r"a\.png: has the value 9"):
        read(tree)
    write(tree, "a", 2)
    reads.clear()
    read(tree)
    assert set(reads) == {"a.jpg", "a.png"}


def test_an_absent_file_is_found_although_it_was_read(tree):
    read(tree)
    (tree / "labels" / "c.png").unlink()
    with pytest.raises(UserError, match=r"c\.jpg: has no label map"):
        read(tree)


def test_all_is_read_anew_on_request(tree, reads):
    read(tree)
    reads.clear()
    with forgotten():
        read(tree)
    assert len(reads) == 9


@pytest.mark.parametrize("content", ["", "[1]", '{"a": ', "null"])
def test_damaged_memory_is_made_again(tree, reads, content):
    read(tree)
    (cache,) = {path.parent for path in (tree / "cache").iterdir()}
    for path in cache.iterdir():
        path.write_text(content)
    reads.clear()
    read(tree)
    assert len(reads) == 9
    assert all(isinstance(json.loads(path.read_text()), dict) for path in cache.iterdir())


def test_a_cache_that_cannot_be_written_is_a_warning(tree, caplog):
    (tree / "cache").write_text("a file")
    read(tree)
    assert "The next run reads all files again" in caplog.text


def test_a_file_that_may_still_change_is_not_kept(tree, monkeypatch):
    monkeypatch.setattr(remembered, "_SETTLED_AFTER", 60.0)
    with Remembered(tree, "kind") as memory:
        assert memory.get(tree / "images" / "a.jpg", lambda path: 1) == 1
    assert Remembered(tree, "kind").get(tree / "images" / "a.jpg", lambda path: 2) == 2
