import pytest
import torch

from tadp_d2.conditioning.caption_prompt import CaptionPrompt
from tadp_d2.data.datasets.art import SHARED_CLASSES
from tadp_d2.engine.checkpoint import RunCheckpointer
from tadp_d2.engine.trainer import Trainer
from tadp_d2.errors import UserError
from tadp_d2.records.provenance import Provenance
from tadp_d2.study import named_styles
from tadp_d2.study.named_styles import check_detector, draw_and_judge, table


def test_every_class_is_drawn_and_judged_without_its_name(
    make_config, world, tmp_path, monkeypatch
):
    monkeypatch.setattr(named_styles, "_STEPS", 1)
    monkeypatch.setattr(named_styles, "_JUDGED", 4)
    run = tmp_path / "run"
    run.mkdir()
    # The captions of a detector's training must not be asked for.
    cfg = make_config("OUTPUT_DIR", str(run), "TEXT.MODIFIER", "simple")
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    RunCheckpointer(model, str(run), Provenance(cfg, model)).save("model_final")
    (run / "config.yaml").write_text(cfg.dump())
    asked, captions = [], []
    prompt = CaptionPrompt.prompt
    monkeypatch.setattr(
        CaptionPrompt, "prompt", lambda self, own: captions.append(own) or prompt(self, own)
    )
    draw = named_styles.draw_sample
    monkeypatch.setattr(
        named_styles,
        "draw_sample",
        lambda model, prompt, *rest: asked.append(prompt) or draw(model, prompt, *rest),
    )
    result = draw_and_judge(world, tmp_path / "out", [0, 5], run, "comic")
    assert result["asked"] == [name for name in SHARED_CLASSES for _ in range(2)]
    assert asked[:2] == [
        "a comic style painting of a bicycle in a park",
        "a comic style painting of a bicycle on a street",
    ]
    # The judge is given no word of what was asked for: neither caption nor modifier.
    assert {own["caption"] for own in captions} == {""}
    assert len(captions) == len(asked) + 4
    assert (tmp_path / "out" / "comic.png").stat().st_size > 10_000
    assert result["real_styles"] >= 0.75


def test_the_table_counts_what_was_asked_for():
    result = {
        "style": "photo",
        "asked": [name for name in SHARED_CLASSES for _ in range(2)],
        "found": ["bicycle", "bird", "bird", "bird", "", "car", *["cat"] * 6],
        "styles": ["photo"] * 9 + ["comic"] * 3,
        "real_classes": 0.9,
        "real_styles": 1.0,
    }
    lines = table([result]).splitlines()
    expected = "| photo | 50% | 100% | 50% | 100% | 0% | 0% | 50% | 90% | 75% | 100% |"
    assert lines[2] == expected
    assert lines[-1] == "12 images in each style; by chance 17% for a class, 33% for a style."


def test_only_a_detector_that_is_trained_to_the_end_is_a_judge(
    make_config, make_segmentation_config, tmp_path
):
    def refused(message):
        with pytest.raises(UserError, match=f"^--detector {tmp_path}: {message}.*make demo$"):
            check_detector(tmp_path)

    refused("there is no config.yaml")
    (tmp_path / "config.yaml").write_text(make_config().dump())
    refused("there is no model_final.pth")
    (tmp_path / "model_final.pth").touch()
    check_detector(tmp_path)
    (tmp_path / "config.yaml").write_text(make_segmentation_config().dump())
    refused("its task is semantic")
