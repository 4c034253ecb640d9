"""The installer refuses what it was not made for, and its stub for compiled operators is clear."""

import copy
import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tadp_d2 import install_detectron2

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "install_detectron2.py"


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def installer() -> ModuleType:
    return install_detectron2


@pytest.fixture
def no_detectron2(installer, monkeypatch):
    """As if no Detectron2 were there; a call of pip is a failure."""
    monkeypatch.setattr(installer, "find_detectron2", lambda: None)
    monkeypatch.setattr(installer, "pip", lambda *_, **__: pytest.fail("pip was called"))


@pytest.fixture
def stub(installer, tmp_path) -> ModuleType:
    path = tmp_path / "_C.py"
    path.write_text(installer.STUB)
    return load(path, "detectron2._C")


def test_a_source_package_with_another_hash_is_refused(installer, no_detectron2, tmp_path, capsys):
    sdist = tmp_path / "detectron2_cdo-0.5.tar.gz"
    sdist.write_bytes(b"abc")

    assert installer.main(["--sdist", str(sdist)]) == 2

    message = capsys.readouterr().err
    assert str(sdist) in message
    # SHA-256 of "abc", from the standard's own example (FIPS 180-2, appendix B.1).
    assert "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" in message
    assert installer.SOURCE_SHA256 in message


def test_a_missing_source_package_is_named(installer, no_detectron2, tmp_path, capsys):
    assert installer.main(["--sdist", str(tmp_path / "absent.tar.gz")]) == 2
    assert "absent.tar.gz: No such file" in capsys.readouterr().err


def test_missing_build_packages_are_named_before_anything_is_downloaded(
    installer, no_detectron2, monkeypatch, capsys
):
    monkeypatch.setattr(installer, "is_installed", lambda name: name not in ("torch", "yacs"))
    assert installer.main([]) == 2
    message = capsys.readouterr().err
    assert "lacks torch, yacs." in message
    assert "pip install" in message


def test_an_edit_replaces_every_expected_occurrence(installer, tmp_path):
    (tmp_path / "a.py").write_text("x = np.int\ny = np.int\n")
    installer.apply_edits(tmp_path, [installer.Edit("a.py", "np.int", "int", 2)])
    assert (tmp_path / "a.py").read_text() == "x = int\ny = int\n"


@pytest.mark.parametrize("content", ["x = 1\n", "np.int np.int\n", None])
def test_an_edit_that_does_not_match_exactly_is_refused(installer, tmp_path, content):
    if content is not None:
        (tmp_path / "a.py").write_text(content)
    with pytest.raises(installer.InstallError) as error:
        installer.apply_edits(tmp_path, [installer.Edit("a.py", "np.int", "int", 1)])
    found = 0 if content is None else content.count("np.int")
    assert str(error.value).startswith(f"a.py: expected 'np.int' 1 time(s), found it {found} time")
    if content is not None:
        assert (tmp_path / "a.py").read_text() == content


def test_the_stub_imports_and_answers_what_python_and_collect_env_ask(stub):
    assert not hasattr(stub, "__wrapped__")
    assert "compiled operators" in inspect.getdoc(stub)
    assert {name for name, _ in inspect.getmembers(stub, callable)} >= {"has_cuda", "__getattr__"}
    assert copy.copy(stub.has_cuda) is stub.has_cuda
    assert stub.has_cuda() is False
    assert "pure-Python" in stub.get_compiler_version()
    assert "pure-Python" in stub.get_cuda_version()


def test_using_an_operator_of_the_stub_says_what_is_absent_and_what_to_do(stub):
    assert not hasattr(stub, "deform_conv_forward")
    with pytest.raises(stub.MissingOperatorError) as error:
        stub.deform_conv_forward(1, 2)
    for part in ("'deform_conv_forward'", "pure-Python", "C++ compiler", "--from-git"):
        assert part in str(error.value)


def run_with(package: str, folder: Path, *command: str) -> subprocess.CompletedProcess:
    """Runs the module where `detectron2/__init__.py` holds `package`."""
    (folder / "detectron2").mkdir()
    (folder / "detectron2" / "__init__.py").write_text(package)
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    command = [sys.executable, *command]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


MODULE = ("-m", "tadp_d2.install_detectron2")


@pytest.mark.parametrize("command", [MODULE, (str(SCRIPT),)])
def test_an_importable_detectron2_is_left_alone(tmp_path, command):
    result = run_with("__version__ = '9.9'\n", tmp_path, *command)
    assert (result.returncode, result.stderr) == (0, "")
    folder = tmp_path / "detectron2"
    assert result.stdout == f"Detectron2 9.9 in {folder} is importable and left alone.\n"


def test_a_broken_detectron2_is_reported_and_not_replaced(tmp_path):
    result = run_with("raise OSError('libtorch.so: no such symbol')\n", tmp_path, *MODULE)
    assert (result.returncode, result.stdout) == (2, "")
    assert "OSError: libtorch.so: no such symbol" in result.stderr
    assert "Traceback" not in result.stderr
