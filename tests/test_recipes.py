"""The recipes of the single-domain tables: they load, say what the papers say, and train."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from PIL import Image

from tadp_d2.config.load import load_config
from tadp_d2.data.loader import build_train_loader
from tadp_d2.data.root import datasets_root
from tadp_d2.engine.optimizer import build_optimizer

CONFIGS = Path(__file__).parents[1] / "configs"
ROWS = sorted(
    file
    for folder in ("pascal_segmentation", "ade20k")
    for file in (CONFIGS / folder).glob("[!B]*.yaml")
)
# The package of CLIP's sentences is optional.
PLAIN = ("MODEL.CONDITIONER.TEMPLATES", "single")
# One of each conditioner and each kind of maps.
TRAINED = (
    *("pascal_segmentation/vpd_ls", "pascal_segmentation/class_embs", "pascal_segmentation/oracle"),
    *("pascal_segmentation/class_names", "ade20k/vpd_a64", "ade20k/vpd_table5_maps_mid"),
    *("ade20k/vpd_table5_empty", "ade20k/tagging_implicit", "ade20k/tagging_loss"),
)


@pytest.mark.parametrize("file", ROWS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_row_loads_and_has_the_settings_of_its_table(file):
    pytest.importorskip("textblob") if "nouns" in file.name else None
    cfg = load_config(str(file), overrides=list(PLAIN))
    name = f"{file.parent.name}_{file.stem}"
    assert cfg.OUTPUT_DIR == f"output/{name}"
    assert cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE == 8
    per_iteration = cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.GRADIENT_ACCUMULATION
    if file.parent.name == "ade20k":
        assert (per_iteration, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (16, 80000, 1500)
        assert cfg.SOLVER.BASE_LR == (6e-5 if "tagging" in name else 8e-5)
        assert cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA == 0.75
    else:
        assert per_iteration * cfg.SOLVER.MAX_ITER / 10582 == pytest.approx(15, abs=1e-3)
        assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY) == (1e-5, 0.01)
    assert cfg.MODEL.DIFFUSION.LATENT_SCALING == (
        not ("vpd" in name and "ls" not in name) and "tagging" not in name
    )


def test_presets_of_schedules_views_and_the_released_code():
    file = str(CONFIGS / "ade20k" / "tadp_20.yaml")
    for preset, settings in (("schedule_8k", (8000, 150)), ("schedule_4k", (4000, 75))):
        solver = load_config(file, preset).SOLVER
        assert (solver.MAX_ITER, solver.WARMUP_ITERS, solver.BASE_LR) == (*settings, 1.6e-4)
    assert load_config(file, "views").TEST.VIEWS.SCALES == (1.0, 1.125, 1.25, 1.375, 1.5)
    pascal = str(CONFIGS / "pascal_segmentation" / "oracle.yaml")
    assert load_config(pascal, "released_pascal").SOLVER.UNET_LR_FACTOR == 1.0


@pytest.fixture(scope="module")
def ade20k(world):
    """Three images in ADE20K's layout."""
    root = datasets_root() / "ADEChallengeData2016"
    rng = np.random.default_rng(0)
    for folder in ("training", "validation"):
        images, labels = root / "images" / folder, root / "annotations_detectron2" / folder
        images.mkdir(parents=True, exist_ok=True)
        labels.mkdir(parents=True, exist_ok=True)
        for index in range(3):
            pixels = rng.integers(0, 256, (96, 80, 3), np.uint8)
            Image.fromarray(pixels).save(images / f"{index}.jpg")
            values = rng.choice([*range(6), 149, 255], (96, 80)).astype(np.uint8)
            Image.fromarray(values).save(labels / f"{index}.png")


@pytest.mark.parametrize("row", TRAINED)
def test_rows_train_two_steps(row, model_folder, image_encoder_folder, ade20k, tmp_path):
    train = "ade20k_train" if row.startswith("ade20k") else "voc_2012_trainval_semantic"
    cfg = load_config(
        str(CONFIGS / f"{row}.yaml"),
        overrides=[
            *("MODEL.DIFFUSION.WEIGHTS", str(model_folder), "DATASETS.TRAIN", (train,)),
            *("MODEL.CONDITIONER.IMAGE_ENCODER", str(image_encoder_folder)),
            *("MODEL.CONDITIONER.TAGGING.WIDTH", 16, "MODEL.CONDITIONER.TAGGING.HEADS", 2),
            *("MODEL.SEM_SEG_HEAD.NORM", "BN", "MODEL.SEM_SEG_HEAD.CONVS_DIM", 16),
            *("MODEL.FPN.OUT_CHANNELS", 16, "INPUT.MIN_SIZE_TRAIN", (64, 96)),
            *("INPUT.CROP.SIZE", [64, 64], "SOLVER.IMS_PER_BATCH", 2),
            *("DATALOADER.NUM_WORKERS", 0, "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path)),
            *PLAIN,
            # The tiny tokenizer cuts words that it does not know into letters.
            *(("MODEL.CONDITIONER.CLASS_NAMES", ("dog", "car")) if "class_names" in row else ()),
        ],
    )
    torch.manual_seed(0)
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    batches = iter(build_train_loader(cfg))
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    with EventStorage():
        for _ in range(2):
            losses = model(next(batches))
            assert all(loss.isfinite() for loss in losses.values())
            assert ("loss_tags" in losses) == row.endswith("tagging_loss")
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
    after = dict(model.named_parameters())
    # Each trained part has moved, and every parameter was reached, as distributed training needs.
    for part in {n.split(".")[0] for n in before}:
        own = [n for n in before if n.split(".")[0] == part]
        assert any(not torch.equal(before[n], after[n]) for n in own), part
    assert [n for n in before if after[n].grad is None] == []
