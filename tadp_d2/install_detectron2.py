"""Installs Detectron2 0.5 as pure Python, if the environment has no Detectron2 yet.

The source is `detectron2-cdo` 0.5 on PyPI: the Python tree of Meta's Detectron2 at tag v0.5, byte
for byte, under Apache-2.0. `EDITS` below lists every change made to it: names that current
releases of NumPy, Pillow and setuptools have removed, and the COCO evaluation's use of compiled
code. Detectron2's C++ operators (deformable convolution, rotated boxes, fast COCO evaluation) are
absent; a stub module says so when one of them is used.

    python -m tadp_d2.install_detectron2               # from PyPI, no compiler needed
    python -m tadp_d2.install_detectron2 --sdist FILE  # the same source, downloaded before
    python -m tadp_d2.install_detectron2 --from-git    # Meta's main, needs git and a compiler

Run it with the interpreter of the environment that shall get Detectron2, after the packages that
`setup.py` requires. It needs nothing but the standard library itself.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SOURCE_REQUIREMENT = "detectron2-cdo==0.5"
SOURCE_SHA256 = "53c9e79e9cc943e80419c588ea44b5479507a8628ed14a4e06bd093e29311b18"
GIT_URL = "git+https://github.com/facebookresearch/detectron2"

# The local part tells this installation from Meta's own 0.5 in `pip list`. `detectron2==0.5` is
# still satisfied by it, and `detectron2.__version__` stays "0.5".
VERSION = "0.5+pure"

# Upstream's requirements without its pins of 2021 (black, iopath), without caffe2's helpers
# (future, pydot) and without hydra-core, which only the overrides of LazyConfig need.
REQUIREMENTS = (
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.6",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5",
    "iopath>=0.1.7",
    "omegaconf>=2.1",
)

# Small projects that upstream's setup.py installs under `detectron2.projects`.
PROJECTS = {
    "point_rend": "projects/PointRend/point_rend",
    "deeplab": "projects/DeepLab/deeplab",
    "panoptic_deeplab": "projects/Panoptic-DeepLab/panoptic_deeplab",
}


class Edit(NamedTuple):
    """Replaces `old` by `new` in the file `path`, where `old` must occur exactly `count` times."""

    path: str
    old: str
    new: str
    count: int


EDITS = (
    # NumPy 1.24 removed its aliases of Python's own types.
    Edit("detectron2/data/build.py", "dtype=np.int)", "dtype=int)", 1),
    Edit("detectron2/data/build.py", "dtype=np.int\n", "dtype=int\n", 1),
    Edit("detectron2/data/datasets/pascal_voc.py", "dtype=np.str)", "dtype=str)", 1),
    Edit("detectron2/evaluation/pascal_voc_evaluation.py", "astype(np.bool)", "astype(bool)", 2),
    Edit("detectron2/evaluation/sem_seg_evaluation.py", "dtype=np.int)", "dtype=int)", 2),
    Edit("detectron2/evaluation/sem_seg_evaluation.py", "dtype=np.float)", "dtype=float)", 2),
    Edit("detectron2/evaluation/sem_seg_evaluation.py", "astype(np.float)", "astype(float)", 3),
    Edit("detectron2/structures/masks.py", "astype(np.bool)", "astype(bool)", 1),
    Edit("detectron2/structures/masks.py", "dtype=np.bool)", "dtype=bool)", 1),
    Edit("detectron2/utils/video_visualizer.py", "dtype=np.bool)", "dtype=bool)", 1),
    Edit("detectron2/utils/visualizer.py", "astype(np.bool)", "astype(bool)", 3),
    # Pillow 10 removed this name of bilinear interpolation.
    Edit("detectron2/data/transforms/transform.py", "Image.LINEAR", "Image.BILINEAR", 1),
    # setuptools 82 removed pkg_resources.
    Edit(
        "detectron2/model_zoo/model_zoo.py",
        "import pkg_resources\n",
        "from importlib.resources import files\n",
        1,
    ),
    Edit(
        "detectron2/model_zoo/model_zoo.py",
        "pkg_resources.resource_filename(\n"
        '        "detectron2.model_zoo", os.path.join("configs", config_path)\n'
        "    )",
        'str(files("detectron2.model_zoo").joinpath("configs", config_path))',
        1,
    ),
    # COCOEvaluator's default is the compiled evaluation; without it, Meta's later releases fall
    # back to pycocotools in this way.
    Edit(
        "detectron2/evaluation/coco_evaluation.py",
        "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
        "COCOeval_opt = COCOeval\n",
        1,
    ),
)

STUB = '''\
"""Stands in for Detectron2's compiled operators, which this installation does not have.

`from detectron2 import _C` works; asking `_C` for an operator raises `MissingOperatorError`.
"""

_ABSENT = "none: pure-Python installation without compiled operators"


class MissingOperatorError(AttributeError):
    """A compiled operator was used. An AttributeError, so that hasattr() answers False."""


def get_compiler_version() -> str:
    return _ABSENT


def get_cuda_version() -> str:
    return _ABSENT


def has_cuda() -> bool:
    return False


def __getattr__(name: str):
    if name.startswith("__"):  # Python's own questions to a module, not an operator
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise MissingOperatorError(
        f"Detectron2's compiled operator {name!r} is absent: this is the pure-Python installation "
        "of Detectron2 0.5, and its source package holds no C++ code. Deformable convolution, "
        "rotated boxes and the fast COCO evaluation need it. Either choose a configuration without "
        "them, or install Meta's Detectron2 on a machine with a C++ compiler: "
        "'pip uninstall detectron2', then 'python -m tadp_d2.install_detectron2 --from-git'."
    )
'''

SETUP = f"""\
from setuptools import find_packages, setup

setup(
    name="detectron2",
    version={VERSION!r},
    description="Detectron2 0.5 as pure Python, without compiled operators",
    url="https://github.com/facebookresearch/detectron2",
    author="FAIR",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.9",
    install_requires={list(REQUIREMENTS)!r},
    packages=find_packages(),
    package_data={{"detectron2.model_zoo": ["configs/**/*.yaml", "configs/**/*.py"]}},
)
"""

PROBE = "import detectron2 as d; print(d.__version__); print(d.__path__[0])"


class InstallError(Exception):
    """Wrong input or environment: the message says what is wrong and what to do."""


def find_detectron2() -> tuple[str, str] | None:
    """Returns version and folder of the Detectron2 that this interpreter imports, None without one.

    A Detectron2 that is there and fails to import is the user's to repair or remove: an error.
    """
    # A fresh process sees what is on disk now; sys.prefix as its folder keeps sources that lie in
    # the current one from being taken for an installation.
    probe = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=sys.prefix, capture_output=True, text=True
    )
    if probe.returncode == 0:
        version, folder = probe.stdout.splitlines()[-2:]
        return version, folder
    reason = last_lines(probe.stderr, 1)
    if reason == "ModuleNotFoundError: No module named 'detectron2'":
        return None
    raise InstallError(
        f"a Detectron2 is installed but cannot be imported ({reason}). Repair it, or remove it "
        "with 'pip uninstall detectron2' and run this again."
    )


def check_environment() -> None:
    """Raises unless all that the build and Detectron2 itself need is installed."""
    if not hasattr(tarfile, "data_filter"):
        raise InstallError("this Python cannot unpack archives safely; use 3.11.4 or newer.")
    names = ["torch", "torchvision", "setuptools", *(name_of(r) for r in REQUIREMENTS)]
    missing = [name for name in names if not is_installed(name)]
    if not can_build_wheels():
        missing.append("wheel")
    if missing:
        raise InstallError(
            f"{sys.executable} lacks {', '.join(missing)}. Install these first, with "
            f"'python -m pip install {' '.join(missing)}' (in a checkout: -r requirements.txt), "
            "then run this again."
        )


def name_of(requirement: str) -> str:
    return requirement.partition(">")[0]


def is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def can_build_wheels() -> bool:
    """The wheel package builds wheels, and so does setuptools by itself from 70.1 on."""
    if importlib.util.find_spec("wheel"):
        return True
    return bool(
        importlib.util.find_spec("setuptools")
        and importlib.util.find_spec("setuptools.command.bdist_wheel")
    )


def pip(*arguments: str | Path, failure: str) -> None:
    """Runs pip for this interpreter; raises `failure` with the end of pip's output if it fails."""
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise InstallError(f"{failure} pip says:\n{last_lines(result.stderr or result.stdout, 8)}")


def last_lines(text: str, count: int) -> str:
    return "\n".join(text.strip().splitlines()[-count:])


def download_sdist(folder: Path) -> Path:
    """Downloads the source package with pip, which checks the hash before it runs any of it."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{SOURCE_REQUIREMENT} --hash=sha256:{SOURCE_SHA256}\n")
    downloads = folder / "downloads"
    pip(
        *("download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"),
        *("--require-hashes", "-r", requirements, "-d", downloads),
        failure=f"could not download {SOURCE_REQUIREMENT}. Without a network, download its source "
        "package elsewhere and give it with --sdist FILE.",
    )
    (sdist,) = downloads.iterdir()
    return sdist


def verify_sdist(sdist: Path) -> None:
    """Raises unless `sdist` is, byte for byte, the source package that this script was made for."""
    try:
        found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    except OSError as error:
        raise InstallError(f"cannot read the source package {sdist}: {error.strerror}.") from error
    if found != SOURCE_SHA256:
        raise InstallError(
            f"{sdist} is not the source package of {SOURCE_REQUIREMENT}: its sha256 is {found}, "
            f"expected {SOURCE_SHA256}. Nothing was installed."
        )


def unpack(sdist: Path, folder: Path) -> Path:
    """Unpacks the archive and returns its one top-level folder."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    return root


def apply_edits(root: Path, edits: Sequence[Edit]) -> None:
    """Applies `edits` below `root`; raises where a file does not hold exactly what is expected."""
    for edit in edits:
        path = root / edit.path
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        found = text.count(edit.old)
        if found != edit.count:
            raise InstallError(
                f"{edit.path}: expected {edit.old!r} {edit.count} time(s), found it {found} "
                "time(s). The source differs from the one that the edits were made for; nothing "
                "was installed."
            )
        path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")


def lay_out(root: Path, folder: Path) -> None:
    """Moves what gets installed from the unpacked source into `folder`, ready to be built."""
    folder.mkdir()
    package = folder / "detectron2"
    shutil.move(root / "detectron2", package)
    for name, source in PROJECTS.items():
        shutil.move(root / source, package / "projects" / name)
    shutil.move(root / "LICENSE", folder / "LICENSE")
    (package / "_C.py").write_text(STUB, encoding="utf-8")
    (folder / "setup.py").write_text(SETUP, encoding="utf-8")


def build_and_install(source: Path, wheels: Path) -> None:
    pip(
        *("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", wheels, source),
        failure="could not build the wheel; nothing was installed.",
    )
    # By name rather than by file: the installation then remembers no temporary path.
    pip(
        *("install", "--no-deps", "--no-index", "--find-links", wheels, f"detectron2=={VERSION}"),
        failure="could not install the wheel.",
    )


def install_pure(sdist: Path | None) -> None:
    """Installs Detectron2 0.5 as pure Python from `sdist`, or from PyPI where it is None."""
    if sdist is not None:
        verify_sdist(sdist)
    check_environment()
    with tempfile.TemporaryDirectory(prefix="detectron2-") as name:
        folder = Path(name)
        if sdist is None:
            print(f"Downloading {SOURCE_REQUIREMENT}, the Python tree of Meta's tag v0.5.")
            sdist = download_sdist(folder)
            verify_sdist(sdist)
        print(f"Source package verified: sha256 {SOURCE_SHA256}.")
        root = unpack(sdist, folder / "unpacked")
        apply_edits(root, EDITS)
        files = len({edit.path for edit in EDITS})
        print(f"Made {len(EDITS)} edits in {files} files, for current NumPy, Pillow and setuptools")
        print("and for COCO evaluation without compiled code.")
        lay_out(root, folder / "source")
        build_and_install(folder / "source", folder / "wheels")


def install_from_git() -> None:
    """Installs Meta's main branch; its build compiles the operators against the torch in place."""
    print(f"Building {GIT_URL}; this takes minutes.")
    pip(
        *("install", "--no-build-isolation", GIT_URL),
        failure=f"could not install {GIT_URL}. It needs git, a network, a C++ compiler that fits "
        "the installed torch, and setuptools and wheel. Without these, run this script without "
        "--from-git.",
    )


def report_installation() -> None:
    """Prints what was installed; removes it again and raises where it cannot be imported."""
    try:
        found = find_detectron2()
        if found is None:
            raise InstallError(f"pip installed Detectron2 where {sys.executable} does not look.")
    except InstallError:
        pip("uninstall", "--yes", "detectron2", failure="could not remove Detectron2 again.")
        raise
    version, folder = found
    print(f"Installed Detectron2 {version} in {folder}.")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Installs Detectron2 where none is importable: 0.5 as pure Python by default."
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--sdist", type=Path, metavar="FILE", help=f"source package of {SOURCE_REQUIREMENT}"
    )
    source.add_argument(
        "--from-git", action="store_true", help="Meta's main branch with its compiled operators"
    )
    return parser.parse_args(arguments)


def run(arguments: argparse.Namespace) -> None:
    found = find_detectron2()
    if found is not None:
        version, folder = found
        print(f"Detectron2 {version} in {folder} is importable and left alone.")
        return
    if arguments.from_git:
        install_from_git()
    else:
        install_pure(arguments.sdist)
        print("Absent: compiled operators; detectron2._C is a stub that names the one it misses.")
    report_installation()


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 with a Detectron2 in place, 2 for wrong input or environment."""
    try:
        run(parse_arguments(arguments))
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
