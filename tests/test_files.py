"""Files appear whole or not at all."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from tadp_d2.errors import UserError
from tadp_d2.files import growing_folder, new_folder, remove_leftovers, replacing, saving, sha256


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half of the new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_successful_write_replaces_the_file(tmp_path):
    path = tmp_path / "deep" / "file"
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_folder_vanishes(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "new") as temporary:
        (temporary / "file").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_not_touched(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UserError, match="exists already"), new_folder(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "precious"


def test_an_empty_folder_is_filled(tmp_path):
    with new_folder(tmp_path / "new") as temporary:
        (temporary / "file").write_text("x")
    assert (tmp_path / "new" / "file").read_text() == "x"


def test_a_folder_grows_file_by_file_and_what_tells_that_all_is_there_comes_last(
    tmp_path, monkeypatch
):
    folder = tmp_path / "data"
    with growing_folder(folder) as temporary:
        (temporary / "shared").mkdir()
        (temporary / "shared" / "old.txt").write_text("old")
    with pytest.raises(RuntimeError), growing_folder(folder) as temporary:
        (temporary / "lost.txt").write_text("lost")
        raise RuntimeError("stopped")
    moved, replace = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: (moved.append(to), replace(self, to)))
    with growing_folder(folder, last="all") as temporary:
        (temporary / "all").mkdir()
        (temporary / "all" / "new.json").write_text("{}")
        (temporary / "shared").mkdir()
        (temporary / "shared" / "new.txt").write_text("new")
        (temporary / "zebras").mkdir()
    assert moved == [folder / "shared" / "new.txt", folder / "zebras", folder / "all"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert {path.name for path in folder.rglob("*.*")} == {"old.txt", "new.txt", "new.json"}


@pytest.mark.parametrize("write", [replacing, new_folder])
def test_what_the_disk_refuses_is_a_message(tmp_path, write):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match=r"deep/new: cannot be written \(.*file"):
        write(tmp_path / "file" / "deep" / "new").__enter__()
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        match = "new: cannot be written .*intact"
        with pytest.raises(UserError, match=match), write(tmp_path / "new"):
            raise OSError(code, "refused")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "precious"


def test_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    writing = replacing(tmp_path / "file")
    temporary = writing.__enter__()
    (tmp_path / ".mine").write_text("precious")
    (tmp_path / "file.partial").write_text("precious")
    remove_leftovers(tmp_path)
    assert not temporary.exists()
    assert {path.name for path in tmp_path.iterdir()} == {".mine", "file.partial"}


def test_files_are_as_readable_as_others_also_where_modes_cannot_be_set(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    for name in ("chmod", "fchmod", "lchmod"):
        monkeypatch.setattr(os, name, refuse, raising=False)
    (tmp_path / "plain").touch()
    (tmp_path / "plain folder").mkdir()
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("new")
    with new_folder(tmp_path / "folder"):
        pass
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "folder").stat().st_mode == (tmp_path / "plain folder").stat().st_mode
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("name", ["x" * 250, "犬" * 80, "[a] *", "-x", "100%d", "a\nb"])
def test_any_name_can_be_written(tmp_path, name):
    with replacing(tmp_path / name) as temporary:
        temporary.write_text("new")
    with new_folder(tmp_path / f"{name}2") as temporary:
        (temporary / "file").write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}2"}


@pytest.mark.parametrize(
    "code, advice",
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EPERM, "make it writable, or write elsewhere"),
        (errno.EROFS, "make it writable, or write elsewhere"),
        (errno.ENAMETOOLONG, "choose a shorter name"),
        (errno.EIO, "remove the cause"),
    ],
)
def test_the_advice_is_that_of_the_error(tmp_path, code, advice):
    with pytest.raises(UserError, match=rf"intact: {advice}$"), replacing(tmp_path / "file"):
        raise OSError(code, "refused")
    resume = ", then run the same command with --resume$"
    with (
        pytest.raises(UserError, match=f"intact: {advice}{resume}"),
        saving(tmp_path / "file"),
        replacing(tmp_path / "file"),
    ):
        raise OSError(code, "refused")


def test_an_error_while_tidying_up_does_not_hide_the_first(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(UserError, match="No space left"), replacing(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    remove_leftovers(tmp_path)
