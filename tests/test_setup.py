"""What `setup.py` says that the package needs."""

import ast
import itertools
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

from tadp_d2 import install_detectron2

ROOT = Path(__file__).parents[1]


def imported() -> set[str]:
    """The top-level modules that the package imports from elsewhere, and Detectron2 for it."""
    names = {"cv2"}
    for file in (ROOT / "tadp_d2").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.partition(".")[0])
    # Detectron2 is on no index under its own name.
    return names - sys.stdlib_module_names - {"tadp_d2", "detectron2"}


def required() -> set[str]:
    """The distributions that are installed with the package, or with an extra of it."""
    (call,) = (
        node.value
        for node in ast.parse((ROOT / "setup.py").read_text("utf-8")).body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    )
    own = {keyword.arg: keyword.value for keyword in call.keywords}
    extras = ast.literal_eval(own["extras_require"]).values()
    found = [*ast.literal_eval(own["install_requires"]), *itertools.chain(*extras)]
    return {plain(requirement) for requirement in found}


def plain(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def test_what_the_package_imports_is_required():
    of_module = packages_distributions()
    for module in imported():
        # An extra need not be installed, and then goes by the name of its module.
        unknown = {"open_clip": "open_clip_torch"}.get(module, module)
        names = {plain(name) for name in of_module.get(module, [unknown])}
        assert names & required(), f"{module}: setup.py requires none of {names}"


def test_what_detectron2_is_built_with_is_required():
    needed = {plain(requirement) for requirement in install_detectron2.REQUIREMENTS}
    assert {*needed, "torch", "torchvision", "setuptools"} <= required()
