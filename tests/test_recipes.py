"""The recipes of the single-domain tables: they load, say what the papers say, and train."""

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from tadp_d2.conditioning.caption_prompt import get_modifiers
from tadp_d2.config.load import load_config
from tadp_d2.data.loader import build_train_loader
from tadp_d2.data.root import datasets_root
from tadp_d2.data.texts import find_caption_file, read_captions, write_captions
from tadp_d2.engine.optimizer import build_optimizer

CONFIGS = Path(__file__).parents[1] / "configs"
FOLDERS = ("pascal_segmentation", "ade20k", "coco_stuff", "cityscapes")
ROWS = sorted(file for folder in FOLDERS for file in (CONFIGS / folder).glob("[!B]*.yaml"))
ACROSS = sorted((CONFIGS / "tagging_across").glob("*.yaml"))
# The package of CLIP's sentences is optional.
PLAIN = ("MODEL.CONDITIONER.TEMPLATES", "single")
# One of each conditioner and each kind of maps.
TRAINED = (
    *("pascal_segmentation/vpd_ls", "pascal_segmentation/class_embs", "pascal_segmentation/oracle"),
    *("pascal_segmentation/class_names", "ade20k/vpd_a64", "ade20k/vpd_table5_maps_mid"),
    *("ade20k/vpd_table5_empty", "ade20k/tagging_implicit", "ade20k/tagging_loss"),
    *("ade20k/tagging_tags_upernet", "ade20k/tagging_own", "coco_stuff/vpd", "cityscapes/oracle"),
    "tagging_across/voc2watercolor",
)
REST = [
    f"{file.parent.name}/{file.stem}"
    for file in [*ROWS, *ACROSS]
    if f"{file.parent.name}/{file.stem}" not in TRAINED
]


@pytest.mark.parametrize("file", ROWS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_row_loads_and_has_the_settings_of_its_table(file):
    pytest.importorskip("textblob") if "nouns" in file.name else None
    cfg = load_config(str(file), overrides=list(PLAIN))
    name = f"{file.parent.name}_{file.stem}"
    assert cfg.OUTPUT_DIR == f"output/{name}"
    assert cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE == 8
    per_iteration = cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.GRADIENT_ACCUMULATION
    if file.parent.name != "pascal_segmentation":
        length = {"coco_stuff": 80000, "cityscapes": 90000}.get(file.parent.name, 80000)
        length = 160000 if "upernet" in name else length
        assert (per_iteration, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (16, length, 1500)
        tagging = "tagging" in name or file.parent.name != "ade20k"
        assert cfg.SOLVER.BASE_LR == (6e-5 if tagging else 8e-5)
        assert cfg.MODEL.SEM_SEG_HEAD.DROPOUT == 0.1
        if file.parent.name == "ade20k":
            assert cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA == 0.75
            size = 640 if "640" in name else 512
            assert (cfg.INPUT.CROP.SIZE, cfg.TEST.WINDOW_SIZE) == ([size, size], size)
        options, diffusion = cfg.MODEL.CONDITIONER.TAGGING, cfg.MODEL.DIFFUSION
        row = re.match(r"tagging_(weight|blocks)_(\d+)", file.stem) or ["", "", 0]
        weight, blocks = (int(row[2]) if row[1] == kind else 0 for kind in ("weight", "blocks"))
        assert options.LOSS_WEIGHT == (weight or (file.stem != "tagging_adapter"))
        assert options.BLOCKS == (blocks or 2)
        noise = 10 if tagging else 0
        assert (diffusion.TIMESTEP, diffusion.NOISE_TIMESTEP) == (noise, noise)
        expected = re.match(r"oracle_p(\d+)_r(\d+)", file.stem)
        oracle = cfg.MODEL.CONDITIONER.ORACLE
        errors = [int(number) / 100 for number in expected.groups()] if expected else [1.0, 1.0]
        assert [oracle.PRECISION, oracle.RECALL] == errors
    else:
        assert (cfg.MODEL.SEM_SEG_HEAD.DROPOUT, cfg.MODEL.SEM_SEG_HEAD.FOCAL_GAMMA) == (0.2, 0)
        assert per_iteration * cfg.SOLVER.MAX_ITER / 10582 == pytest.approx(15, abs=1e-3)
        assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY) == (1e-5, 0.01)
    unscaled = "tagging" in name or file.parent.name in ("coco_stuff", "cityscapes")
    assert cfg.MODEL.DIFFUSION.LATENT_SCALING == (
        not ("vpd" in name and "ls" not in name) and not unscaled
    )


def test_the_adapter_goes_across_domains_as_the_prompts_of_tadp():
    """But for the conditioner and the maps, each is TADP's row of the modifier in words."""
    assert len(ACROSS) == 4
    for file in ACROSS:
        cfg = load_config(str(file))
        tadp = load_config(f"{file.stem.removesuffix('_tags')}_simple")
        assert cfg.OUTPUT_DIR == f"output/tagging_across_{file.stem}"
        assert cfg.MODEL.CONDITIONER.TAGGING.TAGS == (
            "captions" if file.stem.endswith("_tags") else "classes"
        )
        assert [modifier.name for modifier in get_modifiers(cfg)] == ["simple", "simple"]
        for own in (cfg, tadp):
            own.defrost()
            own.OUTPUT_DIR = own.TEXT.CAPTION_DIR = ""
            own.MODEL.DIFFUSION.ATTENTION_MAPS.LEVELS = ()
            own.MODEL.CONDITIONER.NAME = own.MODEL.CONDITIONER.TAGGING.TAGS = ""
        assert cfg == tadp


def test_presets_of_schedules_views_and_the_released_code():
    file = str(CONFIGS / "ade20k" / "tadp_20.yaml")
    for preset, settings in (("schedule_8k", (8000, 150)), ("schedule_4k", (4000, 75))):
        solver = load_config(file, preset).SOLVER
        assert (solver.MAX_ITER, solver.WARMUP_ITERS, solver.BASE_LR) == (*settings, 1.6e-4)
    assert load_config(file, "views").TEST.VIEWS.SCALES == (1.0, 1.125, 1.25, 1.375, 1.5)
    pascal = str(CONFIGS / "pascal_segmentation" / "oracle.yaml")
    released = load_config(pascal, "released_pascal")
    assert (released.SOLVER.UNET_LR_FACTOR, released.MODEL.SEM_SEG_HEAD.FOCAL_GAMMA) == (1.0, 2.0)
    upernet = load_config(file, "upernet").MODEL
    assert (upernet.SEM_SEG_HEAD.NAME, upernet.SEM_SEG_HEAD.CONVS_DIM) == ("UperNetHead", 512)


@pytest.mark.parametrize(
    "row", [*TRAINED, *(pytest.param(row, marks=pytest.mark.exhaustive) for row in REST)]
)
def test_rows_train_two_steps(row, model_folder, image_encoder_folder, tmp_path):
    pytest.importorskip("textblob") if "nouns" in row else None
    upernet = "upernet" in row
    shipped = load_config(str(CONFIGS / f"{row}.yaml"), overrides=list(PLAIN))
    of_file = shipped.MODEL.CONDITIONER.TAGGING.TAGS == "captions"
    tags = _write_tags(tmp_path / "tags", shipped.DATASETS.TRAIN) if of_file else ""
    cfg = load_config(
        str(CONFIGS / f"{row}.yaml"),
        overrides=[
            *("MODEL.DIFFUSION.WEIGHTS", str(model_folder), "TEXT.CAPTION_DIR", str(tags)),
            *("MODEL.SEM_SEG_HEAD.AUXILIARY_CHANNELS", 8 if upernet else 256),
            *("MODEL.CONDITIONER.IMAGE_ENCODER", str(image_encoder_folder)),
            *("MODEL.CONDITIONER.TAGGING.WIDTH", 16, "MODEL.CONDITIONER.TAGGING.HEADS", 2),
            *("MODEL.SEM_SEG_HEAD.NORM", "BN", "MODEL.SEM_SEG_HEAD.CONVS_DIM", 16),
            *("MODEL.FPN.OUT_CHANNELS", 16, "INPUT.MIN_SIZE_TRAIN", (64, 96)),
            *("INPUT.CROP.SIZE", [64, 64], "SOLVER.IMS_PER_BATCH", 2),
            *("INPUT.FIXED_SIZE_TRAIN", (96, 64)),
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
            tagging = cfg.MODEL.CONDITIONER.NAME == "TaggingAdapter"
            assert ("loss_tags" in losses) == (tagging and not row.endswith("tagging_adapter"))
            assert ("loss_sem_seg_auxiliary" in losses) == upernet
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
    after = dict(model.named_parameters())
    # Each trained part has moved, and every parameter was reached, as distributed training needs.
    for part in {n.split(".")[0] for n in before}:
        own = [n for n in before if n.split(".")[0] == part]
        assert any(not torch.equal(before[n], after[n]) for n in own), part
    assert [n for n in before if after[n].grad is None] == []


def _write_tags(folder: Path, datasets: Iterable[str]) -> Path:
    """Files of tags: one, several and none, in turns."""
    for name in datasets:
        ids = read_captions(find_caption_file(datasets_root() / "captions", name)).records
        tags = itertools.cycle(("dog", "car | traffic light | sky", ""))
        texts = {image_id: next(tags) for image_id in ids}
        write_captions(folder / f"{name}.jsonl", name, texts, {"tool": "test"})
    return folder
