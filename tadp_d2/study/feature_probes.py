"""Which layer and which time step of the UNet know what is in an image, before any training?

A linear classifier of pixels is fitted to each level's features of synthetic images, in closed
form, and scored on others. The diffusion model stays as it came.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.data import MetadataCatalog
from torch import Tensor
from torch.nn import functional as F

from tadp_d2.config.load import load_config
from tadp_d2.data.catalog import read_entries
from tadp_d2.data.images import read_label_map
from tadp_d2.data.loader import build_test_loader
from tadp_d2.engine.trainer import Trainer
from tadp_d2.evaluation.sem_seg import NamedSemSegEvaluator
from tadp_d2.modeling.backbone import find_diffusion_backbone
from tadp_d2.reports.formats import markdown
from tadp_d2.reports.tables import Cell, Row, Table
from tadp_d2.study.identity import identity
from tadp_d2.study.jobs import Job
from tadp_d2.synthetic.data_folder import MODEL_FOLDER

_IGNORED = 255
# Share of the mean variance that is added to each, so that the covariance can be inverted.
_SHRINKAGE = 1e-3
# All levels at the size of the finest, one after the other.
ALL = "all"
_TIMESTEP, _NOISE, _TAPS = (
    f"MODEL.DIFFUSION.{key}" for key in ("TIMESTEP", "NOISE_TIMESTEP", "TAPS")
)


class Images(NamedTuple):
    """What a diffusion model is shown.

    Attributes:
        dataset: name of a data set with label maps.
        keys: what differs from the config.
        config: of a segmentor.
        count: the first so many images; None for all.
    """

    dataset: str
    keys: Mapping[str, Any] = {}
    config: str = "quick_schedules/pascal_prompts"
    count: int | None = None


class Probing(NamedTuple):
    """A classifier is fitted to the features of some images, and scored on others."""

    fitted_on: Images
    scored_on: Images


def _pascal(keys: Mapping[str, Any]) -> Probing:
    return Probing(Images("pascal_trainaug", keys), Images("pascal_val", keys))


def _streets(dataset: str, modifier: str) -> Images:
    """As many of each data set as there are at night."""
    keys = {"TEXT.MODIFIER": modifier, "TEST.WINDOW_SIZE": 0}
    return Images(dataset, keys, "quick_schedules/cityscapes2darkzurich_simple", 50)


_DAY = _streets("cityscapes_train", "null")
# What is passed to the UNet -> images.
PASSES: Mapping[str, Probing] = {
    "empty text, t = 0": _pascal({"MODEL.CONDITIONER.NAME": "EmptyText"}),
    "caption, t = 0": _pascal({}),
    **{f"caption, t = {t}": _pascal({_TIMESTEP: t}) for t in (50, 200, 500)},
    **{
        f"caption, t = {t} and its noise": _pascal({_TIMESTEP: t, _NOISE: t})
        for t in (50, 200, 500)
    },
    "caption, t = 0, first layers": _pascal({_TAPS: (0, 0, 0, 0)}),
    "caption, t = 0, last layers": _pascal({_TAPS: (2, 2, 2, 2)}),
    "streets, from day to day": Probing(_DAY, _streets("cityscapes_val", "null")),
    "streets, from day to night": Probing(_DAY, _streets("dark_zurich_val", "simple")),
    "the same without the style": Probing(_DAY, _streets("dark_zurich_val", "null")),
    "streets, from night to night": Probing(
        _streets("nighttime_driving_test", "simple"), _streets("dark_zurich_val", "simple")
    ),
}


def jobs(world: Path, folder: Path) -> list[Job]:
    """One job for each of `PASSES`.

    Args:
        world: as `tadp-d2 synth` writes it, and as `DETECTRON2_DATASETS` names it.
        folder: of the results.
    """
    return [
        Job(
            folder / "results" / f"{name.replace(' ', '_')}.json",
            probe,
            {"world": world, "name": name},
            {
                **identity(world, (images.dataset for images in probing)),
                "pass": name,
                **{key: list(images) for key, images in probing._asdict().items()},
            },
        )
        for name, probing in PASSES.items()
    ]


def probe(world: Path, name: str, count: int | None = None) -> dict[str, Any]:
    """Fits and scores a classifier for each level and for all of them together.

    Args:
        name: of `PASSES`.
        count: how many images of each data set; None for as many as the pass has.

    Returns:
        "pass", and "mIoU": level -> number, 0 to 100.
    """
    fitted_on, scored_on = (images._replace(count=count or images.count) for images in PASSES[name])
    label_maps = {e["image_id"]: e["sem_seg_file_name"] for e in read_entries(fitted_on.dataset)}
    classes = MetadataCatalog.get(fitted_on.dataset).stuff_classes
    moments: dict[str, Moments] = {}
    for entry, features in _look(world, fitted_on):
        labels = torch.from_numpy(read_label_map(label_maps[entry["image_id"]]).astype("int64"))
        for level, values in features.items():
            own = moments.setdefault(level, Moments(values.shape[1], len(classes)))
            own.add(values, _at(labels, values))
    probes = {level: own.fit() for level, own in moments.items()}
    evaluators = {level: NamedSemSegEvaluator(scored_on.dataset, classes) for level in probes}
    for evaluator in evaluators.values():
        evaluator.reset()
    for entry, features in _look(world, scored_on):
        size = entry["height"], entry["width"]
        for level, values in features.items():
            scores = F.interpolate(probes[level](values).float(), size, mode="bilinear")
            evaluators[level].process([entry], [{"sem_seg": scores[0]}])
    found = {level: own.evaluate()["sem_seg"]["mIoU"] for level, own in evaluators.items()}
    return {"pass": name, "mIoU": found}


@torch.no_grad()
def _look(world: Path, images: Images) -> Iterator[tuple[dict[str, Any], dict[str, Tensor]]]:
    """The inputs, each with the UNet's features by level, 1 x C x h x w."""
    overrides = {
        **images.keys,
        "MODEL.DIFFUSION.WEIGHTS": str(world / MODEL_FOLDER),
        "MODEL.DEVICE": "cpu",
        "DATASETS.TEST": (images.dataset,),
    }
    cfg = load_config(images.config, overrides=[x for pair in overrides.items() for x in pair])
    model = Trainer.build_model(cfg).eval()
    taken: list[dict[str, Tensor]] = []
    backbone = find_diffusion_backbone(model)
    hook = backbone.register_forward_hook(lambda module, inputs, output: taken.append(output))
    try:
        for batch in islice(build_test_loader(cfg, images.dataset), images.count):
            model(batch)
            (entry,), features = batch, dict(taken.pop())
            finest = features[min(features, key=lambda level: backbone.unet.strides[level])]
            resized = [
                F.interpolate(f, finest.shape[-2:], mode="bilinear") for f in features.values()
            ]
            yield entry, {**features, ALL: torch.cat(resized, dim=1)}
    finally:
        hook.remove()


def _at(labels: Tensor, values: Tensor) -> Tensor:
    """The label in the middle of each position of a feature map, h x w."""
    resized = F.interpolate(labels[None, None].double(), values.shape[-2:], mode="nearest-exact")
    return resized[0, 0].long()


class LinearProbe(NamedTuple):
    """Features -> a score for each class.

    Attributes:
        weights: K x C.
        bias: K.
    """

    weights: Tensor
    bias: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        """B x C x h x w -> B x K x h x w, fp64."""
        return F.conv2d(values.double(), self.weights[..., None, None], self.bias)


class Moments:
    """What linear discriminant analysis has to know of features: counts, sums, products."""

    def __init__(self, channels: int, classes: int):
        self._counts = torch.zeros(classes, dtype=torch.float64)
        self._sums = torch.zeros(classes, channels, dtype=torch.float64)
        self._products = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, values: Tensor, labels: Tensor) -> None:
        """
        Args:
            values: 1 x C x h x w.
            labels: h x w, the class of each position; 255 is left out.
        """
        known = labels != _IGNORED
        rows = values[0].double().permute(1, 2, 0)[known]
        shown = F.one_hot(labels[known], len(self._counts)).double()
        self._counts += shown.sum(0)
        self._sums += shown.T @ rows
        self._products += rows.T @ rows

    def fit(self) -> LinearProbe:
        """The discriminant under one covariance for all classes, and their shares as priors.

        Its variances get a small share of their mean (shrinkage).
        """
        seen = self._counts > 0
        means = self._sums / self._counts.clamp(min=1)[:, None]
        within = self._products - self._sums.T @ means
        covariance = within / self._counts.sum()
        covariance += torch.eye(len(within)) * _SHRINKAGE * covariance.diagonal().mean()
        weights = torch.linalg.solve(covariance, means.T).T
        bias = (self._counts / self._counts.sum()).log() - (weights * means).sum(1) / 2
        # A class that was not seen is never chosen. Finite, because scores are interpolated.
        return LinearProbe(weights, bias.masked_fill(~seen, -1e9))


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The results in Markdown: mIoU of each pass and level."""
    levels = list(results[0]["mIoU"])
    rows = [
        Row([Cell(r["pass"]), *(Cell(f"{r['mIoU'][level]:.1f}") for level in levels)])
        for r in results
    ]
    return markdown(Table("", ["passed to the UNet", *levels], rows)).rstrip("\n")
