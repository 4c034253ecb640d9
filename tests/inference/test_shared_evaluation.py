import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tadp_d2.cli import main
from tadp_d2.data.catalog import read_known
from tadp_d2.data.loader import build_test_loader
from tadp_d2.diffusion.tokens import read_tokens
from tadp_d2.engine.checkpoint import RunCheckpointer
from tadp_d2.engine.trainer import Trainer
from tadp_d2.errors import UserError
from tadp_d2.frozen import fingerprint
from tadp_d2.inference import shared_evaluation
from tadp_d2.inference.predictor import load_model
from tadp_d2.inference.shared_evaluation import (
    _Contest,
    _Failures,
    evaluate_together,
    load_contestants,
)
from tadp_d2.modeling.backbone import find_diffusion_backbone
from tadp_d2.records.artifacts import token_metadata_path, write_metadata
from tadp_d2.records.provenance import Provenance

from ..tiny_model import TEXT_WIDTH

SMALL = (
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "DATASETS.TEST", ("watercolor_test",)),
    *("TEST.GALLERY_IMAGES", 0),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def weights(make_config, folder):
    """Two checkpoints with different random heads."""
    files = []
    for seed in range(2):
        file = folder / f"{seed}.pth"
        if not file.exists():
            cfg = make_config(*SMALL, "OUTPUT_DIR", str(folder))
            torch.manual_seed(seed)
            model = Trainer.build_model(cfg)
            RunCheckpointer(model, str(folder), Provenance(cfg, model)).save(str(seed))
        files.append(str(file))
    return files


@pytest.fixture
def cfgs(make_config, weights, tmp_path):
    """Three models: two of equal weights and different modifiers, and another one."""

    def make(name, file, modifier):
        own = ("MODEL.WEIGHTS", file, "TEXT.MODIFIER", modifier, "OUTPUT_DIR", str(tmp_path / name))
        return make_config(*SMALL, *own)

    return {
        "simple": make("simple", weights[0], "simple"),
        "null": make("null", weights[0], "null"),
        "other": make("other", weights[1], "simple"),
    }


def test_each_model_says_what_it_says_alone_and_pictures_are_encoded_once(cfgs, monkeypatch):
    contestants = load_contestants(cfgs)
    simple, null, other = (contestant.model for contestant in contestants)
    assert simple.roi_heads is null.roi_heads and simple.roi_heads is not other.roi_heads
    encoder = simple.backbone.bottom_up.latent_encoder
    assert encoder is null.backbone.bottom_up.latent_encoder
    assert encoder is other.backbone.bottom_up.latent_encoder
    calls = []
    encode = encoder.module.vae.encode
    monkeypatch.setattr(
        encoder.module.vae, "encode", lambda images: calls.append(1) or encode(images)
    )
    contest = _Contest(_Failures(contestants), "watercolor_test").eval()
    inputs = list(build_test_loader(cfgs["simple"], "watercolor_test"))[:2]
    with torch.no_grad():
        together = [contest(batch) for batch in inputs]
        assert len(calls) == len(inputs)
        for name, cfg in cfgs.items():
            alone = load_model(cfg)
            for batch, found in zip(inputs, together, strict=True):
                expected, output = alone(batch)[0]["instances"], found[name][1][0]["instances"]
                assert len(expected) > 0
                assert torch.equal(expected.pred_boxes.tensor, output.pred_boxes.tensor)
                assert torch.equal(expected.scores, output.scores)
    boxes = [together[0][name][1][0]["instances"].scores for name in cfgs]
    assert not torch.equal(boxes[0], boxes[1]) and not torch.equal(boxes[0], boxes[2])


def test_a_trained_conditioner_says_what_it_says_alone(make_config, image_encoder_folder, tmp_path):
    tagging = "MODEL.CONDITIONER.TAGGING."
    options = (
        *("MODEL.CONDITIONER.NAME", "TaggingAdapter", *SMALL),
        *("MODEL.CONDITIONER.IMAGE_ENCODER", str(image_encoder_folder)),
        *(f"{tagging}WIDTH", 16, f"{tagging}HEADS", 2, f"{tagging}QUERIES", 5),
    )
    cfg = make_config(*options, "OUTPUT_DIR", str(tmp_path))
    model = Trainer.build_model(cfg)
    RunCheckpointer(model, str(tmp_path), Provenance(cfg, model)).save("trained")
    weights = ("MODEL.WEIGHTS", str(tmp_path / "trained.pth"))
    cfgs = {
        modifier: make_config(*options, *weights, "TEXT.MODIFIER", modifier)
        for modifier in ("null", "a painting of {caption}")
    }
    contestants = load_contestants(cfgs)
    contest = _Contest(_Failures(contestants), "watercolor_test").eval()
    batch = next(iter(build_test_loader(cfgs["null"], "watercolor_test")))
    with torch.no_grad():
        together = {name: output[0] for name, (_, output) in contest(batch).items()}
        for name, own in cfgs.items():
            alone = load_model(own)(batch)[0]
            assert torch.equal(alone["tag_scores"], together[name]["tag_scores"])
            scores = alone["instances"].scores
            assert len(scores) and torch.equal(scores, together[name]["instances"].scores)
    plain, styled = together.values()
    assert not torch.equal(plain["tag_scores"], styled["tag_scores"])


def test_the_command_gives_the_metrics_of_single_evaluations(cfgs, tmp_path, weights):
    expected = {name: Trainer.test(cfg, load_model(cfg)) for name, cfg in cfgs.items()}
    models = []
    for name, cfg in cfgs.items():
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(_with_gallery(cfg))
        (run / "model_final.pth").symlink_to(cfg.MODEL.WEIGHTS)
        models.append(str(run))
    # Both ways to name a model.
    models[2] = f"{tmp_path / 'other.yaml'}={weights[1]}"
    (tmp_path / "other.yaml").write_text(_with_gallery(cfgs["other"]))
    main(["benchmark", *models, "--output", str(tmp_path / "out")])
    for name, result in expected.items():
        content = json.loads((tmp_path / "out" / name / "results.json").read_text())
        found = content["metrics"]["watercolor_test"]
        assert found["voc07"]["AP50"] == pytest.approx(
            result["watercolor_test"]["voc07"]["AP50"], abs=0, nan_ok=True
        )
        assert content["config"]["TEXT"]["MODIFIER"] == cfgs[name].TEXT.MODIFIER
        assert (tmp_path / "out" / name / "gallery" / "watercolor_test.png").exists()


def _with_gallery(cfg):
    own = cfg.clone()
    own.defrost()
    own.TEST.GALLERY_IMAGES = 1
    return own.dump()


def test_each_expression_of_an_image_is_read_and_the_image_encoded_once(
    referring_segmentor, trained_config, tmp_path
):
    cfgs = {
        name: trained_config(
            referring_segmentor,
            *("TEXT.DOMAIN", "watercolor", "TEXT.MODIFIER", name),
            *("OUTPUT_DIR", str(tmp_path / name), "TEST.GALLERY_IMAGES", 0),
        )
        for name in ("null", "simple")
    }
    (dataset,) = cfgs["null"].DATASETS.TEST
    expected = {name: Trainer.test(cfg, load_model(cfg)) for name, cfg in cfgs.items()}
    assert expected["null"] != expected["simple"]
    contestants = load_contestants(cfgs)
    encoder = find_diffusion_backbone(contestants[0].model).latent_encoder.module
    calls = []
    encoder.register_forward_hook(lambda *_: calls.append(1))
    assert evaluate_together(contestants) == expected
    entries = read_known(dataset)
    assert len(calls) == len({entry["image_id"] for entry in entries}) < len(entries)


def test_models_of_several_precisions_share_no_latents(make_config, weights):
    cfgs = {
        precision: make_config(*SMALL, "MODEL.WEIGHTS", weights[0], "TEST.PRECISION", precision)
        for precision in ("fp32", "bf16")
    }
    contestants = load_contestants(cfgs)
    inputs = next(iter(build_test_loader(cfgs["fp32"], "watercolor_test")))
    with torch.no_grad():
        together = _Contest(_Failures(contestants), "watercolor_test").eval()(inputs)
        for precision, cfg in cfgs.items():
            (expected,), (found,) = load_model(cfg)(inputs), together[precision][1]
            assert torch.equal(expected["instances"].scores, found["instances"].scores)
    scores = [outputs[0]["instances"].scores for _, outputs in together.values()]
    assert not torch.equal(*scores)


def test_models_of_several_normalisations_share_no_latent_cache(make_config, weights, tmp_path):
    def cfg(name, **options):
        own = {"MODEL.WEIGHTS": weights[0], "OUTPUT_DIR": str(tmp_path / name), **options}
        return make_config(*SMALL, *(item for pair in own.items() for item in pair))

    folder = tmp_path / "latents"
    cached = {"MODEL.DIFFUSION.LATENT_CACHE.FOLDER": str(folder)}
    mean = {"MODEL.PIXEL_MEAN": [103.5, 116.3, 123.7]}
    trained = cfg("trained", **mean)
    model = Trainer.build_model(trained)
    RunCheckpointer(model, str(tmp_path), Provenance(trained, model)).save("mean")
    other = {**mean, "MODEL.WEIGHTS": str(tmp_path / "mean.pth")}
    evaluate_together(load_contestants({"a": cfg("a", **cached), "b": cfg("b", **cached, **other)}))
    assert not folder.exists()
    evaluate_together(load_contestants({"a": cfg("a", **cached), "c": cfg("c", **cached)}))
    assert list(folder.rglob("*.fp16"))


def test_what_a_model_takes_from_the_config_of_testing_makes_it_another(make_config, weights):
    few = ("TEST.DETECTIONS_PER_IMAGE", 3)
    cfgs = {
        "many": make_config(*SMALL, "MODEL.WEIGHTS", weights[0]),
        "few": make_config(*SMALL, "MODEL.WEIGHTS", weights[0], *few),
    }
    many, few = load_contestants(cfgs)
    batch = next(iter(build_test_loader(cfgs["few"], "watercolor_test")))
    with torch.no_grad():
        found = [len(contestant.model(batch)[0]["instances"]) for contestant in (many, few)]
    assert found[0] > found[1] == 3


def test_the_seed_decides_on_the_noise_of_each_model(make_config, tmp_path):
    noise = ("MODEL.DIFFUSION.NOISE_TIMESTEP", 200, "MODEL.WEIGHTS", str(tmp_path / "a.pth"))
    cfgs = {seed: make_config(*SMALL, *noise, "SEED", int(seed)) for seed in ("1", "2")}
    model = Trainer.build_model(cfgs["1"])
    RunCheckpointer(model, str(tmp_path), Provenance(cfgs["1"], model)).save("a")
    seeds = [find_diffusion_backbone(c.model).noise.seed for c in load_contestants(cfgs)]
    assert seeds == [1, 2]


def test_a_model_of_other_prompts_is_checked_as_any_other(make_config, weights, tmp_path):
    """Its token was learned for another text encoder."""
    file = tmp_path / "learned_embeds.safetensors"
    save_file({"<a>": torch.ones(TEXT_WIDTH)}, file)
    token = ("TEXT.TOKENS", (str(file),), "TEXT.MODIFIER", "a <a> {caption}")
    cfgs = {
        "plain": make_config(*SMALL, "MODEL.WEIGHTS", weights[0]),
        "token": make_config(*SMALL, "MODEL.WEIGHTS", weights[0], *token),
    }
    load_contestants(cfgs)
    metadata = {
        "artifact": {name: fingerprint(vectors) for name, vectors in read_tokens(file).items()},
        "needs": {"text_encoder": "0" * 64},
        "model": {"weights": "elsewhere"},
    }
    write_metadata(token_metadata_path(file), metadata)
    with pytest.raises(UserError, match="learned_embeds.* was made for another text encoder"):
        load_contestants(cfgs)


def test_what_a_checkpoint_was_trained_with_is_said_for_each_prompt(
    make_config, weights, world, tmp_path, caplog
):
    captions = tmp_path / "captions"
    shutil.copytree(world / "captions", captions)
    with open(captions / "watercolor_test.jsonl", "a") as file:
        file.write('{"image_id": "more", "raw": "a dog"}\n')
    own = {"same": (), "other": ("TEXT.CAPTION_DIR", str(captions))}
    load_contestants(
        {k: make_config(*SMALL, "MODEL.WEIGHTS", weights[0], *v) for k, v in own.items()}
    )
    assert "trained with other captions for 'watercolor_test'" in caplog.text


MOMENTS = (
    "forward",
    *(pytest.param(m, marks=pytest.mark.exhaustive) for m in ("process", "evaluate", "write")),
)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_model_that_fails_leaves_the_others_their_results(cfgs, monkeypatch, moment):
    def fail(*_, **__):
        raise UserError("out of luck")

    contestants = load_contestants(cfgs)
    expected = Trainer.test(cfgs["simple"], contestants[0].model)
    results = {name: Path(cfg.OUTPUT_DIR, "results.json") for name, cfg in cfgs.items()}
    results["simple"].unlink()
    failing = contestants[1]
    if moment == "forward":
        failing.model.forward = fail
    elif moment == "write":
        write = shared_evaluation.write_results
        monkeypatch.setattr(
            shared_evaluation,
            "write_results",
            lambda cfg, *rest: fail() if cfg is failing.cfg else write(cfg, *rest),
        )
    else:
        build = Trainer.build_evaluator

        def build_evaluator(cfg, dataset):
            evaluator = build(cfg, dataset)
            if cfg is failing.cfg:
                setattr(evaluator, moment, fail)
            return evaluator

        monkeypatch.setattr(Trainer, "build_evaluator", build_evaluator)
    message = "^null: out of luck. The results of simple, other are written$"
    with pytest.raises(UserError, match=message):
        evaluate_together(contestants)
    assert {name for name, file in results.items() if file.exists()} == {"simple", "other"}
    content = json.loads(results["simple"].read_text())
    # The classes that do not occur are null there.
    found = content["metrics"]["watercolor_test"]["voc07"]
    assert found == pytest.approx(
        {k: None if math.isnan(v) else v for k, v in expected["watercolor_test"]["voc07"].items()}
    )


def test_where_all_fail_the_last_says_why(cfgs, monkeypatch):
    contestants = load_contestants({"simple": cfgs["simple"]})
    monkeypatch.setattr(contestants[0].model, "forward", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate_together(contestants)


def test_results_of_a_data_set_outlive_a_failure_on_the_next(make_config, weights, monkeypatch):
    sets = ("watercolor_test", "comic_test")
    cfg = make_config(*SMALL, "MODEL.WEIGHTS", weights[0], "DATASETS.TEST", sets)
    build = shared_evaluation.build_test_loader

    def build_test_loader(cfg, dataset, batch):
        if dataset == "comic_test":
            raise UserError("damaged.jpg: cannot be read")
        return build(cfg, dataset, batch)

    monkeypatch.setattr(shared_evaluation, "build_test_loader", build_test_loader)
    with pytest.raises(UserError, match="damaged.jpg"):
        evaluate_together(load_contestants({"one": cfg}))
    content = json.loads(Path(cfg.OUTPUT_DIR, "results.json").read_text())
    assert list(content["metrics"]) == ["watercolor_test"]


@pytest.mark.parametrize(
    "change, message",
    [
        (("INPUT.FIXED_SIZE_TEST", (64, 64)), "INPUT.FIXED_SIZE_TEST"),
        (("DATASETS.TEST", ("comic_test",)), "DATASETS.TEST"),
    ],
)
def test_models_that_look_at_other_inputs_are_refused(
    make_config, cfgs, weights, change, message, tmp_path, capsys
):
    files = []
    odd = make_config(*SMALL, "MODEL.WEIGHTS", weights[1], *change)
    for name, cfg in {"simple": cfgs["simple"], "odd": odd}.items():
        file = tmp_path / f"{name}.yaml"
        file.write_text(cfg.dump())
        files.append(f"{file}={weights[0]}")
    with pytest.raises(SystemExit) as exit_:
        main(["benchmark", *files, "--output", str(tmp_path / "out")])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "simple" / "results.json").exists()


def test_models_are_not_compared_under_augmentation(make_config, weights):
    cfg = make_config(*SMALL, "MODEL.WEIGHTS", weights[0], "TEST.AUG.ENABLED", True)
    with pytest.raises(UserError, match="TEST.AUG.ENABLED is True in one: .*--opts TEST.AUG"):
        load_contestants({"one": cfg})


def test_what_is_no_run_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", str(tmp_path)])
    assert f"{tmp_path}: expected a run's output folder" in capsys.readouterr().err


def test_the_name_of_a_runs_folder_may_hold_an_equals_sign(tmp_path, capsys):
    run = tmp_path / "lr=1e-4"
    run.mkdir()
    (run / "config.yaml").write_text("NO_SUCH_KEY: 1")
    with pytest.raises(SystemExit):
        main(["benchmark", str(run), "--output", str(tmp_path / "out")])
    message = capsys.readouterr().err
    assert f"{run}/config.yaml" in message and "NO_SUCH_KEY" in message
