"""Detectron2's architectures on the diffusion backbone by YAML alone: trained, scored, used."""

import json
from pathlib import Path

import pytest
import torch

from tadp_d2.cli import main
from tadp_d2.config.load import load_config
from tadp_d2.engine.trainer import Trainer
from tadp_d2.tasks.task import get_task

CONFIGS = Path(__file__).parents[2] / "configs" / "architectures"
SMALL = {
    "INPUT.FIXED_SIZE_TRAIN": (128, 128),
    "INPUT.FIXED_SIZE_TEST": (128, 128),
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 50,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 10,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    # The boxes of an untrained model have low scores.
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 20,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "SOLVER.MAX_ITER": 2,
    "DATALOADER.NUM_WORKERS": 0,
    "TEST.GALLERY_IMAGES": 1,
}
# What is cut into crops and windows, and what has heads of its own.
OWN = {
    "deeplab_v3plus": {
        "INPUT.MIN_SIZE_TRAIN": (64, 96),
        "INPUT.MIN_SIZE_TEST": 64,
        "INPUT.CROP.SIZE": [64, 64],
        "TEST.WINDOW_SIZE": 64,
        "TEST.WINDOW_STRIDE": 43,
    },
    "mask2former": {
        "MODEL.MASK_FORMER.WIDTH": 32,
        "MODEL.MASK_FORMER.POINTS": 64,
        "MODEL.MASK_FORMER.OBJECT_SCORE": 0.0,
    },
}
METRICS = {
    "retinanet": {"voc07", "voc_area"},
    "cascade_rcnn": {"voc07", "voc_area"},
    "mask_rcnn": {"coco", "coco_masks"},
    "deeplab_v3plus": {"sem_seg"},
    "panoptic_fpn": {"panoptic_seg", "coco", "coco_masks", "sem_seg"},
    "mask2former": {"panoptic_seg", "coco", "coco_masks", "sem_seg"},
}


# Those whose heads are like another's, or slow.
REST = ("cascade_rcnn", "deeplab_v3plus")
NAMES = [pytest.param(n, marks=[pytest.mark.exhaustive] if n in REST else []) for n in METRICS]


@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_trains_evaluates_and_predicts(name, world, model_folder, tmp_path):
    if name == "mask2former":
        pytest.importorskip("scipy")  # of transformers' matcher
    run = tmp_path / "run"
    settings = (
        SMALL
        | OWN.get(name, {})
        | {"MODEL.DIFFUSION.WEIGHTS": str(model_folder), "OUTPUT_DIR": str(run)}
    )
    pairs = [item for pair in settings.items() for item in pair]
    cfg = load_config(str(CONFIGS / f"{name}.yaml"), overrides=pairs)
    run.mkdir()
    (run / "config.yaml").write_text(cfg.dump())
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    trainer.resume_or_load(resume=False)
    trainer.train()
    after = trainer.model.state_dict()
    # The UNet and the heads are trained.
    for part in (".unet.", "head"):
        assert any(not torch.equal(before[key], after[key]) for key in before if part in key)

    (dataset,) = cfg.DATASETS.TEST
    metrics = json.loads((run / "results.json").read_text())["metrics"][dataset]
    assert set(metrics) == METRICS[name]
    assert (run / "gallery" / f"{dataset}.png").is_file()

    image = next((world / "VOC2007" / "JPEGImages").iterdir())
    out = tmp_path / "out"
    words = ["predict", image, "--weights", run / "model_final.pth", "--output", out]
    main([str(word) for word in (*words, "--caption", "a dog")])
    found = json.loads((out / image.with_suffix(".json").name).read_text())
    kinds = {"semantic": "class_map", "panoptic": "segments_info"}
    assert kinds.get(get_task(cfg).name, "detections") in found
