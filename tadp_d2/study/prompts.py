"""What the prompt is worth: rows of TADP's tables 1, 2 and S2, its figure 3, table 5 of VPD and of
the tagging adapter.

Each row is a training of its own on the synthetic scenes, in Pascal's or in ADE20K's layout, that
is conditioned in testing as in training. What came of it is `verdicts`, as for the other questions.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from PIL import Image

from tadp_d2.config.load import load_config
from tadp_d2.config.shipped import config_folder
from tadp_d2.data.batches import BatchLoader
from tadp_d2.data.images import decode
from tadp_d2.data.loader import build_test_loader
from tadp_d2.engine.trainer import Trainer
from tadp_d2.errors import UserError
from tadp_d2.records.result_files import read_results
from tadp_d2.study.caption_kinds import OWN, write_texts
from tadp_d2.study.identity import identity
from tadp_d2.study.jobs import Job
from tadp_d2.study.questions import TINY_ADAPTER, Arm, Claim, Question, Reading, Target, Training
from tadp_d2.study.shared_latents import share_latents
from tadp_d2.synthetic.data_folder import CLIP_FOLDER, MODEL_FOLDER
from tadp_d2.tasks.metrics import SEM_SEG_STRETCHED
from tadp_d2.visualization.sheet import contact_sheet

_NAME = "MODEL.CONDITIONER.NAME"
_UNSCALED = ("MODEL.DIFFUSION.LATENT_SCALING", False)
_MAPS = "MODEL.DIFFUSION.ATTENTION_MAPS"
_NO_MAPS = (f"{_MAPS}.LEVELS", ())
_VPD = (_NAME, "TextAdapter")
SCHEDULE = config_folder() / "quick_schedules" / "pascal_prompts.yaml"
# 185 trainings have to end on one core within two hours: images are a quarter as large.
_SMALL: dict[str, Any] = {
    "INPUT.FIXED_SIZE_TRAIN": (64, 64),
    "INPUT.FIXED_SIZE_TEST": (64, 64),
    "SOLVER.MAX_ITER": 150,
    "TEST.AT_INPUT_SIZE": True,
}
# Task of a training -> what differs from the schedule.
OVERRIDES: dict[str, Mapping[str, Any]] = {
    "pascal": _SMALL,
    # Four trainings: they last long enough to have something to show.
    "pascal demo": {"TEST.AT_INPUT_SIZE": True},
    "ade20k": {
        **_SMALL,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 150,
        "MODEL.CONDITIONER.CLASS_NAMES": (),
        **TINY_ADAPTER,
        "DATASETS.TRAIN": ("ade20k_train",),
        "DATASETS.TEST": ("ade20k_val",),
    },
}
# Task -> arguments of `identity`, where data sets of other tasks need not be there.
_IMAGES = {"pascal demo": (("pascal_trainaug", "pascal_val"),)}


def _arm(
    target: Target, name: str, *claims: Claim, options: tuple = (), captions: str = OWN
) -> Arm:
    reading = Reading(captions)
    return Arm(name, Training(target.task, reading, options=options), reading, claims)


def _demo(target: Target) -> list[Arm]:
    return [
        _arm(target, "empty text", options=((_NAME, "EmptyText"),)),
        _arm(target, "class names", Claim("empty text"), options=((_NAME, "ClassNames"),)),
        _arm(target, "caption", Claim("empty text"), Claim("class names", 1, "TADP table 1: +3.0")),
        _arm(
            target,
            "oracle",
            Claim("caption", 1, "TADP table 1: +2.7"),
            options=((_NAME, "Oracle"),),
        ),
    ]


def _table_1(target: Target) -> list[Arm]:
    empty, names, caption, oracle = _demo(target)
    return [
        empty,
        _arm(target, "VPD (R)", Claim("empty text", 1, "VPD table 5"), options=(_VPD, _UNSCALED)),
        _arm(target, "VPD (LS)", Claim("VPD (R)", 1, "TADP table 1: +0.7"), options=(_VPD,)),
        _arm(
            target,
            "class embs",
            Claim("VPD (LS)", -1, "TADP table 1: -0.3"),
            options=((_NAME, "ClassWords"),),
        ),
        Arm(
            *(names.name, names.training, names.test),
            (*names.claims, Claim("class embs", 1, "TADP table 1: +1.4")),
        ),
        caption,
        _arm(
            target,
            "nouns",
            Claim("caption", 1, "TADP table 1: +0.2"),
            options=((_NAME, "CaptionNouns"),),
        ),
        oracle,
    ]


def _table_2(target: Target) -> list[Arm]:
    return [
        _arm(target, "VPD (R)", options=(_VPD, _UNSCALED)),
        _arm(target, "VPD (LS)", Claim("VPD (R)", 1, "TADP table 2: +0.6"), options=(_VPD,)),
        _arm(target, "caption", Claim("VPD (LS)", 1, "TADP table 2: +1.1")),
        _arm(
            target,
            "oracle",
            Claim("caption", 1, "TADP table 2: +17.2"),
            options=((_NAME, "Oracle"),),
        ),
    ]


# Precision -> recall .50, .75, 1.0 (TADP, table S2, mIoU after 4 000 iterations).
_TABLE_S2 = {0.5: (49.53, 52.00, 55.22), 0.75: (49.17, 51.46, 58.62), 1.0: (50.20, 54.82, 63.29)}


def _table_s2(target: Target) -> list[Arm]:
    best = _TABLE_S2[1.0][-1]
    arms = [_arm(target, "oracle", options=((_NAME, "Oracle"),))]
    for precision, values in reversed(_TABLE_S2.items()):
        for recall, value in reversed(list(zip((0.5, 0.75, 1.0), values, strict=True))):
            if value != best:
                errors = {"PRECISION": precision, "RECALL": recall}
                options = [(f"MODEL.CONDITIONER.ORACLE.{k}", v) for k, v in errors.items() if v < 1]
                claim = Claim("oracle", -1, f"TADP table S2: {value - best:+.1f}")
                name = f"precision {precision}, recall {recall}"
                arms.append(_arm(target, name, claim, options=((_NAME, "Oracle"), *options)))
    return arms


def _figure_3(target: Target) -> list[Arm]:
    shorter = "caption of half the things"
    return [
        _arm(target, "VPD (R)", options=(_VPD, _UNSCALED)),
        _arm(target, "VPD (LS)", Claim("VPD (R)", 1, "TADP figure 3, top"), options=(_VPD,)),
        _arm(target, shorter, captions="words dropped: 0.5"),
        _arm(target, "caption", Claim(shorter, 1, "TADP figure 3, bottom: longer is better")),
    ]


def _vpd_table_5(target: Target) -> list[Arm]:
    adapter, mid = "class embeddings, adapter", (f"{_MAPS}.LEVELS", ("s6",))
    arms = [
        _arm(target, "empty text", options=((_NAME, "EmptyText"), _UNSCALED, _NO_MAPS)),
        _arm(
            target,
            "class embeddings",
            Claim("empty text", 1, "VPD table 5: +0.5"),
            options=((_NAME, "ClassEmbeddings"), _UNSCALED, _NO_MAPS),
        ),
        _arm(
            target,
            adapter,
            Claim("class embeddings", 1, "VPD table 5: +0.9"),
            options=(_VPD, _UNSCALED, _NO_MAPS),
        ),
    ]
    for path, own, gain in (
        ("mid", (mid, (f"{_MAPS}.PATHS", ("mid",))), 0.1),
        ("down", ((f"{_MAPS}.PATHS", ("down",)),), 0.3),
        ("up", ((f"{_MAPS}.PATHS", ("up",)),), 0.3),
        ("down and up", (), 0.2),
    ):
        claim = Claim(adapter, 1, f"VPD table 5: {gain:+.1f}")
        arms.append(_arm(target, f"with maps, {path}", claim, options=(_VPD, _UNSCALED, *own)))
    return arms


def _tagging_table_5(target: Target) -> list[Arm]:
    """As its configs: no maps, minor noise, latents that are not scaled."""
    noise = (("MODEL.DIFFUSION.TIMESTEP", 10), ("MODEL.DIFFUSION.NOISE_TIMESTEP", 10))

    def row(name: str, gain: float | None, conditioner: str, *own: tuple[str, Any]) -> Arm:
        source = "" if gain is None else f"tagging adapter, table 5: {gain:+.1f}"
        claims = [Claim("unconditional", 1 if gain > 0 else -1, source)] if source else []
        options = ((_NAME, conditioner), *own, *noise, _UNSCALED, _NO_MAPS)
        return _arm(target, name, *claims, options=options)

    tagging = "MODEL.CONDITIONER.TAGGING"
    errors = [(f"MODEL.CONDITIONER.ORACLE.{key}", 0.75) for key in ("PRECISION", "RECALL")]
    oracle = (f"{tagging}.TAGS", "oracle")
    return [
        row("unconditional", None, "EmptyText"),
        row("caption", 0.3, "CaptionPrompt"),
        row("class names, text adapter", 0.3, "TextAdapter"),
        row("implicit captioner", 0.6, "ImplicitCaptioner"),
        row("tagging adapter", 0.9, "TaggingAdapter", (f"{tagging}.LOSS_WEIGHT", 0.0)),
        row("with its loss", 1.6, "TaggingAdapter"),
        # Tags that err as those of a tagger do: which, the paper does not measure.
        row("with tags", 1.9, "TaggingAdapter", oracle, *errors),
        row("with an oracle's tags", 20.0, "TaggingAdapter", oracle),
        row("with its own tags", None, "TaggingAdapter", (f"{tagging}.TAGS", "own")),
    ]


DEMO = "demo"
# Name -> question, in the order of the table.
PROMPT_QUESTIONS = {
    "table-1": Question("What is the prompt worth? (TADP, table 1)", ("pascal",), _table_1),
    "table-2": Question("The same with 150 classes (TADP, table 2)", ("ade20k",), _table_2),
    "table-S2": Question("How good must an oracle be? (TADP, table S2)", ("ade20k",), _table_s2),
    "figure-3": Question(
        "Are scaled latents and longer captions better? (TADP, figure 3)",
        ("pascal", "ade20k"),
        _figure_3,
    ),
    "VPD-table-5": Question("What helps VPD? (VPD, table 5)", ("ade20k",), _vpd_table_5),
    "tagging-table-5": Question(
        "What helps the tagging adapter? (its table 5)", ("ade20k",), _tagging_table_5
    ),
    DEMO: Question("What is the prompt worth?", ("pascal demo",), _demo),
}


def jobs(
    world: Path, folder: Path, questions: Iterable[Question], seeds: Sequence[int]
) -> list[Job]:
    """A job for each training and seed of the questions.

    Args:
        world: as `tadp-d2 synth` writes it, and as `DETECTRON2_DATASETS` names it.
        folder: of the results; `results/` holds all that `verdicts` reads.
    """
    arms = [arm for q in questions for own in q.arms().values() for arm in own]
    trainings = dict.fromkeys(arm.training for arm in arms)
    worlds = {task: identity(world, *_IMAGES.get(task, ())) for task in {t.task for t in trainings}}
    return [
        Job(
            folder / "results" / f"{training.name}_{seed}.json",
            train_and_test,
            {"world": world, "folder": folder, "training": training, "seed": seed},
            {
                **worlds[training.task],
                "schedule": SCHEDULE.read_text("utf-8"),
                "overrides": OVERRIDES[training.task],
                "training": training.name,
                "seed": seed,
            },
        )
        for training in trainings
        for seed in seeds
    ]


def train_and_test(world: Path, folder: Path, training: Training, seed: int) -> dict[str, Any]:
    """Trains a model and tests it; of the run, all stays but the weights.

    Returns:
        As `adaptation.train_and_test`, without a source.
    """
    reading = training.reading
    cfg = make_config(world, folder, training, seed)
    run = Path(cfg.OUTPUT_DIR)
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    if reading.captions != OWN:
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
            write_texts(run / "captions" / f"{name}.jsonl", name, reading.captions, seed)
    (run / "config.yaml").write_text(cfg.dump())
    seed_all_rng(seed)
    trainer = _InBatches(cfg)
    trainer.train()
    for left in (run / "model_final.pth", run / "last_checkpoint"):
        left.unlink()
    (dataset,) = cfg.DATASETS.TEST
    metrics = read_results(run / "results.json")["metrics"][dataset]
    tests = {dataset: {reading.name: {"mIoU": metrics[SEM_SEG_STRETCHED.name]["mIoU"]}}}
    return {"training": training.name, "seed": seed, "tests": tests}


def make_config(world: Path, folder: Path, training: Training, seed: int) -> CfgNode:
    """Of a training, whose run is below a folder."""
    run = run_folder(folder, training, seed)
    overrides = {
        **OVERRIDES[training.task],
        **dict(training.options),
        "MODEL.DIFFUSION.WEIGHTS": str(world / MODEL_FOLDER),
        "MODEL.CONDITIONER.IMAGE_ENCODER": str(world / CLIP_FOLDER),
        "OUTPUT_DIR": str(run),
        "SEED": seed,
    }
    if training.reading.captions != OWN:
        overrides["TEXT.CAPTION_DIR"] = str(run / "captions")
    cfg = load_config(str(SCHEDULE), overrides=[x for pair in overrides.items() for x in pair])
    share_latents(cfg, folder)
    return cfg


class _InBatches(Trainer):
    """Tests as many images together as it trains with: here all are of one size."""

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> BatchLoader:
        return build_test_loader(cfg, dataset_name, cfg.SOLVER.IMS_PER_BATCH)


def run_folder(folder: Path, training: Training, seed: int) -> Path:
    """Where a training leaves its results and the images of its test."""
    return folder / "runs" / f"{training.name}_{seed}"


def sheet(folder: Path, question: Question, seed: int = 0) -> Image.Image:
    """Image, truth, and the prediction of each arm: a row for each image of the gallery.

    Raises:
        UserError: a training's images are not there.
    """
    (arms,) = question.arms().values()
    galleries = [_gallery(run_folder(folder, arm.training, seed)) for arm in arms]
    drawn = []
    for shown in sorted(path.name for path in galleries[0].iterdir()):
        drawn += [galleries[0] / shown / f"{kind}.jpg" for kind in ("image", "truth")]
        drawn += [gallery / shown / "prediction.jpg" for gallery in galleries]
    titles = ("image", "truth", *(arm.name for arm in arms))
    return contact_sheet([decode(path) for path in drawn], len(titles), titles)


def _gallery(run: Path) -> Path:
    found = next((run / "gallery").glob("*/"), None)
    if found is None:
        raise UserError(
            f"{run}: has no gallery of predictions, though the training's result is there; remove "
            f"results/{run.name}.json beside runs/, and the same command trains it again"
        )
    return found
