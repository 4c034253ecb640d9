"""The API reference has every public class, function and method, with its own docstring."""

import inspect
import runpy
import subprocess
import sys
from pathlib import Path

from tadp_d2 import files
from tadp_d2.conditioning import conditioner, domains

TOOL = Path(__file__).parents[2] / "tools" / "make_api_reference.py"


def test_public_names_are_there_with_signature_and_docstring():
    pages = runpy.run_path(str(TOOL))["make_pages"]()
    for module in (files, conditioner, domains):
        page = pages[f"{module.__name__.rpartition('.')[0]}.md"]
        assert f"\n## {module.__name__}\n" in page
        for name, part in vars(module).items():
            if getattr(part, "__module__", "") != module.__name__:
                continue
            assert (f"\n### {name}\n" in page) == (not name.startswith("_")), name
            if not name.startswith("_"):
                assert inspect.getdoc(part).partition("\n")[0] in page
    page = pages["tadp_d2.conditioning.md"]
    assert (
        "#### Conditioner.needed\n\n```python\n@classmethod\ndef needed(cls, cfg: CfgNode, " in page
    )
    # Sections keep their layout.
    assert (
        "```text\nRaises:\n    UserError: `MODEL.CONDITIONER.NAME` is not registered.\n```" in page
    )
    assert "_say" not in pages["tadp_d2.records.md"]


def test_the_command_writes_an_index_whose_links_lead_to_pages(tmp_path):
    subprocess.run([sys.executable, TOOL, tmp_path / "api"], check=True, capture_output=True)
    index = (tmp_path / "api" / "README.md").read_text()
    pages = {file.name for file in (tmp_path / "api").iterdir()} - {"README.md"}
    assert len(pages) > 20
    assert all(f"]({page})" in index for page in pages)
