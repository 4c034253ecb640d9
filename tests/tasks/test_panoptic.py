"""Panoptic segmentation from the data set to training, scores, drawings and files; wrong input."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import inference_context
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from PIL import Image

from tadp_d2.cli import main
from tadp_d2.config.load import load_config
from tadp_d2.data.augmentation import LargeScaleJitter
from tadp_d2.data.catalog import read_entries, read_known
from tadp_d2.data.loader import build_train_loader
from tadp_d2.data.mapper import ConditionedMapper
from tadp_d2.data.own_data_sets import _read
from tadp_d2.data.readers.coco_panoptic import Segment
from tadp_d2.data.readers.panoptic_sets import class_map, read_segments
from tadp_d2.engine.optimizer import build_optimizer
from tadp_d2.engine.trainer import Trainer
from tadp_d2.errors import UserError
from tadp_d2.evaluation.panoptic_parts import ClassMapEvaluator, ThingEvaluator
from tadp_d2.evaluation.panoptic_quality import count_image, mean_quality
from tadp_d2.tasks.task import get_task

CONFIGS = Path(__file__).parents[2] / "configs"
TRAIN, TEST = "voc_2007_trainval_panoptic", "voc_2007_test_panoptic"
ROWS = sorted(
    file
    for folder in ("coco_panoptic", "cityscapes_panoptic", "coco_detection")
    for file in (CONFIGS / folder).glob("[!B]*.yaml")
)
# Small, and on the synthetic data sets.
SMALL = (
    *("MODEL.FPN.OUT_CHANNELS", 32, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32),
    *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 13, "MODEL.ROI_HEADS.NUM_CLASSES", 20),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 32),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 50, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16),
    *("INPUT.FIXED_SIZE_TRAIN", (128, 128), "INPUT.MIN_SIZE_TRAIN", (96, 128)),
    *("INPUT.CROP.SIZE", [64, 128], "INPUT.JITTER", (0.5, 2.0)),
    *("MODEL.CONDITIONER.TAGGING.WIDTH", 16, "MODEL.CONDITIONER.TAGGING.HEADS", 2),
    *("SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", 0, "MODEL.DEVICE", "cpu"),
)
QUERIES = (
    *("MODEL.MASK_FORMER.WIDTH", 32, "MODEL.MASK_FORMER.QUERIES", 12),
    *("MODEL.MASK_FORMER.POINTS", 128, "MODEL.MASK_FORMER.NUM_CLASSES", 32),
    *("MODEL.MASK_FORMER.ENCODER_LAYERS", 1, "MODEL.MASK_FORMER.DECODER_LAYERS", 2),
)


def row_name(file):
    return f"{file.parent.name}/{file.stem}"


@pytest.fixture
def make_panoptic_config(make_config):
    """make_panoptic_config("KEY", value, ...) has Mask2Former on the synthetic VOC, 128 x 128.

    For Panoptic FPN without the keys of Mask2Former.
    """
    base = (
        *("MODEL.META_ARCHITECTURE", "ConditionedMask2Former", "DATASETS.TRAIN", (TRAIN,)),
        *("MODEL.BACKBONE.NAME", "build_diffusion_backbone", "DATASETS.TEST", (TEST,)),
    )
    return lambda *overrides: make_config(
        *SMALL, *base, *(() if "ConditionedPanopticFPN" in overrides else QUERIES), *overrides
    )


@pytest.mark.parametrize("file", ROWS, ids=row_name)
def test_every_config_trains_two_steps(file, model_folder, image_encoder_folder, world, tmp_path):
    pytest.importorskip("scipy")  # of Mask2Former's matcher
    original = load_config(str(file))
    train = {"PanopticFPN": f"{TRAIN}_separated", "Mask2Former": TRAIN}.get(
        original.MODEL.META_ARCHITECTURE.removeprefix("Conditioned"),
        "voc_2007_trainval_instances",
    )
    cfg = load_config(
        str(file),
        overrides=[
            *("MODEL.DIFFUSION.WEIGHTS", str(model_folder), "DATASETS.TRAIN", (train,)),
            *("MODEL.CONDITIONER.IMAGE_ENCODER", str(image_encoder_folder)),
            *("TEXT.CAPTION_DIR", str(world / "captions"), "OUTPUT_DIR", str(tmp_path)),
            *SMALL,
            *(QUERIES if train == TRAIN else ()),
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
            assert ("loss_tags" in losses) == ("tagging" in file.stem)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
    after = dict(model.named_parameters())
    # Each trained part has moved, and every parameter was reached, as distributed training needs.
    for part in {n.split(".")[0] for n in before}:
        own = [n for n in before if n.split(".")[0] == part]
        assert any(not torch.equal(before[n], after[n]) for n in own), part
    assert [n for n in before if after[n].grad is None] == []


@pytest.mark.parametrize("file", ROWS, ids=row_name)
def test_every_config_has_the_settings_of_its_source(file):
    cfg = load_config(str(file))
    assert cfg.OUTPUT_DIR.startswith("output/c")
    if file.parent.name == "cityscapes_panoptic":
        assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER) == (16, 90_000)
        return
    # ODISE: 50 epochs of COCO's 118 287 images, large-scale jittering.
    epochs = cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.MAX_ITER / 118_287
    assert epochs == pytest.approx(50, rel=0.005) and cfg.SOLVER.MAX_ITER == 92_188
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY) == (1e-4, 0.05)
    assert (cfg.INPUT.RESIZE, cfg.INPUT.FIXED_SIZE_TRAIN) == ("jitter", (1024, 1024))
    assert (cfg.INPUT.JITTER, cfg.INPUT.MIN_SIZE_TEST) == ((0.1, 2.0), 1024)
    if cfg.MODEL.META_ARCHITECTURE == "ConditionedMask2Former":
        # Mask2Former's, and the tagging adapter's 100 queries.
        head = cfg.MODEL.MASK_FORMER
        assert (head.QUERIES, head.NUM_CLASSES, head.POINTS) == (100, 133, 12_544)
        assert (head.ENCODER_LAYERS, head.DECODER_LAYERS, head.WIDTH) == (6, 9, 256)
        assert (head.OBJECT_SCORE, head.OVERLAP) == (0.8, 0.8)
        assert cfg.SOLVER.POLY_POWER == 0


def test_the_classes_of_coco_are_those_of_the_configs():
    things, both = (MetadataCatalog.get(f"coco_2017_train{end}") for end in ("", "_panoptic"))
    assert len(things.thing_classes) == 80 and len(both.thing_classes) == 133
    assert set(both.thing_dataset_id_to_contiguous_id.values()) == set(range(80))
    apart = MetadataCatalog.get("coco_2017_train_panoptic_separated")
    assert (len(apart.thing_classes), len(apart.stuff_classes)) == (80, 54)


# --- truth ---


def test_segments_of_a_training_image_are_those_of_its_files(make_panoptic_config):
    cfg = make_panoptic_config("INPUT.RANDOM_FLIP", "none")
    mapper = ConditionedMapper(cfg, is_train=True)
    mapper.augmentations.augs = []
    for entry in read_known(TRAIN):
        segments = mapper({**entry, "caption": ""})["segments"]
        rgb = np.asarray(Image.open(entry["pan_seg_file_name"])).astype(int)
        ids = rgb @ (1, 256, 65536)
        assert len(segments) == len(entry["segments_info"])
        for row, label, mask in zip(
            entry["segments_info"], segments.gt_classes, segments.gt_masks.tensor, strict=True
        ):
            assert label == row["category_id"]
            assert np.array_equal(mask.numpy(), ids == row["id"])


@pytest.mark.parametrize("scale", [0.3, 1.0, 1.7])
def test_image_masks_and_padding_move_together_under_jittering(make_panoptic_config, scale):
    """The image is drawn from its segments, so that each mask has one color."""
    jitter = ("INPUT.RESIZE", "jitter", "INPUT.JITTER", (scale, scale))
    cfg = make_panoptic_config(*jitter, "INPUT.RANDOM_FLIP", "none")
    mapper = ConditionedMapper(cfg, is_train=True)
    (step, *_) = mapper.augmentations.augs
    assert isinstance(step, LargeScaleJitter)
    entry = read_known(TRAIN)[0]
    np.random.seed(3)
    inputs = mapper({**entry, "caption": ""})
    masks = inputs["segments"].gt_masks.tensor
    assert inputs["image"].shape[1:] == masks.shape[1:] == (128, 128)
    whole = read_segments(entry).ids.shape
    factor = scale * 128 / max(whole)
    rows, columns = (min(round(factor * side), 128) for side in whole)
    # All segments together are the image without its padding.
    covered = torch.zeros(128, 128, dtype=torch.bool)
    covered[:rows, :columns] = True
    assert torch.equal(masks.any(dim=0), covered)
    assert (masks.sum(dim=0) <= 1).all()
    assert (inputs["image"][:, ~covered] == 128).all()
    # The same transforms on a map of segment numbers, as an image.
    numbers = np.zeros(whole, np.uint8)
    for number, row in enumerate(entry["segments_info"], start=1):
        numbers[read_segments(entry).ids == row["id"]] = number
    moved = mapper.augmentations.transforms.apply_segmentation(numbers)
    assert set(np.unique(moved)) - {0} == set(
        1 + np.flatnonzero([moved.size and (moved == n + 1).any() for n in range(numbers.max())])
    )
    for label, mask in zip(inputs["segments"].gt_classes, masks, strict=True):
        (number,) = np.unique(moved[mask.numpy()])
        assert entry["segments_info"][number - 1]["category_id"] == label


def test_jittering_pads_masks_with_nothing_and_label_maps_with_no_class(
    make_panoptic_config, world
):
    overrides = (
        *("MODEL.META_ARCHITECTURE", "ConditionedPanopticFPN", "MODEL.MASK_ON", True),
        *("MODEL.BACKBONE.NAME", "build_diffusion_fpn_backbone", "INPUT.MASK_FORMAT", "bitmask"),
        *("DATASETS.TRAIN", (f"{TRAIN}_separated",), "DATASETS.TEST", (f"{TEST}_separated",)),
        *("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p3", "p4", "p5", "p6"]),
        *("MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 8),
        *("INPUT.RESIZE", "jitter", "INPUT.JITTER", (0.5, 0.5), "INPUT.RANDOM_FLIP", "none"),
    )
    mapper = ConditionedMapper(make_panoptic_config(*overrides), is_train=True)
    entry = read_known(f"{TRAIN}_separated")[0]
    inputs = mapper({**entry, "caption": ""})
    padded = (inputs["image"] == 128).all(dim=0)
    padded[:20] = False
    assert padded.any() and (inputs["sem_seg"][padded] == 255).all()
    assert (inputs["sem_seg"][:20, :20] != 255).all()
    assert not inputs["instances"].gt_masks.tensor[:, padded].any()


def test_polygons_become_bitmasks_that_are_cut(make_config, tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    square = [[4.0, 4.0, 24.0, 4.0, 24.0, 24.0, 4.0, 24.0]]
    annotation = {"bbox": [4, 4, 20, 20], "bbox_mode": 1, "category_id": 3}
    entry = {
        **{"file_name": str(tmp_path / "a.png"), "image_id": 1, "height": 30, "width": 40},
        **{"annotations": [{**annotation, "segmentation": square}], "caption": ""},
    }
    cfg = make_config(
        *("MODEL.MASK_ON", True, "INPUT.MASK_FORMAT", "bitmask", "INPUT.RESIZE", "jitter"),
        *("INPUT.JITTER", (2.0, 2.0), "INPUT.RANDOM_FLIP", "none"),
    )
    instances = ConditionedMapper(cfg, is_train=True)(entry)["instances"]
    (mask,) = instances.gt_masks.tensor
    x0, y0, x1, y1 = instances.gt_boxes.tensor[0].tolist()
    inside = torch.zeros_like(mask)
    inside[round(y0) : round(y1), round(x0) : round(x1)] = True
    # Up to half a pixel of the original at the border.
    assert (mask != inside).float().mean() < 0.08 and mask.any()


# --- scores ---


def perfect(entry, number=32):
    """What a model would return that knows the truth."""
    segments = read_segments(entry)
    classes = class_map(segments, ignored=number)
    things = [row for row in segments.described if row["isthing"]]
    found = Instances(segments.ids.shape)
    masks = [segments.ids == row["id"] for row in things]
    found.pred_masks = torch.from_numpy(np.reshape(masks, (-1, *segments.ids.shape)).astype(bool))
    found.pred_classes = torch.tensor([row["category_id"] for row in things], dtype=torch.int64)
    found.pred_boxes = Boxes(BitMasks(found.pred_masks).get_bounding_boxes().tensor)
    found.scores = torch.ones(len(things))
    return {
        "panoptic_seg": (torch.from_numpy(segments.ids), segments.described),
        "instances": found,
        "sem_seg": torch.nn.functional.one_hot(
            torch.from_numpy(classes).clamp(max=number - 1), number
        ).permute(2, 0, 1),
    }


@pytest.mark.parametrize("has_instances", [True, False])
@pytest.mark.parametrize("dataset", [TEST, "watercolor_test_panoptic"])
def test_the_truth_scores_all_points(
    make_panoptic_config, dataset, has_instances, monkeypatch, tmp_path
):
    if not has_instances:
        monkeypatch.setitem(MetadataCatalog.get(dataset).__dict__, "json_file", None)
    cfg = make_panoptic_config("OUTPUT_DIR", str(tmp_path))
    results = {}
    for evaluator in get_task(cfg).evaluators(dataset):
        evaluator.reset()
        for entry in read_known(dataset):
            evaluator.process([entry], [perfect(entry)])
        results |= evaluator.evaluate()
    assert set(results) == {"panoptic_seg", "coco", "coco_masks", "sem_seg"}
    assert results["panoptic_seg"]["PQ"] == pytest.approx(100)
    assert results["coco"]["AP"] == pytest.approx(100) == results["coco_masks"]["AP"]
    assert results["sem_seg"]["mIoU"] == pytest.approx(100)
    assert (tmp_path / f"{dataset}_things.json").is_file() != has_instances


def test_stuff_among_instances_does_not_count(make_panoptic_config, tmp_path):
    evaluator = ThingEvaluator(TEST, str(tmp_path))
    evaluator.reset()
    for entry in read_known(TEST):
        output = perfect(entry)
        things = output["instances"]
        stuff = Instances(things.image_size, **things.get_fields())
        stuff.pred_classes = torch.full_like(things.pred_classes, 25)
        evaluator.process([entry], [{"instances": Instances.cat([stuff, things])}])
    assert evaluator.evaluate()["coco_masks"]["AP"] == pytest.approx(100)


def test_pixels_without_a_segment_are_in_no_class(world):
    """A prediction on the margin of a watercolor is neither right nor wrong."""
    dataset = "watercolor_test_panoptic"
    evaluator = ClassMapEvaluator(dataset, MetadataCatalog.get(dataset).stuff_classes)
    evaluator.reset()
    void = 0
    for entry in read_known(dataset):
        output = perfect(entry)
        bare = torch.from_numpy(read_segments(entry).ids == 0)
        output["sem_seg"][:, bare] = 0
        output["sem_seg"][7, bare] = 1
        void += int(bare.sum())
        evaluator.process([entry], [output])
    results = evaluator.evaluate()["sem_seg"]
    assert void > 0 and results["pACC"] == pytest.approx(100)


@pytest.mark.exhaustive
def test_queries_learn_the_segments_of_an_image(make_panoptic_config):
    pytest.importorskip("scipy")
    cfg = make_panoptic_config(
        *("INPUT.FIXED_SIZE_TRAIN", (96, 96), "INPUT.RANDOM_FLIP", "none"),
        *("MODEL.MASK_FORMER.POINTS", 512, "SOLVER.BASE_LR", 3e-3, "SOLVER.UNET_LR_FACTOR", 0.3),
    )
    mapper = ConditionedMapper(cfg, is_train=True)
    inputs = mapper({**read_known(TRAIN)[0], "caption": "a dog"})
    torch.manual_seed(0)
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    for _ in range(100):
        loss = sum(model.train()([inputs]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        (output,) = model.eval()([{**inputs, "height": 96, "width": 96}])
    found, described = output["panoptic_seg"]
    truth = inputs["segments"]
    wanted = np.zeros((96, 96), np.int64)
    for number, mask in enumerate(truth.gt_masks.tensor, start=1):
        wanted[mask] = number
    classes = dict(enumerate(truth.gt_classes.tolist(), start=1))
    segments = {n: Segment(c, int((wanted == n).sum()), False) for n, c in classes.items()}
    predicted = {row["id"]: row["category_id"] for row in described}
    counts = count_image(wanted, segments, found.numpy(), predicted)
    assert mean_quality(counts.values()).pq > 0.4


# --- drawings and files ---


@pytest.mark.parametrize("dataset", [TEST, f"{TEST}_separated"])
def test_the_truth_is_drawn_as_a_prediction_of_it(make_panoptic_config, dataset):
    cfg = make_panoptic_config()
    task = get_task(cfg)
    entry, other = read_known(dataset)[0], read_known(TEST)[0]
    pixels = np.asarray(Image.open(entry["file_name"]).convert("RGB"))
    drawn = task.draw_truth(dataset, pixels, entry)
    assert drawn.size == (2 * pixels.shape[1], 2 * pixels.shape[0])
    small = np.asarray(drawn.resize(pixels.shape[1::-1])).astype(int)
    # Every segment was painted.
    for row in other["segments_info"]:
        mask = read_segments(other).ids == row["id"]
        assert np.abs(small - pixels)[mask].mean() > 5, row


def test_a_prediction_is_written_in_cocos_encoding(make_panoptic_config, tmp_path):
    """300 segments: ids beyond 255 go on in the second channel."""
    task = get_task(make_panoptic_config())
    ids = torch.arange(300, dtype=torch.int32).reshape(15, 20) + 1
    ids[0, 0] = 0
    described = [
        {"id": id_, "isthing": id_ % 2 == 0, "category_id": 5 if id_ % 2 == 0 else 25, "score": 0.5}
        for id_ in range(2, 301)
    ]
    record = task.write({"panoptic_seg": (ids, described)}, tmp_path / "a.json")
    rgb = np.asarray(Image.open(tmp_path / record["segments"])).astype(int)
    assert np.array_equal(rgb @ (1, 256, 65536), ids.numpy())
    rows = record["segments_info"]
    assert [row["id"] for row in rows] == list(range(2, 301))
    assert all(row["area"] == 1 and row["score"] == 0.5 for row in rows)
    # The ids of the data set, as COCO's server wants them, and the names.
    assert (rows[0]["category_id"], rows[0]["class"], rows[0]["thing"]) == (6, "bus", True)
    assert (rows[1]["category_id"], rows[1]["class"], rows[1]["thing"]) == (26, "parasol", False)
    json.dumps(record)


def test_an_empty_image_is_trained_on_scored_drawn_and_written(make_panoptic_config, tmp_path):
    pytest.importorskip("scipy")
    cfg = make_panoptic_config()
    task = get_task(cfg)
    entry = {**read_known(TRAIN)[0], "caption": "", "segments_info": []}
    black = tmp_path / "empty.png"
    Image.new("RGB", Image.open(entry["file_name"]).size).save(black)
    inputs = ConditionedMapper(cfg, is_train=True)({**entry, "pan_seg_file_name": str(black)})
    assert len(inputs["segments"]) == 0
    torch.manual_seed(0)
    model = build_model(cfg)
    losses = model.train()([inputs])
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    # Nothing is sure enough.
    model.object_score = 1.0
    with torch.no_grad(), inference_context(model):
        (output,) = model([inputs])
    ids, described = output["panoptic_seg"]
    assert not ids.any() and described == []
    pixels = np.asarray(Image.open(entry["file_name"]).convert("RGB"))
    output["panoptic_seg"] = (torch.zeros(pixels.shape[:2], dtype=torch.int32), [])
    drawn = task.draw_prediction(TEST, pixels, output)
    assert drawn.size == (2 * pixels.shape[1], 2 * pixels.shape[0])
    assert task.write(output, tmp_path / "a.json")["segments_info"] == []


@pytest.fixture(scope="module")
def run(world, model_folder, tmp_path_factory):
    """The folder of a short training of `make demo-panoptic`, with its evaluation."""
    folder = tmp_path_factory.mktemp("runs") / "panoptic"
    folder.mkdir()
    cfg = load_config(
        str(CONFIGS / "quick_schedules" / "voc_panoptic.yaml"),
        overrides=[
            *("MODEL.DIFFUSION.WEIGHTS", str(model_folder), "OUTPUT_DIR", str(folder)),
            *("INPUT.FIXED_SIZE_TRAIN", (64, 64), "INPUT.FIXED_SIZE_TEST", (64, 64)),
            *("SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "TEST.GALLERY_IMAGES", 2),
        ],
    )
    (folder / "config.yaml").write_text(cfg.dump())
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return folder


def test_results_gallery_and_report_of_the_source_and_of_watercolors(run, tmp_path):
    results = json.loads((run / "results.json").read_text())
    assert results["task"] == "panoptic"
    for start in ("voc_2007", "watercolor"):
        dataset = f"{start}_test_panoptic_separated"
        metrics = results["metrics"][dataset]
        assert {"PQ", "SQ", "RQ", "PQ_th", "PQ_st", "PQ-dog", "PQ-sky"} <= set(
            metrics["panoptic_seg"]
        )
        assert {"AP"} <= set(metrics["coco_masks"]) and "mIoU" in metrics["sem_seg"]
        assert (run / "gallery" / f"{dataset}.png").is_file()
        drawn = [path for path in (run / "gallery" / dataset).iterdir()]
        assert len(drawn) == 2
        for folder in drawn:
            assert {p.stem for p in folder.iterdir()} == {"image", "truth", "prediction"}
    main(["report", str(run), "--output", str(tmp_path / "report")])
    page = (tmp_path / "report" / "report.html").read_text()
    assert all(name in page for name in ("PQ_th", "PQ_st", "SQ", "RQ", "sky", "pavement"))


def test_an_image_is_predicted_by_the_command(run, world, tmp_path):
    image = next((world / "watercolor" / "JPEGImages").iterdir())
    words = ["predict", image, "--weights", run / "model_final.pth", "--caption", "a dog"]
    main([*map(str, words), "--output", str(tmp_path)])
    record = json.loads((tmp_path / f"{image.stem}.json").read_text())
    rgb = np.asarray(Image.open(tmp_path / record["segments"])).astype(int)
    ids = rgb @ (1, 256, 65536)
    assert ids.shape == (record["height"], record["width"])
    assert set(np.unique(ids)) - {0} == {row["id"] for row in record["segments_info"]}
    for row in record["segments_info"]:
        assert row["area"] == (ids == row["id"]).sum()
    assert (tmp_path / f"{image.stem}.jpg").is_file()


# --- wrong input ---


def test_a_data_set_of_the_other_kind_is_refused(make_panoptic_config):
    task = get_task(make_panoptic_config())
    with pytest.raises(UserError, match="two ranges of classes.*does not end in _separated"):
        task.check_dataset(f"{TRAIN}_separated", training=True)
    with pytest.raises(UserError, match="the task 'panoptic' needs panoptic"):
        task.check_dataset("voc_2007_test", training=True)
    fpn = ("MODEL.META_ARCHITECTURE", "ConditionedPanopticFPN")
    fpn += ("MODEL.BACKBONE.NAME", "build_diffusion_fpn_backbone")
    with pytest.raises(UserError, match="one range of classes.*ends in _separated"):
        get_task(make_panoptic_config(*fpn)).check_dataset(TRAIN, training=True)
    wrong = make_panoptic_config("MODEL.MASK_FORMER.NUM_CLASSES", 31)
    with pytest.raises(UserError, match="NUM_CLASSES is 31, but .* has 32 such classes"):
        get_task(wrong).check_dataset(TRAIN, training=True)


def test_keys_that_do_nothing_are_refused(make_panoptic_config, make_config):
    fpn = ("MODEL.META_ARCHITECTURE", "ConditionedPanopticFPN")
    with pytest.raises(UserError, match="QUERIES is 50: it is for Mask2Former, not for Cond"):
        make_panoptic_config(*fpn, "MODEL.MASK_FORMER.QUERIES", 50)
    with pytest.raises(UserError, match="OVERLAP is 0.5: it is for panoptic, not for detection"):
        make_config("MODEL.MASK_FORMER.OVERLAP", 0.5)
    with pytest.raises(UserError, match="TEST.SUBMISSION is True: expected False"):
        make_panoptic_config("TEST.SUBMISSION", True)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda rows: rows.pop(), r"\.png: has the segment id \d+, which the JSON file does not"),
        (lambda rows: rows.append({**rows[0], "id": 77}), r"\.png: has no pixel of .* id 77"),
        (lambda rows: rows.append(rows[0]), r"\.png: two of its segments have the same id"),
    ],
)
def test_ids_that_are_in_one_of_two_files_are_errors_in_training(
    make_panoptic_config, change, message
):
    mapper = ConditionedMapper(make_panoptic_config(), is_train=True)
    entry = read_known(TRAIN)[0]
    rows = [dict(row) for row in entry["segments_info"]]
    change(rows)
    with pytest.raises(UserError, match=message):
        mapper({**entry, "caption": "", "segments_info": rows})


def test_segments_that_are_not_described_are_an_error(make_panoptic_config):
    mapper = ConditionedMapper(make_panoptic_config(), is_train=True)
    entry = {**read_known(TRAIN)[0], "caption": "", "segments_info": None}
    with pytest.raises(UserError, match="not described .segments_info is None"):
        mapper(entry)


def test_a_png_of_another_size_than_its_image_is_an_error(make_panoptic_config, tmp_path):
    mapper = ConditionedMapper(make_panoptic_config(), is_train=True)
    entry = read_known(TRAIN)[0]
    Image.new("RGB", (5, 4)).save(tmp_path / "small.png")
    own = {"pan_seg_file_name": str(tmp_path / "small.png"), "segments_info": [], "caption": ""}
    with pytest.raises(UserError, match=r"small\.png: 5 x 4 pixels, but .*\.jpg has"):
        mapper({**entry, **own})


def test_the_doctor_lists_all_segments_that_are_wrong(own_set, tmp_path, capsys):
    name, _, _ = own_set
    main(["doctor", name])
    assert "2 images: readable, with what belongs to them" in capsys.readouterr().out
    for number, color in ((1, 1), (2, 2)):
        Image.new("RGB", (30, 20), (color, 0, 0)).save(tmp_path / "segments" / f"{number}.png")
    with pytest.raises(SystemExit):
        main(["doctor", name])
    out = "".join(capsys.readouterr())
    assert "1.png: has no pixel of the segment id 70000" in out
    assert "2.png: has the segment id 2, which the JSON file does not describe" in out


# --- COCO ---


@pytest.fixture(scope="module")
def coco(world):
    """COCO 2017 val in its layout: two images, each a person (1) before a sky (187)."""
    root = world / "coco"
    folders = ("val2017", "annotations", "panoptic_val2017", "panoptic_stuff_val2017")
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
    meta = MetadataCatalog.get("coco_2017_val_panoptic")
    names = {
        category: (meta.thing_classes[index], is_thing)
        for is_thing, ids in (
            (1, meta.thing_dataset_id_to_contiguous_id),
            (0, meta.stuff_dataset_id_to_contiguous_id),
        )
        for category, index in ids.items()
    }
    images, things, segments = [], [], []
    for number in (900139, 900285):
        stem = f"{number:012d}"
        Image.new("RGB", (60, 40), "blue").save(root / "val2017" / f"{stem}.jpg")
        ids = np.full((40, 60), 66000)
        ids[10:40, 20:30] = 3
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1)
        Image.fromarray(rgb.astype(np.uint8)).save(root / "panoptic_val2017" / f"{stem}.png")
        stuff = np.where(ids == 3, 0, 53).astype(np.uint8)
        Image.fromarray(stuff).save(root / "panoptic_stuff_val2017" / f"{stem}.png")
        images.append({"id": number, "file_name": f"{stem}.jpg", "height": 40, "width": 60})
        box = {"bbox": [20, 10, 10, 30], "area": 300, "iscrowd": 0}
        outline = [[20, 10, 30, 10, 30, 40, 20, 40]]
        things.append({"id": number, "image_id": number, "category_id": 1, **box})
        things[-1]["segmentation"] = outline
        rows = [
            {"id": 3, "category_id": 1, **box},
            {"id": 66000, "category_id": 187, "bbox": [0, 0, 60, 40], "area": 2100, "iscrowd": 0},
        ]
        segments.append({"image_id": number, "file_name": f"{stem}.png", "segments_info": rows})
    for kind, annotations in (("instances", things), ("panoptic", segments)):
        categories = [
            {"id": category, "name": name, "isthing": is_thing}
            for category, (name, is_thing) in names.items()
            if is_thing or kind == "panoptic"
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"{kind}_val2017.json").write_text(json.dumps(content))
    yield "coco_2017_val"
    # Other data sets are in these folders, and the doctor looks at all that is here.
    for kind in ("instances", "panoptic"):
        (root / "annotations" / f"{kind}_val2017.json").unlink()
    for number in (900139, 900285):
        for file in root.rglob(f"{number:012d}.*"):
            file.unlink()


def test_coco_is_read_with_and_without_semantic_maps_and_scored(coco, make_panoptic_config):
    cfg = make_panoptic_config(
        *("MODEL.MASK_FORMER.NUM_CLASSES", 133, "DATASETS.TRAIN", (f"{coco}_panoptic",)),
        *("DATASETS.TEST", (f"{coco}_panoptic",)),
    )
    Path(cfg.OUTPUT_DIR).mkdir()
    task = get_task(cfg)
    task.check_dataset(f"{coco}_panoptic", training=True)
    entries = read_known(f"{coco}_panoptic")
    assert [[row["category_id"] for row in e["segments_info"]] for e in entries] == [[0, 119]] * 2
    results = {}
    for evaluator in task.evaluators(f"{coco}_panoptic"):
        evaluator.reset()
        for entry in entries:
            evaluator.process([entry], [perfect(entry, 133)])
        results |= evaluator.evaluate()
    assert results["panoptic_seg"]["PQ"] == pytest.approx(100)
    assert results["coco_masks"]["AP"] == pytest.approx(100) == results["coco"]["AP"]
    assert results["sem_seg"]["mIoU"] == pytest.approx(100)
    # Without semantic maps, with them, and boxes alone.
    assert not any("sem_seg_file_name" in entry for entry in entries)
    separated = read_known(f"{coco}_panoptic_separated")
    assert all("sem_seg_file_name" in e and len(e["annotations"]) == 1 for e in separated)
    assert [len(entry["annotations"]) for entry in read_known(coco)] == [1, 1]


# --- Cityscapes ---


@pytest.fixture(scope="module")
def cityscapes(world):
    """`createPanopticImgs` of the synthetic label maps: one segment of each class."""
    root = world / "cityscapes" / "gtFine"
    folder = root / "cityscapes_panoptic_val"
    folder.mkdir(exist_ok=True)
    meta = MetadataCatalog.get("cityscapes_fine_panoptic_val")
    things, stuff = meta.thing_dataset_id_to_contiguous_id, meta.stuff_dataset_id_to_contiguous_id
    ids = {index: category for category, index in {**things, **stuff}.items()}
    images, annotations = [], []
    for file in sorted((root / "val").glob("*/*_labelTrainIds.png")):
        stem = file.name.removesuffix("_gtFine_labelTrainIds.png")
        labels = np.asarray(Image.open(file)).astype(int)
        present = [label for label in np.unique(labels).tolist() if label != 255]
        numbers = np.zeros_like(labels)
        for label in present:
            # As Cityscapes numbers them: things by a thousand.
            numbers[labels == label] = ids[label] * (1000 if ids[label] in things else 1)
        rgb = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], axis=-1)
        Image.fromarray(rgb.astype(np.uint8)).save(folder / f"{stem}_gtFine_panoptic.png")
        images.append({"id": stem, "file_name": f"{stem}_gtFine_leftImg8bit.png"})
        rows = [
            {
                "id": ids[label] * (1000 if ids[label] in things else 1),
                "category_id": ids[label],
                "area": int((labels == label).sum()),
                "iscrowd": 0,
            }
            for label in present
        ]
        name = f"{stem}_gtFine_panoptic.png"
        annotations.append({"image_id": stem, "file_name": name, "segments_info": rows})
    categories = [
        {"id": category, "name": meta.thing_classes[index], "isthing": int(category in things)}
        for index, category in sorted(ids.items())
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    file = root / "cityscapes_panoptic_val.json"
    file.write_text(json.dumps(content))
    yield "cityscapes_fine_panoptic_val"
    file.unlink()
    shutil.rmtree(folder)


def test_cityscapes_is_read_and_scored(cityscapes, make_panoptic_config, tmp_path):
    cfg = make_panoptic_config(
        *("MODEL.MASK_FORMER.NUM_CLASSES", 19, "OUTPUT_DIR", str(tmp_path)),
        *("DATASETS.TRAIN", (cityscapes,), "DATASETS.TEST", (cityscapes,)),
    )
    task, entries = get_task(cfg), read_known(cityscapes)
    task.check_dataset(cityscapes, training=True)
    assert task.classes()[:2] == ["road", "sidewalk"] and len(entries) == 3
    inputs = ConditionedMapper(cfg, is_train=True)({**entries[0], "caption": ""})
    assert set(inputs["segments"].gt_classes.tolist()) <= set(range(19))
    results = {}
    for evaluator in task.evaluators(cityscapes):
        evaluator.reset()
        for entry in entries:
            evaluator.process([entry], [perfect(entry, 19)])
        results |= evaluator.evaluate()
    assert results["panoptic_seg"]["PQ"] == pytest.approx(100)
    assert results["panoptic_seg"]["PQ_th"] == pytest.approx(100)
    assert results["coco_masks"]["AP"] == pytest.approx(100)
    assert results["sem_seg"]["mIoU"] == pytest.approx(100)
    pixels = np.asarray(Image.open(entries[0]["file_name"]).convert("RGB"))
    assert task.draw_truth(cityscapes, pixels, entries[0]).width == 2 * pixels.shape[1]


# --- a data set of one's own ---


@pytest.fixture
def own_set(tmp_path, monkeypatch):
    """A folder with a panoptic data set of two images, and what its JSON holds."""
    for folder in ("images", "segments"):
        (tmp_path / folder).mkdir()
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": 20, "width": 30} for n in (1, 2)],
        "categories": [
            {"id": 9, "name": "soil", "isthing": 0},
            {"id": 4, "name": "crop", "isthing": 1},
        ],
        "annotations": [
            {
                "image_id": n,
                "file_name": f"{n}.png",
                "segments_info": [
                    {"id": 1, "category_id": 9, "area": 300, "iscrowd": 0},
                    {"id": 70000, "category_id": 4, "area": 300, "iscrowd": 0},
                ],
            }
            for n in (1, 2)
        ],
    }
    ids = np.full((20, 30), 1)
    ids[:, 15:] = 70000
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    for n in (1, 2):
        Image.new("RGB", (30, 20), "green").save(tmp_path / "images" / f"{n}.jpg")
        Image.fromarray(rgb).save(tmp_path / "segments" / f"{n}.png")
    name = f"fields_{tmp_path.name}"
    keys = ("images: images", "segments: segments", "annotations: truth.json", "captions: c.json")
    line = ", ".join(("layout: panoptic", *keys))
    (tmp_path / "datasets.yaml").write_text(f"{name}: {{{line}}}\n")
    captions = {str(n): {"captions": ["a field"]} for n in (1, 2)}
    (tmp_path / "c.json").write_text(json.dumps(captions))
    monkeypatch.setattr("tadp_d2.data.own_data_sets.datasets_root", lambda: tmp_path)
    _read.cache_clear()
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content))
    yield name, file, content
    _read.cache_clear()


def test_a_set_of_ones_own_has_the_classes_and_segments_of_its_file(own_set, tmp_path):
    name, _, _ = own_set
    entries = read_entries(name)
    meta = MetadataCatalog.get(name)
    assert meta.thing_classes == meta.stuff_classes == ["soil", "crop"]
    assert meta.thing_dataset_id_to_contiguous_id == {4: 1}
    assert [Path(entry["file_name"]).name for entry in entries] == ["1.jpg", "2.jpg"]
    for entry in entries:
        described = [(r["id"], r["category_id"], r["isthing"]) for r in entry["segments_info"]]
        assert described == [(1, 0, False), (70000, 1, True)]
        classes = class_map(read_segments(entry), ignored=255)
        assert (classes[:, :15] == 0).all() and (classes[:, 15:] == 1).all()


def _rows(content):
    return content["annotations"][0]["segments_info"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: _rows(c)[0].update(category_id=5), "segment 1 has the category 5, which is unk"),
        (lambda c: _rows(c).append(_rows(c)[0]), "two segments have the id 1; expected one"),
        (lambda c: c["annotations"][0].update(segments_info=None), "truth.json: .*segments_info"),
        (lambda c: c["images"].pop(), 'truth.json: .*"file_name", "height" and "width"'),
        (lambda c: c["categories"][0].update(name="crop"), "two categories have the same name"),
        (lambda c: c.pop("categories"), "truth.json: not an annotation file .*'categories'"),
        (lambda c: c["images"][1].update(file_name="9.jpg"), r"9\.jpg: named by data set"),
    ],
)
def test_a_file_that_is_wrong_is_named_when_it_is_read(own_set, change, message):
    name, file, content = own_set
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_entries(name)


def test_an_absent_file_is_named(own_set):
    name, file, _ = own_set
    file.unlink()
    with pytest.raises(UserError, match=re.escape(str(file))):
        read_entries(name)
