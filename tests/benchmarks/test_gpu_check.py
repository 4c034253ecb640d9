"""A run on a GPU keeps what it found whatever fails, and its tables show what was not run."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tadp_d2.diffusion.clip_text import Context
from tadp_d2.diffusion.stable_diffusion import load_unet
from tadp_d2.diffusion.unet_features import UNetFeatures

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def stored(file):
    return json.loads(file.read_text())


def test_a_failed_or_endless_measurement_is_written_down_and_the_rest_goes_on(tmp_path):
    from gpu_record import Clock, Record

    file = tmp_path / "gpu.json"
    record, clock = Record(file, {"device": "cpu"}), Clock(60)
    with record.section("first"):
        assert record.cell(clock, {"side": "good"}, lambda: {"seconds": 1.0}) == {"seconds": 1.0}
        # Whole after every measurement.
        assert stored(file)["cells"] == [{"side": "good", "seconds": 1.0}]
        assert record.cell(clock, {"side": "bad"}, lambda: {"seconds": 1 / 0}) is None
        assert record.cell(clock, {"side": "slow"}, lambda: time.sleep(30) or {}, cap=1) is None
        record.cell(Clock(0), {"side": "late"}, lambda: {"seconds": 1.0})
        raise ValueError("the section itself")
    with record.section("second"):
        record.cell(clock, {"side": "good"}, lambda: {"seconds": 2.0})
    cells = stored(file)["cells"]
    assert "ZeroDivisionError" in cells[1]["error"]
    assert "given up after 1 s" in cells[2]["error"]
    assert cells[3]["skipped"] and "seconds" not in cells[3]
    assert cells[4] == {"side": "good", "seconds": 2.0}
    sections = stored(file)["sections"]
    assert "the section itself" in sections["first"]["error"]
    assert "error" not in sections["second"]


def test_tables_hold_ratios_and_dashes():
    from gpu_tables import tables

    step = {"section": "steps", "task": "detection", "batch": 2}
    cells = [
        {**step, "side": "reference", "precision": "fp32", "seconds": 1.0},
        {**step, "side": "reference", "precision": "bf16", "seconds": 0.5},
        {**step, "side": "tadp_d2", "precision": "bf16", "error": "out of memory"},
        {**step, "side": "tadp_d2", "precision": "bf16", "seconds": 0.125, "peak_mib": 9000},
        {**step, "side": "tadp_d2", "precision": "fp16", "skipped": "no time left"},
    ]
    lines = tables(cells)
    rows = [line for line in lines if line.startswith(("| bf16 | 2 |", "| fp16 | 2 |"))]
    assert rows[0] == "| bf16 | 2 | 500 | 125 | 4 | 8 | - | - | 9000 |"
    assert rows[1] == "| fp16 | 2 | - | - | - | - | - | - | - |"
    # Those of segmentation: not run.
    assert rows[2] == "| bf16 | 2 | - | - | - | - | - | - | - |"
    # An eager step beside the key's values is one of these.
    own = {"section": "compiling", "task": "detection", "precision": "bf16", "batch": 2}
    cells += [{**own, "option": "eager", "seconds": 0.25}, {**own, "option": "graphs"}]
    cells[-1] |= {"seconds": 0.1, "difference": 0.0}
    cells.append({**own, "section": "busy", "option": "graphs", "busy_share": 0.9})
    graphs = next(line for line in tables(cells) if line.startswith("| detection | graphs | 2 |"))
    assert (
        graphs == "| detection | graphs | 2 | 100 | 2.5 | 5 | 10 | 90% | - | 0.0e+00 | - | - | - |"
    )
    lean = {"section": "memory", "task": "detection", "option": "LORA_RANK 16", "batch": 8}
    cells.append({**lean, "precision": "bf16", "seconds": 0.2, "peak_mib": 15000})
    assert "| detection | LORA_RANK 16 | 8 | 200 | 15000 |" in tables(cells)
    assert "| detection | ADAM_8BIT | 8 | - | - |" in tables(cells)
    assert rows[0] in tables(cells)
    assert "| bf16 | 2 | 500 | 250 | 2 | 4 | - | - | - |" in tables([*cells[:2], *cells[5:]])
    # Without any measurement the tables are there.
    assert len(tables([])) > 50


def test_the_wrapper_in_the_place_of_our_features_computes_the_same(model_folder):
    import gpu_sides

    ours = UNetFeatures(load_unet(model_folder / "unet"))
    reference = gpu_sides.ReferenceUNet(ours)
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    width = ours.unet.config.cross_attention_dim
    context = Context(torch.randn(2, 77, width, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        found, expected = (side(latents, context, 0.0) for side in (reference, ours))
    assert found.keys() == expected.keys()
    for level, maps in expected.items():
        assert torch.allclose(found[level], maps, rtol=1e-4, atol=1e-5)


@pytest.mark.exhaustive
def test_the_script_runs_on_a_cpu(tmp_path, world):
    file = tmp_path / "cpu.json"
    command = [sys.executable, SCRIPT, "--size", "tiny", "--device", "cpu", "--output", file]
    command += ["--data", world, "--sections", "matrix", "features", "detection", "segmentation"]
    command += ["graphs", "blocks", "memory", "evaluation", "personalization", "captioning"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    cells = stored(file)["cells"]
    failed = [cell for cell in cells if "error" in cell or "skipped" in cell]
    # That package is an extra.
    assert all(cell.get("skipped") == "bitsandbytes is not installed" for cell in failed)
    assert [c["batch"] for c in cells if c.get("option") == "LORA_RANK 16"] == [2, 2]
    assert {c["what"] for c in cells if c["section"] == "personalization"} == {
        "invert",
        "dreambooth",
    }
    eager = [c for c in cells if c["section"] == "compiling"]
    # The same weights and inputs give the same features; graphs need a GPU.
    assert {(c["task"], c["option"], c["difference"]) for c in eager} == {
        ("detection", "eager", 0),
        ("segmentation", "eager", 0),
    }
    assert stored(file)["finished"]
