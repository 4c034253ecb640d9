"""`tadp-d2 report` on what a run really leaves, and on what is wrong with it."""

import html
import json
import subprocess
import sys

import pytest
from detectron2.modeling import build_model
from PIL import Image

from tadp_d2.cli import main
from tadp_d2.engine.trainer import Trainer
from tadp_d2.files import sha256
from tadp_d2.reports.drawn import find_captions
from tadp_d2.reports.runs import find_runs

NAMES = {"report.html", "MODEL_ZOO.md", "tables.tex", "results.csv"}


def fails(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["report", *map(str, arguments)])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_a_real_evaluation_is_reported_with_pictures_captions_and_provenance(
    make_config, world, tmp_path
):
    cfg = make_config("DATASETS.TEST", ("watercolor_test",), "TEST.GALLERY_IMAGES", 2)
    Trainer.test(cfg, build_model(cfg).eval())
    output = tmp_path / "report"
    main(["report", cfg.OUTPUT_DIR, "--output", str(output)])
    assert {path.name for path in output.iterdir()} == NAMES
    page = (output / "report.html").read_text("utf-8")
    # image, truth and prediction of two images
    assert page.count('src="data:image/webp') == 6
    (run,) = find_runs([tmp_path / "run"])
    captions = find_captions(run, "watercolor_test")
    assert len(captions) == 6
    text = next(iter(captions.values())).raw
    assert f"a watercolor style painting of {text}" in page
    assert run.record["provenance"]["vae"] in page
    assert html.escape(run.record["command"]) in page
    # Six drawn images are not Watercolor2k.
    result = run.results["watercolor_test"]
    assert (result.images, result.benchmark) == (6, None)
    assert "Not Watercolor2k" in (output / "MODEL_ZOO.md").read_text("utf-8")


def test_captions_that_were_changed_since_are_not_shown_as_those_of_the_run(make_run, tmp_path):
    file = tmp_path / "watercolor_test.json"
    file.write_text('{"1": {"captions": ["a dog"]}}')

    def edit(record):
        record["provenance"]["captions"]["watercolor_test"] = "0" * 64
        record["provenance"]["caption_files"]["watercolor_test"] = str(file)

    (run,) = find_runs([make_run("a", "null", edit=edit)])
    assert find_captions(run, "watercolor_test") == {}


def test_captions_are_shown_raw_cleaned_and_as_prompt(make_run, voc, tmp_path):
    file = tmp_path / "watercolor_test.jsonl"
    lines = [
        {"format": "tadp_d2 captions", "version": 1, "dataset": "watercolor_test"},
        {"image_id": "7", "raw": "a painting of a <dog>", "clean": "a <dog>"},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def edit(record):
        record["provenance"]["captions"]["watercolor_test"] = sha256(file)
        record["provenance"]["caption_files"]["watercolor_test"] = str(file)

    run = make_run("a", "simple", edit=edit, watercolor_test=voc(1, 2))
    picture = run / "gallery" / "watercolor_test" / "7" / "prediction.jpg"
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(picture)
    main(["report", str(run), "--output", str(tmp_path / "r")])
    page = (tmp_path / "r" / "report.html").read_text("utf-8")
    assert "<dd>a painting of a &lt;dog&gt;</dd><dt>cleaned</dt><dd>a &lt;dog&gt;</dd>" in page
    assert "a watercolor style painting of a &lt;dog&gt;<" in page


def test_without_runs_the_tables_are_the_papers_with_dashes(tmp_path):
    main(["report", "--output", str(tmp_path)])
    zoo = (tmp_path / "MODEL_ZOO.md").read_text("utf-8")
    assert "| TADP null | 57.5 | - | - | - |" in zoo
    assert "## Runs" not in zoo


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("results.json", "{", "cannot be read as JSON"),
        ("metrics.json", "{}\n{}\n", 'metrics.json:1: expected a JSON object with "iteration"'),
        ("gallery/watercolor_test/1/truth.jpg", "no picture", "cannot be read as an image"),
    ],
)
def test_a_damaged_file_is_named_and_earlier_reports_stay(
    make_run, voc, tmp_path, capsys, file, content, message
):
    run = make_run("a", "null", watercolor_test=voc(1, 2))
    output = tmp_path / "report"
    main(["report", str(run), "--output", str(output)])
    before = {path: path.read_bytes() for path in output.iterdir()}
    (run / file).parent.mkdir(parents=True, exist_ok=True)
    (run / file).write_text(content)
    capsys.readouterr()
    error = fails(capsys, run, "--output", output)
    assert message in error and file in error
    assert {path: path.read_bytes() for path in output.iterdir()} == before


def test_wrong_arguments_are_told(make_run, voc, tmp_path, capsys):
    assert "no results.json" in fails(capsys, tmp_path / "nowhere", "--output", tmp_path / "r")
    assert not (tmp_path / "r").exists()
    run = make_run("a", "null", watercolor_test=voc(1, 2))
    assert "names a folder" in fails(capsys, run, "--output", run / "results.json")
    error = fails(capsys, run, "--attention", tmp_path / "none.png", "--output", tmp_path / "r")
    assert "none.png" in error


def test_reports_need_neither_torch_nor_detectron2(make_run, voc, tmp_path):
    run = make_run("a", "null", watercolor_test=voc(1, 2))
    code = (
        "import sys; sys.modules['torch'] = sys.modules['detectron2'] = None\n"
        "from tadp_d2.reports.report import write_report; from pathlib import Path\n"
        f"write_report([Path({json.dumps(str(run))})], Path({json.dumps(str(tmp_path / 'r'))}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {path.name for path in (tmp_path / "r").iterdir()} == NAMES
