"""Which layer and which time step of the UNet know what is in an image, before any training?

A linear classifier of pixels is fitted to each level's features of the synthetic photos in
Pascal's layout, in closed form, and scored on held-out ones. The diffusion model stays as it came.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
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

_CONFIG = "quick_schedules/pascal_prompts"
_FITTED_ON, _SCORED_ON = "pascal_trainaug", "pascal_val"
_IGNORED = 255
# Share of the mean variance that is added to each, so that the covariance can be inverted.
_SHRINKAGE = 1e-3
# All levels at the size of the finest, one after the other.
ALL = "all"
_TIMESTEP, _NOISE, _TAPS = (
    f"MODEL.DIFFUSION.{key}" for key in ("TIMESTEP", "NOISE_TIMESTEP", "TAPS")
)
_EMPTY = {"MODEL.CONDITIONER.NAME": "EmptyText"}
# What is passed to the UNet -> keys of the config.
PASSES: Mapping[str, Mapping[str, Any]] = {
    "empty text, t = 0": _EMPTY,
    "caption, t = 0": {},
    **{f"caption, t = {t}": {_TIMESTEP: t} for t in (50, 200, 500)},
    **{f"caption, t = {t} and its noise": {_TIMESTEP: t, _NOISE: t} for t in (50, 200, 500)},
    "caption, t = 0, first layers": {_TAPS: (0, 0, 0, 0)},
    "caption, t = 0, last layers": {_TAPS: (2, 2, 2, 2)},
}


def jobs(world: Path, folder: Path) -> list[Job]:
    """One job for each of `PASSES`.

    Args:
        world: as `tadp-d2 synth` writes it, and as `DETECTRON2_DATASETS` names it.
        folder: of the results.
    """
    of_world = identity(world, (_FITTED_ON, _SCORED_ON))
    return [
        Job(
            folder / "results" / f"{name.replace(' ', '_')}.json",
            probe,
            {"world": world, "name": name},
            {**of_world, "pass": name, "keys": dict(options)},
        )
        for name, options in PASSES.items()
    ]


def probe(world: Path, name: str, images: int | None = None) -> dict[str, Any]:
    """Fits and scores a classifier for each level and for all of them together.

    Args:
        name: of `PASSES`.
        images: how many of each data set; None for all.

    Returns:
        "pass", and "mIoU": level -> number, 0 to 100.
    """
    overrides = {**PASSES[name], "MODEL.DIFFUSION.WEIGHTS": str(world / MODEL_FOLDER)}
    overrides |= {"MODEL.DEVICE": "cpu", "DATASETS.TEST": (_SCORED_ON,)}
    cfg = load_config(_CONFIG, overrides=[x for pair in overrides.items() for x in pair])
    model = Trainer.build_model(cfg).eval()
    classes = MetadataCatalog.get(_SCORED_ON).stuff_classes
    label_maps = {e["image_id"]: e["sem_seg_file_name"] for e in read_entries(_FITTED_ON)}
    moments: dict[str, Moments] = {}
    for entry, features in islice(_look(cfg, model, _FITTED_ON), images):
        labels = torch.from_numpy(read_label_map(label_maps[entry["image_id"]]).astype("int64"))
        for level, values in features.items():
            own = moments.setdefault(level, Moments(values.shape[1], len(classes)))
            own.add(values, _at(labels, values))
    probes = {level: own.fit() for level, own in moments.items()}
    evaluators = {level: NamedSemSegEvaluator(_SCORED_ON, classes) for level in probes}
    for evaluator in evaluators.values():
        evaluator.reset()
    for entry, features in islice(_look(cfg, model, _SCORED_ON), images):
        size = entry["height"], entry["width"]
        for level, values in features.items():
            scores = F.interpolate(probes[level](values).float(), size, mode="bilinear")
            evaluators[level].process([entry], [{"sem_seg": scores[0]}])
    found = {level: own.evaluate()["sem_seg"]["mIoU"] for level, own in evaluators.items()}
    return {"pass": name, "mIoU": found}


@torch.no_grad()
def _look(
    cfg: CfgNode, model: torch.nn.Module, dataset: str
) -> Iterator[tuple[dict[str, Any], dict[str, Tensor]]]:
    """The inputs of a data set, each with the UNet's features by level, 1 x C x h x w."""
    taken: list[dict[str, Tensor]] = []
    backbone = find_diffusion_backbone(model)
    hook = backbone.register_forward_hook(lambda module, inputs, output: taken.append(output))
    try:
        for batch in build_test_loader(cfg, dataset):
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
