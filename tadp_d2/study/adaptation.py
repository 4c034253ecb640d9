"""Trains a model of a study's question and tests it under everything that it reads.

`questions` has what is compared, `caption_kinds` what it reads.
"""

import functools
import hashlib
import json
import shutil
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from diffusers import UNet2DConditionModel

from tadp_d2.conditioning.domains import SLOT
from tadp_d2.config.load import load_config
from tadp_d2.config.shipped import config_folder
from tadp_d2.data.datasets.art import SHARED_CLASSES
from tadp_d2.engine.trainer import Trainer
from tadp_d2.files import sha256
from tadp_d2.inference.shared_evaluation import evaluate_together, load_contestants
from tadp_d2.randomness import seeded
from tadp_d2.study import caption_kinds
from tadp_d2.study.identity import identity
from tadp_d2.study.jobs import Job
from tadp_d2.study.personalized import SETTINGS, learn
from tadp_d2.study.questions import (
    PRETRAINED,
    RANDOM,
    TINY_ADAPTER,
    Question,
    Reading,
    Training,
    plan,
)
from tadp_d2.study.shared_latents import share_latents
from tadp_d2.synthetic.data_folder import CLIP_FOLDER, MODEL_FOLDER
from tadp_d2.tasks.metrics import SEM_SEG_STRETCHED, TAGS

_METRICS = {
    "voc07": ("AP", "AP50"),
    SEM_SEG_STRETCHED.name: ("mIoU",),
    "referring": ("oIoU_one_object", "oIoU_without_text", "mIoU", "oIoU"),
}


@dataclass(frozen=True)
class Schedule:
    """How a task is trained.

    Attributes:
        config: a quick schedule.
        overrides: what differs from it.
        told_by: files of a synthetic data folder, besides its captions, that tell of its images.
    """

    config: Path
    overrides: Mapping[str, Any]
    told_by: tuple[str, ...] = ()


# Images that are tested together: all of a test set are of one size.
_TEST_BATCH = 25
# How tokens and UNets are learned: smaller and shorter than where they are measured.
_SHORT = {"steps": 30, "batch": 2, "size": 128}
LEARNING = {method: {**settings, **_SHORT} for method, settings in SETTINGS.items()}
_QUICK = config_folder() / "quick_schedules"
_SHARED = {
    "SOLVER.CHECKPOINT_PERIOD": 10_000,  # one, at the end
    "TEST.GALLERY_IMAGES": 0,
}
# 250 trainings with their tests have to end on one core within four hours.
SCHEDULES = {
    "detection": Schedule(
        _QUICK / "voc2watercolor_simple.yaml",
        {
            **_SHARED,
            **TINY_ADAPTER,
            "MODEL.CONDITIONER.CLASS_NAMES": SHARED_CLASSES,
            "DATASETS.TRAIN": ("voc_2007_trainval", "voc_2012_train"),
            "SOLVER.IMS_PER_BATCH": 4,
            "SOLVER.BASE_LR": 0.001,
            "SOLVER.MAX_ITER": 90,  # 0.6 ep = 90 iters * 4 images/iter / 600 images/ep
            "SOLVER.WARMUP_ITERS": 10,
            "INPUT.FIXED_SIZE_TRAIN": (128, 128),
            "INPUT.FIXED_SIZE_TEST": (128, 128),
            # Two thirds of the quick schedule's, as the images.
            "MODEL.ANCHOR_GENERATOR.SIZES": [[16], [32], [53], [85]],
            "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 150,
            "MODEL.RPN.POST_NMS_TOPK_TRAIN": 60,
            "MODEL.RPN.PRE_NMS_TOPK_TEST": 150,
            "MODEL.RPN.POST_NMS_TOPK_TEST": 60,
            "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 64,
            "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
            "MODEL.ROI_BOX_HEAD.FC_DIM": 128,
            "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 1,
        },
    ),
    "segmentation": Schedule(
        _QUICK / "cityscapes2darkzurich_simple.yaml",
        {
            **_SHARED,
            **TINY_ADAPTER,
            "SOLVER.IMS_PER_BATCH": 4,
            "SOLVER.MAX_ITER": 200,  # 2 ep = 200 iters * 4 images/iter / 400 images/ep
            "SOLVER.WARMUP_ITERS": 10,
            "INPUT.FIXED_SIZE_TRAIN": (256, 128),
            "INPUT.FIXED_SIZE_TEST": (256, 128),
            # Whole images, so that their latents can be kept.
            "INPUT.CROP.ENABLED": False,
            "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": 1.0,
            "INPUT.COLOR_AUG_SSD": False,
            "TEST.WINDOW_SIZE": 0,
            "TEST.AT_INPUT_SIZE": True,
        },
    ),
    "referring": Schedule(
        _QUICK / "refcoco.yaml",
        {
            **_SHARED,
            # Most models tell objects of a class apart after 500 iterations.
            "SOLVER.MAX_ITER": 600,  # 3.8 ep = 600 iters * 8 images/iter / 1256 references/ep
        },
        tuple(
            f"{folder}/instances.json"
            for folder in ("refcoco", "refcoco_watercolor", "refcoco_comic")
        ),
    ),
}


def jobs(
    world: Path, folder: Path, questions: Iterable[Question], seeds: Sequence[int]
) -> tuple[list[Job], list[Job]]:
    """The trainings that questions need, one job for each seed, and before them what they need.

    Args:
        world: as `tadp-d2 synth` writes it, and as `DETECTRON2_DATASETS` names it.
        folder: of the results; `results/` holds all that `verdicts` reads.

    Returns:
        One job for each learned token and fine-tuned UNet of a training without a result; one for
        each training and seed.
    """
    of_world = identity(world)
    trainings = [
        _training_job(world, folder, training, tested, seed, of_world)
        for training, tested in plan(questions).items()
        for seed in seeds
    ]
    missing = [job.arguments for job in trainings if not job.file.exists()]
    needed = {
        (method, style, arguments["seed"]): None
        for arguments in missing
        for method, style in _learned(arguments["training"], arguments["tested"])
    }
    learning = [
        Job(
            folder / "learned" / f"{method}_{style}_{seed}.json",
            _learn,
            {"world": world, "folder": folder, "method": method, "style": style, "seed": seed},
            {**of_world, "settings": LEARNING[method], "seed": seed},
        )
        for method, style, seed in needed
    ]
    return learning, trainings


Tested = Mapping[str, Sequence[Reading]]


def _training_job(
    world: Path, folder: Path, training: Training, tested: Tested, seed: int, of_world: Mapping
) -> Job:
    schedule = SCHEDULES[training.task]
    config = CfgNode.load_yaml_with_base(str(schedule.config))
    config.pop("OUTPUT_DIR", None)
    settings = json.dumps([config, schedule.overrides], sort_keys=True)
    told_by = {name: sha256(world / name) for name in schedule.told_by}
    made_of = {
        **of_world,
        **told_by,
        "schedule": hashlib.sha256(settings.encode()).hexdigest(),
        "training": asdict(training),
        "tested": {dataset: [r.name for r in own] for dataset, own in tested.items()},
        "learned": {method: LEARNING[method] for method, _ in _learned(training, tested)},
        "seed": seed,
    }
    return Job(
        folder / "results" / f"{training.name}_{seed}.json",
        train_and_test,
        {
            "world": world,
            "folder": folder,
            "schedule": schedule,
            "training": training,
            "tested": tested,
            "seed": seed,
        },
        made_of,
    )


def _learned(training: Training, tested: Tested) -> list[tuple[str, str]]:
    """Method and style of all that a training and its tests take from images of a style."""
    readings = [training.reading, *(reading for own in tested.values() for reading in own)]
    styles = dict.fromkeys(style for reading in readings for style in reading.styles)
    tuned = [] if training.unet in (PRETRAINED, RANDOM) else [("dreambooth", training.unet)]
    return [*tuned, *(("invert", style) for style in styles)]


def _learn(world: Path, folder: Path, method: str, style: str, seed: int) -> str:
    return _learn_once(world, folder / "learned", method, style, seed).name


def train_and_test(
    world: Path, folder: Path, schedule: Schedule, training: Training, tested: Tested, seed: int
) -> dict[str, Any]:
    """Trains a model and tests it; of the run, all stays but the weights.

    Args:
        tested: data set -> what the model reads there.

    Returns:
        "training" and "seed"; "tests": data set -> name of a reading -> metrics.
    """
    run = _Run(world, folder, schedule, training, seed)
    shutil.rmtree(run.folder, ignore_errors=True)
    checkpoint = run.train(next(iter(tested)))
    results = {
        dataset: run.test(checkpoint, dataset, readings) for dataset, readings in tested.items()
    }
    for left in (checkpoint, run.folder / "last_checkpoint"):
        left.unlink()
    shutil.rmtree(run.random_unet, ignore_errors=True)
    return {"training": training.name, "seed": seed, "tests": results}


def _means(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The task's, and how well a conditioner finds the classes of an image, if it tells."""
    (name,) = metrics.keys() & _METRICS.keys()
    means = {metric: metrics[name][metric] for metric in _METRICS[name]}
    if TAGS.name in metrics:
        means["mAP of tags"] = metrics[TAGS.name][TAGS.headline.name]
    return means


@functools.cache  # to find that it is finished takes a while, too
def _learn_once(world: Path, folder: Path, method: str, style: str, seed: int) -> Path:
    return learn(world, folder, method, style, seed, LEARNING[method])


class _Untested(Trainer):
    """Leaves the tests to `evaluate_together`, which knows all that a model reads in them."""

    @classmethod
    def test(cls, *args: Any, **options: Any) -> OrderedDict[str, Any]:
        return OrderedDict()


class _Run:
    """A training in a folder of its own, and the tests of it in folders below."""

    def __init__(self, world: Path, study: Path, schedule: Schedule, training: Training, seed: int):
        self._world, self._study = world, study
        self._schedule, self._training, self._seed = schedule, training, seed
        self.folder = study / "runs" / f"{training.name}_{seed}"
        self.random_unet = self.folder / "unet"

    def train(self, dataset: str) -> Path:
        """Trains for tests on a data set and others; returns the checkpoint."""
        cfg = self._config(self.folder, dataset, self._training.reading)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(cfg.dump())
        if self._training.unet == RANDOM:
            self._write_random_unet()
        seed_all_rng(self._seed)
        trainer = _Untested(cfg)
        trainer.train()
        return self.folder / "model_final.pth"

    def test(
        self, checkpoint: Path, dataset: str, readings: Sequence[Reading]
    ) -> dict[str, dict[str, float]]:
        """Name of a reading -> metrics on a data set."""
        cfgs = {}
        for number, reading in enumerate(readings):
            output = self.folder / f"{dataset}_{number}"
            cfgs[reading.name] = self._config(output, dataset, reading, checkpoint)
        contestants = load_contestants(cfgs)
        found = evaluate_together(contestants, _TEST_BATCH)
        return {name: _means(results[dataset]) for name, results in found.items()}

    def _write_random_unet(self) -> None:
        options = UNet2DConditionModel.load_config(self._world / MODEL_FOLDER / "unet")
        with seeded("random UNet", self._seed):
            UNet2DConditionModel.from_config(options).save_pretrained(self.random_unet)

    def _config(
        self, output: Path, dataset: str, reading: Reading, weights: Path | str = ""
    ) -> CfgNode:
        """The config of a test on a data set, in an output folder with the captions."""
        schedule, training = self._schedule, self._training
        overrides = {
            **schedule.overrides,
            **dict(training.options),
            **self._text(reading),
            **_conditioner(training.reading),
            "MODEL.CONDITIONER.IMAGE_ENCODER": str(self._world / CLIP_FOLDER),
            "MODEL.DIFFUSION.WEIGHTS": str(self._world / MODEL_FOLDER),
            "MODEL.DIFFUSION.UNET": self._unet(),
            "TEXT.CAPTION_DIR": str(output / "captions"),
            "MODEL.WEIGHTS": str(weights),
            "DATASETS.TEST": (dataset,),
            "OUTPUT_DIR": str(output),
            "SEED": self._seed,
        }
        pairs = [item for pair in overrides.items() for item in pair]
        cfg = load_config(str(schedule.config), overrides=pairs)
        share_latents(cfg, self._study)
        kinds = dict.fromkeys(cfg.DATASETS.TRAIN, training.reading.captions)
        for name, kind in {**kinds, dataset: reading.captions}.items():
            if kind in caption_kinds.KINDS:
                file = output / "captions" / f"{name}.jsonl"
                caption_kinds.write_texts(file, name, kind, self._seed)
        return cfg

    def _text(self, reading: Reading) -> dict[str, Any]:
        training = self._training.reading
        same = training.template == reading.template
        return {
            "TEXT.MODIFIER": _modifier(reading.template),
            "TEXT.MODIFIER_TRAIN": "" if same else _modifier(training.template),
            "TEXT.TOKENS": tuple(
                str(self._learned("invert", style))
                for style in dict.fromkeys([*training.styles, *reading.styles])
            ),
        }

    def _unet(self) -> str:
        if self._training.unet == PRETRAINED:
            return ""
        if self._training.unet == RANDOM:
            return str(self.random_unet)
        return str(self._learned("dreambooth", self._training.unet))

    def _learned(self, method: str, style: str) -> Path:
        return _learn_once(self._world, self._study / "learned", method, style, self._seed)


def _modifier(template: str) -> str:
    return "null" if template == SLOT else template


def _conditioner(reading: Reading) -> dict[str, Any]:
    if reading.captions != caption_kinds.CLASS_EMBEDDINGS:
        return {}
    return {
        "MODEL.CONDITIONER.NAME": "ClassEmbeddings",
        "MODEL.CONDITIONER.TEMPLATES": "own",
    }
