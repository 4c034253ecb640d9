"""Referring segmentation from the data set to training, evaluation, prediction and report."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

from tadp_d2.cli import main
from tadp_d2.config.load import load_config
from tadp_d2.data.catalog import read_known
from tadp_d2.data.datasets.refcoco import register_references
from tadp_d2.data.loader import build_test_loader, build_train_loader, load_dataset
from tadp_d2.data.mapper import ConditionedMapper
from tadp_d2.data.readers.refer import draw_mask
from tadp_d2.doctor.dataset_check import check_dataset
from tadp_d2.doctor.findings import Kind
from tadp_d2.engine.checks import check_inputs
from tadp_d2.engine.trainer import Trainer
from tadp_d2.errors import UserError
from tadp_d2.modeling.backbone import find_diffusion_backbone
from tadp_d2.tasks.task import get_task

CONFIGS = Path(__file__).parents[2] / "configs"


FILES = sorted((CONFIGS / "refcoco").glob("[!B]*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_config_trains_two_steps(file, world, model_folder, tmp_path):
    cfg = load_config(
        str(file),
        overrides=[
            *("MODEL.DIFFUSION.WEIGHTS", str(model_folder), "OUTPUT_DIR", str(tmp_path)),
            *("INPUT.FIXED_SIZE_TRAIN", (64, 64), "INPUT.FIXED_SIZE_TEST", (64, 64)),
            *("SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", 0),
            *("MODEL.SEM_SEG_HEAD.NORM", "BN", "TEST.GALLERY_IMAGES", 0),
            *("DATASETS.TRAIN", ("refcoco_unc_train",), "DATASETS.TEST", ("refcoco_unc_testA",)),
        ],
    )
    trainer = Trainer(cfg)
    before = {name: p.clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.resume_or_load(resume=False)
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert not [name for name, p in before.items() if torch.equal(p, after[name])]


def test_the_settings_are_those_of_the_paper():
    cfg = load_config(str(CONFIGS / "refcoco" / "refcoco.yaml"))
    # VPD, section 4 and table 3.
    assert cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH == pytest.approx(40 * 42404, rel=1e-4)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY) == (5e-5, 0.01)
    assert cfg.SOLVER.IMS_PER_BATCH == 32
    assert not cfg.MODEL.DIFFUSION.LATENT_SCALING
    assert cfg.MODEL.CONDITIONER.LENGTH == 40
    assert load_config(str(CONFIGS / "refcoco" / "refcocog.yaml")).MODEL.CONDITIONER.LENGTH == 77
    released = load_config(str(CONFIGS / "refcoco" / "refcoco.yaml"), "released_referring")
    assert released.TEST.AT_INPUT_SIZE and not released.INPUT.POLYGON_OVERLAPS
    assert released.MODEL.DIFFUSION.TIMESTEP == 1


@pytest.mark.parametrize(
    "overrides, message",
    [
        (("INPUT.RANDOM_FLIP", "horizontal"), "RANDOM_FLIP is 'horizontal': expected 'none'"),
        (("INPUT.CROP.ENABLED", "True"), "CROP.ENABLED is True"),
        (("TEST.WINDOW_SIZE", "64", "TEST.WINDOW_STRIDE", "32"), "WINDOW_SIZE is 64"),
        (("TEST.COCO_METRICS", "True"), "COCO_METRICS is True"),
        (("MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS", "(1.0,)"), "expected two numbers above 0"),
    ],
)
def test_what_would_make_an_expression_wrong_is_refused(make_referring_config, overrides, message):
    with pytest.raises(UserError, match=message):
        make_referring_config(*overrides)


def test_a_data_set_of_another_kind_is_refused(make_referring_config):
    task = get_task(make_referring_config())
    with pytest.raises(UserError, match="the task 'referring' needs referring"):
        task.check_dataset("voc_2007_test", training=False)


@pytest.fixture
def with_expression(world, tmp_path):
    """Registers refcoco_unc_val, its first expression another one, by the test's own name."""
    file = tmp_path / "own_val.json"
    name = tmp_path.name  # a data set is read once

    def register(expression):
        content = json.loads((world / "refcoco" / "unc_val.json").read_text())
        content["references"][0]["expressions"][0][1] = expression
        file.write_text(json.dumps(content))
        register_references(name, file, world / "coco" / "train2014")
        return name, file

    yield register
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


LONG = " ".join(["the dog"] * 60)


@pytest.mark.parametrize("key", ["TRAIN", "TEST"])
def test_an_expression_that_is_not_read_to_its_end_is_refused_before_the_run(
    make_referring_config, with_expression, key
):
    name, file = with_expression(LONG)
    cfg = make_referring_config(f"DATASETS.{key}", (name,))
    message = "^{}: the expression for image .*jpg is [0-9]+ tokens longer than the 77 .*'{}"
    message = message.format(re.escape(str(file)), LONG[:50])
    with pytest.raises(UserError, match=message):
        check_inputs(cfg, evaluation=key == "TEST", resume=False)
    errors = [f.text for f in check_dataset(cfg, name) if f.kind is Kind.PROBLEM]
    assert len(errors) == 1 and re.match(message, errors[0])


def test_the_modifier_takes_room_from_an_expression(make_referring_config, with_expression):
    # 70 tokens with begin and end.
    name, _ = with_expression(" ".join(["dog"] * 68))
    cfg = make_referring_config("DATASETS.TEST", (name,))
    check_inputs(cfg, evaluation=True, resume=False)
    words = "a watercolor style painting of the dog and {caption}"
    cfg = make_referring_config("DATASETS.TEST", (name,), "TEXT.MODIFIER", words)
    with pytest.raises(UserError, match="tokens longer than the 77"):
        check_inputs(cfg, evaluation=True, resume=False)


def test_expressions_that_are_cut_are_counted_once_before_the_run(
    make_referring_config, with_expression
):
    text = " and ".join(["the dog", "the car", "the cat", "the bird", "the dog", "the car"])
    name, file = with_expression(text)
    cfg = make_referring_config("DATASETS.TEST", (name,), "MODEL.CONDITIONER.LENGTH", 16)
    # The others of this data set have 9 tokens at most, with begin and end.
    count = len(read_known(name))
    (note,) = check_inputs(cfg, evaluation=True, resume=False)
    assert note.startswith(f"{file}: 1 of {count} expressions are longer than the 16 tokens of ")
    assert note.endswith(f"for image {read_known(name)[0]['file_name']}, {text!r}")
    assert note in [f.text for f in check_dataset(cfg, name) if f.kind is Kind.NOTE]
    cfg = make_referring_config("DATASETS.TEST", (name,), "MODEL.CONDITIONER.LENGTH", 24)
    assert check_inputs(cfg, evaluation=True, resume=False) == []


def test_an_epoch_has_each_object_once_with_one_of_its_expressions(make_referring_config):
    cfg = make_referring_config("SOLVER.IMS_PER_BATCH", 1)
    entries = read_known("refcoco_unc_train")
    references = load_dataset(cfg, "refcoco_unc_train", training=True)
    assert len(references) == len({entry["ref_id"] for entry in entries}) < len(entries)
    loader = iter(build_train_loader(cfg))
    epochs = [[next(loader)[0] for _ in references] for _ in range(8)]
    known = {entry["expression_id"]: entry for entry in entries}
    for epoch in epochs:
        assert sorted(i["ref_id"] for i in epoch) == sorted(r["ref_id"] for r in references)
    for inputs in (i for epoch in epochs for i in epoch):
        entry = known[inputs["expression_id"]]
        assert (entry["ref_id"], entry["expression"]) == (inputs["ref_id"], inputs["expression"])
        # Squashed, the nearest pixel, as the released code.
        image = Image.fromarray(draw_mask(entry).astype(np.uint8))
        squashed = np.asarray(image.resize((128, 128), Image.Resampling.NEAREST))
        assert np.array_equal(inputs["sem_seg"].numpy(), squashed)
    # All expressions have their turn.
    assert {i["expression_id"] for epoch in epochs for i in epoch} > set(list(known)[:3])


def test_expressions_of_an_image_share_its_latents(make_referring_config):
    cfg = make_referring_config()
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    backbone = find_diffusion_backbone(model)
    inputs = [batch[0] for batch in build_test_loader(cfg, "refcoco_unc_val")]
    calls = []
    hook = backbone.latent_encoder.module.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        shared = [model([own])[0]["sem_seg"] for own in inputs]
        assert len(calls) == len({own["image_id"] for own in inputs}) < len(inputs)
        hook.remove()
        for own, expected in zip(inputs, shared, strict=True):
            backbone._last = None
            assert torch.equal(model([own])[0]["sem_seg"], expected)


def test_logits_at_the_size_of_the_input_are_not_resized(make_referring_config):
    cfg = make_referring_config("TEST.AT_INPUT_SIZE", True)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    (inputs,) = next(iter(build_test_loader(cfg, "refcoco_unc_val")))
    with torch.no_grad():
        (own,) = model([inputs])
        (square,) = model([{**inputs, "height": 128, "width": 128}])
    assert own["sem_seg"].shape == (2, inputs["height"], inputs["width"])
    assert own["sem_seg_input"].shape == (2, 128, 128)
    torch.testing.assert_close(square["sem_seg"], own["sem_seg_input"])
    assert own["expression"] == inputs["expression"]


@pytest.fixture(scope="module")
def run(world, model_folder, tmp_path_factory):
    """The folder of a short training with its evaluation."""
    folder = tmp_path_factory.mktemp("runs") / "refcoco"
    folder.mkdir()
    cfg = load_config(
        str(CONFIGS / "quick_schedules" / "refcoco.yaml"),
        overrides=[
            *("MODEL.DIFFUSION.WEIGHTS", str(model_folder), "OUTPUT_DIR", str(folder)),
            *("INPUT.FIXED_SIZE_TRAIN", (64, 64), "INPUT.FIXED_SIZE_TEST", (64, 64)),
            *("SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "TEST.GALLERY_IMAGES", 3),
            *("DATASETS.TEST", ("refcoco_unc_val",)),
        ],
    )
    (folder / "config.yaml").write_text(cfg.dump())
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return folder


def test_results_gallery_and_report(run, tmp_path):
    results = json.loads((run / "results.json").read_text())
    entries = read_known("refcoco_unc_val")
    assert results["task"] == "referring"
    assert results["datasets"]["refcoco_unc_val"]["images"] == len(entries)
    found = results["metrics"]["refcoco_unc_val"]["referring"]
    assert set(found) == {
        *("oIoU", "mIoU", "oIoU_one_object", "oIoU_without_text"),
        *(f"P@0.{n}" for n in range(5, 10)),
    }
    assert 5 < found["oIoU_one_object"] <= found["oIoU_without_text"] < 70
    drawn = sorted(path.name for path in (run / "gallery" / "refcoco_unc_val").iterdir())
    first = entries[:3]
    assert drawn == sorted(f"{e['image_id']}-{e['expression_id']}" for e in first)
    folder = run / "gallery" / "refcoco_unc_val" / drawn[0]
    assert {path.name for path in folder.iterdir()} == {
        *("image.jpg", "truth.jpg", "prediction.jpg")
    }
    main(["report", str(run), "--output", str(tmp_path / "report")])
    page = (tmp_path / "report" / "report.html").read_text()
    assert "oIoU" in page and "P@0.5" in page and drawn[0] in page


def predict(run, output, *arguments):
    words = ["predict", *arguments, "--weights", str(run / "model_final.pth")]
    main([*map(str, words), "--output", str(output)])


def test_an_expression_is_predicted(run, world, tmp_path, capsys):
    picture = sorted((world / "coco" / "train2014").glob("*.jpg"))[0]
    predict(run, tmp_path / "out", picture, "--expression", "the left dog")
    assert "tokens" not in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / f"{picture.stem}.json").read_text())
    assert record["expression"] == record["prompt"] == "the left dog"
    mask = np.asarray(Image.open(tmp_path / "out" / record["mask"]))
    assert mask.shape == (record["height"], record["width"]) and set(np.unique(mask)) <= {0, 255}
    assert record["share"] == pytest.approx((mask == 255).mean())
    if record["box"]:
        x0, y0, x1, y1 = record["box"]
        assert (mask[y0:y1, x0:x1] == 255).sum() == (mask == 255).sum()
        assert (mask[y0] == 255).any() and (mask[:, x1 - 1] == 255).any()
    drawn = Image.open(tmp_path / "out" / f"{picture.stem}.jpg")
    assert drawn.width == record["width"] and drawn.height > record["height"]


def test_a_cut_expression_is_predicted_with_a_note(run, world, tmp_path, capsys):
    picture = sorted((world / "coco" / "train2014").glob("*.jpg"))[0]
    expression = "the left dog " * 6
    predict(run, tmp_path / "out", picture, "--expression", expression)
    assert "1 of 1 expressions are longer than the 16 tokens of MODEL" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / f"{picture.stem}.json").read_text())
    assert record["expression"] == expression
    # Begin and end are two of the 16 tokens, and each word is one.
    assert record["prompt"].split() == expression.split()[:14]


def test_several_expressions_of_several_images(run, world, tmp_path, capsys):
    first, second = sorted((world / "coco" / "train2014").glob("*.jpg"))[:2]
    file = tmp_path / "expressions.json"
    file.write_text(json.dumps({first.name: ["the dog", "the cat"], second.stem: ["a car"]}))
    predict(run, tmp_path / "out", first, second, "--expressions", file)
    written = sorted(
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.json")
    )
    assert written == [f"{first.stem}/1.json", f"{first.stem}/2.json", f"{second.stem}/1.json"]
    record = json.loads((tmp_path / "out" / first.stem / "2.json").read_text())
    assert (record["expression"], record["file"]) == ("the cat", str(first))
    capsys.readouterr()
    predict(run, tmp_path / "out", first, second, "--expressions", file)
    assert "3 of 3 images were predicted before" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "this model reads an expression: --expression or --expressions"),
        (("--caption", "a dog"), "--caption: this model reads no caption"),
        (("--expression", " "), "the expression for image .*jpg is empty"),
        (("--expression", LONG), "the expression for image .*jpg is [0-9]+ tokens longer than"),
        (("--expressions", "FILE"), r"no expression for .*jpg \(1 such of 1\)"),
    ],
)
def test_the_wrong_text_is_an_error(run, world, tmp_path, capsys, arguments, message):
    picture = sorted((world / "coco" / "train2014").glob("*.jpg"))[0]
    file = tmp_path / "expressions.json"
    file.write_text('{"other.jpg": ["a dog"]}')
    arguments = [str(file) if word == "FILE" else word for word in arguments]
    with pytest.raises(SystemExit) as stop:
        predict(run, tmp_path / "out", picture, *arguments)
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"a.jpg": "a dog"}', '{"a.jpg": []}', '{"a.jpg": [""]}', '{"a.jpg": [1]}']
)
def test_a_wrong_file_of_expressions_is_an_error(run, world, tmp_path, capsys, text):
    picture = sorted((world / "coco" / "train2014").glob("*.jpg"))[0]
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(SystemExit) as stop:
        predict(run, tmp_path / "out", picture, "--expressions", tmp_path / "e.json")
    assert stop.value.code == 2
    assert "e.json: " in capsys.readouterr().err


def test_a_model_learns_which_object_is_meant(make_referring_config):
    """Two expressions of one image: after some steps each gets its own object."""
    cfg = make_referring_config(
        *("INPUT.FIXED_SIZE_TRAIN", (64, 64), "INPUT.FIXED_SIZE_TEST", (64, 64)),
        *("SOLVER.BASE_LR", 0.002),
    )
    entries = read_known("refcoco_unc_train")
    first = entries[0]
    other = next(
        e for e in entries if e["image_id"] == first["image_id"] and e["ref_id"] != first["ref_id"]
    )
    torch.manual_seed(0)
    model = build_model(cfg)
    task, inputs = get_task(cfg), []
    mapper = ConditionedMapper(cfg, is_train=True)
    for entry in (first, other):
        single = task.select_for_training("refcoco_unc_train", [entry])[0]
        inputs.append(mapper(single))
    optimizer = Trainer.build_optimizer(cfg, model)
    for _ in range(60):
        loss = model.train()(inputs)["loss_sem_seg"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        outputs = model.eval()([{**i, "height": 64, "width": 64} for i in inputs])
    masks = [output["sem_seg"].argmax(dim=0).bool() for output in outputs]
    truths = [i["sem_seg"].bool() for i in inputs]

    def iou(a, b):
        return float((a & b).sum() / (a | b).sum().clamp(min=1))

    assert min(iou(masks[n], truths[n]) for n in (0, 1)) > 0.25
    assert max(iou(masks[n], truths[1 - n]) for n in (0, 1)) < 0.1
