"""A conditioner that is trained: under accumulation and AMP, saved, resumed, logged, evaluated."""

import json
import shutil

import pytest
import torch

from tadp_d2.engine.trainer import Trainer

SMALL = (
    *("INPUT.FIXED_SIZE_TRAIN", (64, 64), "INPUT.FIXED_SIZE_TEST", (64, 64)),
    *("DATASETS.TEST", ("watercolor_test",), "TEST.EVAL_PERIOD", 0, "TEST.GALLERY_IMAGES", 0),
    *("SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.IMS_PER_BATCH", 2),
    *("SOLVER.GRADIENT_ACCUMULATION", 2, "SOLVER.AMP.ENABLED", True),
    *("SOLVER.BASE_LR", 1e-3, "SOLVER.UNET_LR_FACTOR", 0.1, "SOLVER.CONDITIONER_LR_FACTOR", 0.5),
    *("SOLVER.WARMUP_ITERS", 0, "DATALOADER.NUM_WORKERS", 0),
    *("MODEL.DIFFUSION.TIMESTEP", 10, "MODEL.DIFFUSION.NOISE_TIMESTEP", 10),
)
KINDS = {
    "TextAdapter": ("MODEL.CONDITIONER.ADAPTED", "ClassEmbeddings"),
    "TaggingAdapter": (
        *("MODEL.CONDITIONER.TAGGING.WIDTH", 16, "MODEL.CONDITIONER.TAGGING.HEADS", 2),
        *("MODEL.CONDITIONER.TAGGING.QUERIES", 5),
    ),
}


def train(cfg, resume):
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    "name", ["TaggingAdapter", pytest.param("TextAdapter", marks=pytest.mark.exhaustive)]
)
def test_a_resumed_run_is_the_whole_one(name, make_config, image_encoder_folder, tmp_path):
    encoder = ("MODEL.CONDITIONER.IMAGE_ENCODER", str(image_encoder_folder))
    options = ("MODEL.CONDITIONER.NAME", name, *KINDS[name], *encoder, *SMALL)
    whole, half = tmp_path / "whole", tmp_path / "half"
    whole.mkdir()
    trainer = train(make_config(*options, "OUTPUT_DIR", str(whole)), resume=False)
    begun = trainer.build_model(trainer.cfg).state_dict()
    trained = torch.load(whole / "model_final.pth", weights_only=True)["model"]
    own = [key for key in trained if key.startswith("conditioner.")]
    assert own and not [key for key in own if ".text." in key or ".image_encoder." in key]
    assert any(not torch.equal(trained[key], begun[key]) for key in own)

    half.mkdir()
    shutil.copy(whole / "model_0000001.pth", half)
    (half / "last_checkpoint").write_text("model_0000001.pth")
    train(make_config(*options, "OUTPUT_DIR", str(half)), resume=True)
    resumed = torch.load(half / "model_final.pth", weights_only=True)["model"]
    assert trained.keys() == resumed.keys()
    assert all(torch.equal(trained[key], resumed[key]) for key in trained)

    rows = [json.loads(line) for line in (whole / "metrics.json").read_text().splitlines()]
    (row,) = [row for row in rows if "lr_unet" in row]
    # Of the last iteration: (1 - 3/4)^0.9 of the first.
    factor = 0.25**0.9
    assert row["lr_head"] == pytest.approx(1e-3 * factor)
    assert row["lr_unet"] == pytest.approx(1e-4 * factor)
    assert row["lr_conditioner"] == pytest.approx(5e-4 * factor)
    results = json.loads((whole / "results.json").read_text())
    tags = results["metrics"]["watercolor_test"].get("tags")
    if name == "TaggingAdapter":
        assert "loss_tags" in row and results["metric_sets"]["tags"]["of_class"] == "AP"
        # Six of its classes are those of the test set.
        known = [value for key, value in tags.items() if key != "mAP" and value is not None]
        assert tags["mAP"] == pytest.approx(sum(known) / len(known)) and 1 < len(known) <= 6
    else:
        assert "loss_tags" not in row and tags is None
