"""Other backbones than Stable Diffusion 1.5 by YAML alone: two training steps under their heads."""

import shutil
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from diffusers import UNet2DConditionModel

from tadp_d2.config.load import load_config
from tadp_d2.data.loader import build_test_loader, build_train_loader
from tadp_d2.engine.checks import check_inputs
from tadp_d2.engine.optimizer import build_optimizer
from tadp_d2.errors import UserError
from tadp_d2.inference.word_maps import compare
from tadp_d2.records.provenance import Provenance

from ..tiny_model import TEXT_WIDTH

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = {
    "INPUT.FIXED_SIZE_TRAIN": (128, 64),
    "INPUT.FIXED_SIZE_TEST": (128, 64),
    "INPUT.CROP.SIZE": [64, 64],
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 10,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 8,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "SOLVER.BASE_LR": 0.001,
    "DATALOADER.NUM_WORKERS": 0,
}
FAMILIES = ("dinov2", "dinov3", "swin", "convnext", "vit", "sam", "blip")
OUTPUT = {"detection": "instances", "segmentation": "sem_seg"}


@pytest.fixture
def configure(world, tmp_path):
    """configure("backbones/sdxl_detection", KEY=value, ...) is the config, small."""

    def make(name, **settings):
        windows = {"TEST.WINDOW_SIZE": 64, "TEST.WINDOW_STRIDE": 43}
        own = SMALL | (windows if "segmentation" in name else {})
        own |= {"OUTPUT_DIR": str(tmp_path / "run"), **settings}
        pairs = [item for pair in own.items() for item in pair]
        return load_config(str(CONFIGS / f"{name}.yaml"), overrides=pairs)

    return make


def train(cfg):
    """Checks, two steps and a prediction, as a run does them."""
    check_inputs(cfg, evaluation=False, resume=False)
    torch.manual_seed(0)
    model = build_model(cfg)
    assert Provenance(cfg, model).record
    optimizer = build_optimizer(cfg, model)
    before = {key: value.clone() for key, value in model.named_parameters()}
    loader = iter(build_train_loader(cfg))
    with EventStorage():
        for _ in range(2):
            losses = model(next(loader))
            optimizer.zero_grad()
            sum(losses.values()).backward()
            absent = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
            assert absent == []  # one without a gradient stops distributed training
            optimizer.step()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert any(".network." in name or ".unet." in name for name in changed), "backbone"
    assert any("head" in name for name in changed), "heads"
    with torch.no_grad():
        (output,) = model.eval()(next(iter(build_test_loader(cfg, cfg.DATASETS.TEST[0]))))
    return output


@pytest.mark.parametrize(
    "family, task",
    [
        ("sdxl", "detection"),
        ("sd3", "segmentation"),
        pytest.param("sdxl", "segmentation", marks=pytest.mark.exhaustive),
        pytest.param("sd3", "detection", marks=pytest.mark.exhaustive),
    ],
)
def test_another_diffusion_model_trains(family, task, configure, request, tmp_path):
    own = {"MODEL.DIFFUSION.WEIGHTS": str(request.getfixturevalue(f"{family}_folder"))}
    if family == "sd3":
        own["MODEL.DIFFUSION.TAPS"] = [3, 2, 1, 0]
    else:
        token = tmp_path / "<new>.pt"
        torch.save({"clip_l": torch.ones(2, 16), "clip_g": torch.ones(2, 24)}, token)
        own |= {"TEXT.TOKENS": [str(token)], "TEXT.MODIFIER": "a <new> photo of {caption}"}
    assert OUTPUT[task] in train(configure(f"backbones/{family}_{task}", **own))


@pytest.fixture(scope="module")
def pruned_folder(model_folder, tmp_path_factory):
    """As BK-SDM-Tiny: a level and a layer of each block less, and no middle block."""
    folder = tmp_path_factory.mktemp("pruned") / "model"
    shutil.copytree(model_folder, folder)
    shutil.rmtree(folder / "unet")
    torch.manual_seed(0)
    UNet2DConditionModel(
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
    ).save_pretrained(folder / "unet", variant="fp16")
    return folder


@pytest.mark.parametrize("task", OUTPUT)
def test_a_pruned_unet_trains(task, configure, pruned_folder):
    """Under the heads for three levels, which the configs of Stable Diffusion XL have."""
    cfg = configure(f"backbones/sdxl_{task}", **{"MODEL.DIFFUSION.WEIGHTS": str(pruned_folder)})
    assert OUTPUT[task] in train(cfg)
    cfg = configure("voc2watercolor_simple", **{"MODEL.DIFFUSION.WEIGHTS": str(pruned_folder)})
    with pytest.raises(UserError, match="RPN.IN_FEATURES is p3, p4, p5, p6, .* no p6: .* p3, p4"):
        build_model(cfg)


QUICK = [("dinov2", "detection"), ("swin", "segmentation")]
REST = [(kind, task) for task in OUTPUT for kind in FAMILIES if (kind, task) not in QUICK]


@pytest.mark.parametrize(
    "kind, task",
    [*QUICK, *(pytest.param(*pair, marks=pytest.mark.exhaustive) for pair in REST)],
)
def test_a_baseline_trains(kind, task, configure, network_folder):
    weights = str(network_folder(kind))
    cfg = configure(f"baselines/{kind}_{task}", **{"MODEL.PRETRAINED.WEIGHTS": weights})
    assert OUTPUT[task] in train(cfg)


def test_the_encoder_has_the_learning_rate_of_a_unet(configure, network_folder):
    weights = str(network_folder("vit"))
    cfg = configure("baselines/vit_detection", **{"MODEL.PRETRAINED.WEIGHTS": weights})
    model = build_model(cfg)
    rates = {
        id(p): (group["part"], group["lr"])
        for group in build_optimizer(cfg, model).param_groups
        for p in group["params"]
    }
    backbone = model.backbone.bottom_up
    assert {rates[id(p)] for p in backbone.network.parameters()} == {("unet", 0.001 * 0.1)}
    assert {rates[id(p)] for p in backbone.pyramid.parameters()} == {("head", 0.001)}


def test_a_checkpoint_goes_with_its_backbone(configure, network_folder, sdxl_folder):
    weights = "MODEL.PRETRAINED.WEIGHTS"
    records = [
        Provenance(cfg, build_model(cfg))
        for cfg in (
            configure("baselines/vit_detection", **{weights: str(network_folder("vit"))}),
            configure("baselines/blip_detection", **{weights: str(network_folder("blip"))}),
            configure("backbones/sdxl_detection", **{"MODEL.DIFFUSION.WEIGHTS": str(sdxl_folder)}),
        )
    ]
    for own in records:
        own.check(own.record, "x.pth")
    with pytest.raises(UserError, match=r"x.pth was trained with another kind of backbone"):
        records[0].check(records[1].record, "x.pth")
    with pytest.raises(UserError, match=r"x.pth was trained with another VAE"):
        records[0].check(records[2].record, "x.pth")


def test_text_and_backbone_must_go_together(configure):
    with pytest.raises(UserError, match="NoText: this model reads no text"):
        compare(configure("baselines/vit_detection"), None, dict)
    for name, key, value, message in (
        ("baselines/vit_detection", "MODEL.CONDITIONER.NAME", "CaptionPrompt", "reads no text"),
        ("baselines/vit_detection", "MODEL.DIFFUSION.LORA_RANK", 4, "is for diffusion models"),
        (
            "baselines/vit_detection",
            "MODEL.DIFFUSION.GRADIENT_CHECKPOINTING",
            True,
            "is for diffusion models",
        ),
        ("backbones/sdxl_detection", "MODEL.CONDITIONER.NAME", "NoText", "EmptyText"),
        ("baselines/vit_detection", "MODEL.PRETRAINED.LEVELS", ["s3", "s5"], "consecutive"),
        ("baselines/vit_detection", "MODEL.META_ARCHITECTURE", "RetinaNet", "ConditionedRetina"),
    ):
        with pytest.raises(UserError, match=message):
            configure(name, **{key: value})


def test_what_a_backbone_does_not_have_is_refused(configure, sdxl_folder):
    own = {"MODEL.DIFFUSION.WEIGHTS": str(sdxl_folder)}
    levels = {"MODEL.RPN.IN_FEATURES": ["p3", "p4", "p5", "p6"]}
    cfg = configure("backbones/sdxl_detection", **own, **levels)
    with pytest.raises(UserError, match="RPN.IN_FEATURES is p3, p4, p5, p6, .* no p6: .* p3, p4"):
        build_model(cfg)
    cfg = configure(
        "backbones/sdxl_detection", **own, **{"MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64]]}
    )
    with pytest.raises(UserError, match="SIZES has 2 lists: expected one for each of the 3 lev"):
        build_model(cfg)
    levels = {"MODEL.SEM_SEG_HEAD.IN_FEATURES": ["p3", "p6"]}
    cfg = configure("backbones/sdxl_segmentation", **own, **levels)
    with pytest.raises(UserError, match="SEM_SEG_HEAD.IN_FEATURES is p3, p6, .* no p6"):
        build_model(cfg)
    cfg = configure("backbones/sdxl_detection", **own, **{"MODEL.DIFFUSION.TAPS": [1]})
    with pytest.raises(
        UserError, match="TAPS is .*1.*: expected a layer for each level of this UNet"
    ):
        build_model(cfg)
    other = {"MODEL.CONDITIONER.NAME": "ClassEmbeddings", "MODEL.CONDITIONER.TEMPLATES": "own"}
    cfg = configure("backbones/sdxl_detection", **own, **other)
    with pytest.raises(UserError, match="NAME is ClassEmbeddings, .* one of .*EmptyText"):
        check_inputs(cfg, evaluation=False, resume=False)
