"""One writer at a time, with and without locks of the file system."""

import errno
import fcntl
import os
import socket
import subprocess

import pytest

from tadp_d2.errors import UserError
from tadp_d2.file_lock import locked

ADVICE = "go away"


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a [1].jsonl").write_text("")
    return tmp_path / "a [1].jsonl"


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def no_flock(monkeypatch, request):
    """As on NFS and Lustre."""

    def refuse(file, operation):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


def contended(path, more=""):
    with pytest.raises(UserError, match=f"another process is writing to it; .* go away{more}"):
        locked(path, ADVICE).__enter__()


def test_a_second_writer_is_refused(path):
    with locked(path, ADVICE):
        contended(path)
    with locked(path, ADVICE):
        assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_without_locks_a_file_keeps_others_away(path, no_flock):
    mark = path.with_name(f".{path.name}.lock")
    with locked(path, ADVICE):
        assert mark.read_text() == f"{socket.gethostname()} {os.getpid()}"
        contended(
            path, rf"\. .*lock says so, because this file system has no locks .*{os.getpid()}"
        )
    assert not mark.exists()
    with pytest.raises(ZeroDivisionError), locked(path, ADVICE):
        raise ZeroDivisionError
    assert not mark.exists()


def test_the_mark_of_a_process_that_has_ended_does_not_count(path, no_flock):
    mark = path.with_name(f".{path.name}.lock")
    process = subprocess.Popen(["true"])
    process.wait()
    mark.write_text(f"{socket.gethostname()} {process.pid}")
    with locked(path, ADVICE):
        assert mark.read_text().endswith(f" {os.getpid()}")
    for unknown in (f"another-machine {process.pid}", "", "anything"):
        mark.write_text(unknown)
        contended(path, ".*remove it if there is no such process")
        assert mark.read_text() == unknown


def test_another_error_of_the_disk_is_no_contention(path, no_flock):
    path.unlink()
    with pytest.raises(FileNotFoundError):
        locked(path, ADVICE).__enter__()
