#!/usr/bin/env python3
"""Writes the API reference: the public classes and functions with signatures and docstrings.

    python tools/make_api_reference.py build/api

A Markdown page for each folder of the package, and `README.md` as their index. The source is read
and not imported, so that no dependency is needed. The pages are made and not kept: they are those
of the source beside them.
"""

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path

from tadp_d2.files import replacing

PACKAGE = Path(__file__).parents[1] / "tadp_d2"
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def make_pages() -> dict[str, str]:
    """File name -> Markdown, the index first."""
    folders: dict[str, list[Path]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        if ast.parse(file.read_text("utf-8")).body:
            name = ".".join(file.parent.relative_to(PACKAGE.parent).parts)
            folders.setdefault(name, []).append(file)
    pages = {f"{name}.md": _page(name, files) for name, files in sorted(folders.items())}
    return {"README.md": _index(pages), **pages}


def _index(pages: dict[str, str]) -> str:
    lines = ["# API reference", "", "| package | |", "| --- | --- |"]
    for name, page in pages.items():
        titles = [line[3:] for line in page.splitlines() if line.startswith("## ")]
        lines.append(f"| [{name.removesuffix('.md')}]({name}) | {', '.join(titles)} |")
    return "\n".join(lines) + "\n"


def _page(name: str, files: list[Path]) -> str:
    blocks = [f"# {name}"]
    for file in files:
        module = ast.parse(file.read_text("utf-8"))
        title = name if file.stem == "__init__" else f"{name}.{file.stem}"
        blocks += [f"## {title}", *_docstring(module)]
        for definition in _public(module):
            blocks += _definition(definition, "###")
    return "\n\n".join(blocks) + "\n"


def _definition(node: Definition, level: str, owner: str = "") -> Iterator[str]:
    """Its title, signature and docstring; of a class its public methods too."""
    yield f"{level} {owner}{node.name}"
    yield f"```python\n{_signature(node)}\n```"
    yield from _docstring(node)
    if isinstance(node, ast.ClassDef):
        for method in _public(node):
            yield from _definition(method, level + "#", f"{node.name}.")


def _public(node: ast.Module | ast.ClassDef) -> list[Definition]:
    """Those without a leading underscore; a constructor if its docstring states something."""
    return [
        part
        for part in node.body
        if isinstance(part, Definition)
        and (not part.name.startswith("_") or (part.name == "__init__" and ast.get_docstring(part)))
    ]


def _signature(node: Definition) -> str:
    """The definition without its body, in one line for each decorator and one for the rest."""
    if isinstance(node, ast.ClassDef):
        bare = ast.ClassDef(node.name, node.bases, node.keywords, [ast.Pass()], node.decorator_list)
    else:
        bare = type(node)(node.name, node.args, [ast.Pass()], node.decorator_list, node.returns)
    bare.type_params = []
    return ast.unparse(ast.fix_missing_locations(bare)).removesuffix("    pass").rstrip(" \n:")


def _docstring(node: ast.Module | Definition) -> list[str]:
    """The first paragraph as text, the rest as it is laid out."""
    text = ast.get_docstring(node)
    if not text:
        return []
    first, _, rest = text.partition("\n\n")
    if first.partition("\n")[0] in ("Args:", "Returns:", "Raises:", "Attributes:"):
        first, rest = "", text
    return [*([first] if first else []), *([f"```text\n{rest}\n```"] if rest else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path, help="folder of the pages")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for name, page in make_pages().items():
        with replacing(output / name) as temporary:
            temporary.write_text(page, "utf-8")
    print(output / "README.md")


if __name__ == "__main__":
    main()
