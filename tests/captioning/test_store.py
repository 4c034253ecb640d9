"""The store loses nothing, doubles nothing, and mixes nothing."""

import os
import signal
import subprocess
import sys

import pytest

from tadp_d2.captioning import store as module
from tadp_d2.captioning.store import CaptionStore
from tadp_d2.data.texts import Caption, read_captions
from tadp_d2.errors import UserError


def test_what_is_added_is_read_and_continued(tmp_path):
    path = tmp_path / "d.jsonl"
    with CaptionStore(path, "d", {"model": "m"}) as store:
        store.add_captions({"1": Caption("a dög", image_sha256="ab"), "2": Caption("a cat")})
    with CaptionStore(path, "d", {"model": "m"}) as store:
        assert set(store.records) == {"1", "2"}
        store.add_captions({"3": Caption("a painting of a bird")})
        store.add_cleaned({"3": ("a bird", {"method": "rules"})})
        kept = dict(store.records)
    assert read_captions(path).captions == {"1": "a dög", "2": "a cat", "3": "a bird"}
    assert read_captions(path).records == kept
    assert kept["3"].cleaned_by["method"] == "rules"
    assert kept["1"].image_sha256 == "ab" and kept["1"].date.startswith("20")


def test_a_line_that_a_crash_cut_off_is_written_again(tmp_path):
    path = tmp_path / "d.jsonl"
    with CaptionStore(path, "d", {}) as store:
        store.add_captions({"1": Caption("a dog")})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"image_id": "2", "raw": "a c')
    with CaptionStore(path, "d", {}) as store:
        assert path.read_bytes() == whole
        store.add_captions({"2": Caption("a cat")})
    path.write_bytes(path.read_bytes()[:-1])
    with CaptionStore(path, "d", {}) as store:
        store.add_captions({"3": Caption("a bird")})
    assert read_captions(path).captions == {"1": "a dog", "2": "a cat", "3": "a bird"}


def test_captions_of_other_settings_are_not_mixed(tmp_path):
    path = tmp_path / "d.jsonl"
    CaptionStore(path, "d", {"model": "m", "min": 0}).__exit__()
    before = path.read_bytes()
    with pytest.raises(UserError, match="d.jsonl: its captions were made with min 0, .* with 20"):
        CaptionStore(path, "d", {"model": "m", "min": 20})
    assert path.read_bytes() == before
    with CaptionStore.existing(path) as store:
        assert store.records == {}


def test_two_processes_do_not_write_at_once(tmp_path):
    path = tmp_path / "d.jsonl"
    with CaptionStore(path, "d", {}), pytest.raises(UserError, match="another process is writing"):
        CaptionStore(path, "d", {})
    CaptionStore(path, "d", {}).__exit__()


def test_of_two_that_begin_a_file_at_once_none_loses_captions(tmp_path, monkeypatch):
    path = tmp_path / "d.jsonl"
    header = module.header

    def overtaken(*arguments):
        """The other one begins, fills and closes the file after this one saw that there is none."""
        monkeypatch.setattr(module, "header", header)
        with CaptionStore(path, "d", {}) as other:
            other.add_captions({"1": Caption("a dog")})
        return header(*arguments)

    monkeypatch.setattr(module, "header", overtaken)
    with CaptionStore(path, "d", {}) as store:
        assert set(store.records) == {"1"}
        store.add_captions({"2": Caption("a cat")})
    assert read_captions(path).captions == {"1": "a dog", "2": "a cat"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_a_message_and_takes_nothing(tmp_path, full_disk):
    path = tmp_path / "d.jsonl"
    with CaptionStore(path, "d", {}) as store:
        store.add_captions({"1": Caption("a dog")})
    with full_disk(path.stat().st_size + 9):
        match = "d.jsonl: cannot be written .*too large"
        with pytest.raises(UserError, match=match), CaptionStore(path, "d", {}) as store:
            store.add_captions({"2": Caption("a cat")})
    with CaptionStore(path, "d", {}) as store:
        assert set(store.records) == {"1"}
        store.add_captions({"2": Caption("a cat")})
    assert read_captions(path).captions == {"1": "a dog", "2": "a cat"}


def test_a_file_in_the_place_of_its_folder_is_a_message(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/d.jsonl: cannot be written"):
        CaptionStore(tmp_path / "file" / "d.jsonl", "d", {})


def test_a_killed_process_leaves_all_that_it_added(tmp_path):
    """Killed at a random place, again and again, it ends with every caption once."""
    path = tmp_path / "d.jsonl"
    code = (
        "import sys; from pathlib import Path\n"
        "from tadp_d2.captioning.store import CaptionStore\n"
        "from tadp_d2.data.texts import Caption\n"
        "with CaptionStore(Path(sys.argv[1]), 'd', {}) as store:\n"
        "    for i in range(400):\n"
        "        if str(i) not in store.records:\n"
        "            store.add_captions({str(i): Caption(f'caption {i}')})\n"
        "            print(i, flush=True)\n"
    )
    for stop_after in (3, 50, 121, None):
        command = [sys.executable, "-c", code, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            seen = []
            for line in process.stdout:
                seen.append(line.strip())
                if len(seen) == stop_after:
                    os.kill(process.pid, signal.SIGKILL)
                    break
        assert set(seen) <= set(read_captions(path).records)
    assert read_captions(path).captions == {str(i): f"caption {i}" for i in range(400)}
