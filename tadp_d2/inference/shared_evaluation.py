"""Several models on the same test data in one pass: what they have in common is computed once."""

import contextlib
import copy
import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from torch import Tensor, nn

from tadp_d2.conditioning.conditioner import build_conditioner
from tadp_d2.data.catalog import entry_id
from tadp_d2.data.loader import build_test_loader, load_dataset, needed_texts
from tadp_d2.diffusion.latent_cache import LatentCache
from tadp_d2.engine.checkpoint import read_provenance
from tadp_d2.engine.trainer import Trainer
from tadp_d2.errors import UserError, reason
from tadp_d2.frozen import Frozen, fingerprint
from tadp_d2.inference.predictor import load_model
from tadp_d2.modeling.backbone import find_diffusion_backbone
from tadp_d2.records.provenance import Provenance
from tadp_d2.records.results import log_table, write_results
from tadp_d2.tasks.task import get_task

_logger = logging.getLogger(__name__)

# What must be equal for several models to look at the same inputs.
_SHARED_KEYS = {
    "DATASETS": ("TEST",),
    "INPUT": ("FORMAT", "RESIZE", "FIXED_SIZE_TEST", "MIN_SIZE_TEST", "MAX_SIZE_TEST"),
    "TEST": ("WINDOW_SIZE", "VIEWS", "MIRROR"),
}


@dataclass(frozen=True)
class Contestant:
    """A trained model with its config."""

    name: str
    cfg: CfgNode
    model: nn.Module


class EncodeOnce(Frozen):
    """A VAE that several models ask: it encodes equal images once until `forget` is called."""

    def __init__(self, latent_encoder: nn.Module):
        super().__init__(latent_encoder)
        self._known: list[tuple[Tensor, Tensor]] = []

    def forget(self) -> None:
        self._known.clear()

    def forward(self, images: Tensor) -> Tensor:
        for seen, latents in self._known:
            if torch.equal(seen, images):
                return latents
        latents = super().forward(images)
        self._known.append((images, latents))
        return latents


def load_contestants(cfgs: Mapping[str, CfgNode]) -> list[Contestant]:
    """Builds the models of configs, each with the weights of `MODEL.WEIGHTS`, on shared parts.

    Those of equal weights differ in their prompts only and are one model. Equal VAEs are one.

    Args:
        cfgs: name -> config, of which `check_inputs` found nothing wrong.

    Raises:
        UserError: the models do not look at the same inputs, or as `load_model`.
    """
    first_name, first = next(iter(cfgs.items()))
    for name, cfg in cfgs.items():
        _check_same_inputs(name, cfg, first_name, first)
        if cfg.TEST.AUG.ENABLED:
            raise UserError(
                f"TEST.AUG.ENABLED is True in {name}: models are evaluated in one pass without "
                "augmentation; --opts TEST.AUG.ENABLED False"
            )
    built: dict[tuple, nn.Module] = {}
    encoders: dict[tuple, EncodeOnce] = {}
    contestants = []
    for name, cfg in cfgs.items():
        # MODEL holds the path of the weights too. A model keeps keys of TEST for itself, and SEED
        # for the noise of NOISE_TIMESTEP.
        key = (cfg.MODEL.dump(), cfg.TEST.dump(), cfg.SEED)
        if key in built:
            model = _with_other_prompts(built[key], cfg)
            weights = cfg.MODEL.WEIGHTS
            Provenance(cfg, model).check(read_provenance(weights), weights)
        else:
            model = built[key] = load_model(cfg)
            _share_encoder(model, encoders, cfg.MODEL.DIFFUSION.COMPILE)
        contestants.append(Contestant(name, cfg, model))
    return contestants


def _check_same_inputs(name: str, cfg: CfgNode, other_name: str, other: CfgNode) -> None:
    for section, keys in _SHARED_KEYS.items():
        for key in keys:
            mine, yours = cfg[section][key], other[section][key]
            if mine != yours:
                raise UserError(
                    f"{section}.{key} is {mine} in {name} and {yours} in {other_name}: what is "
                    "evaluated in one pass must look at the same inputs; --opts sets a key for all"
                )


def _with_other_prompts(model: nn.Module, cfg: CfgNode) -> nn.Module:
    """A model that shares all parts with another one but what makes its contexts."""
    twin = copy.copy(model)
    twin._modules = dict(model._modules)
    twin.conditioner = build_conditioner(cfg).to(model.device).eval()
    # What of it was trained.
    twin.conditioner.load_state_dict(model.conditioner.state_dict())
    return twin


def _share_encoder(model: nn.Module, encoders: dict[tuple, EncodeOnce], how: str) -> None:
    if not model.conditioner.conditions:
        return  # a backbone without a VAE
    backbone = find_diffusion_backbone(model)
    encoder = backbone.latent_encoder.module
    key = (fingerprint(encoder), encoder.factor, backbone.test_precision, how)
    backbone.latent_encoder = encoders.setdefault(key, EncodeOnce(encoder))


class _Failures:
    """Models that failed, with why: the others go on without them."""

    def __init__(self, contestants: Sequence[Contestant]):
        self._contestants = contestants
        self.errors: dict[str, Exception] = {}

    @property
    def others(self) -> list[Contestant]:
        """The models that did not fail.

        Raises:
            Exception: all did; that of the last.
        """
        others = [c for c in self._contestants if c.name not in self.errors]
        if not others:
            raise list(self.errors.values())[-1]
        return others

    @contextlib.contextmanager
    def of(self, contestant: Contestant) -> Iterator[None]:
        """What ends the block is a failure of the contestant alone."""
        try:
            yield
        except Exception as error:
            unexpected = None if isinstance(error, UserError) else error
            _logger.error(f"{contestant.name} failed: {reason(error)}", exc_info=unexpected)
            self.errors[contestant.name] = error


class _Contest(nn.Module):
    """All models as one: name -> what the model was given and what it returned."""

    def __init__(self, failures: _Failures, dataset: str):
        super().__init__()
        self._failures = failures
        self._models = nn.ModuleList(contestant.model for contestant in failures.others)
        self._texts = {c.name: _read_texts(c.cfg, dataset) for c in failures.others}

    def forward(self, inputs: list[dict[str, Any]]) -> dict[str, tuple[list[dict], list[dict]]]:
        outputs = {}
        for contestant in self._failures.others:
            texts = self._texts[contestant.name]
            own = [{**i, **texts[entry_id(i)]} for i in inputs]
            with self._failures.of(contestant):
                outputs[contestant.name] = own, contestant.model(own)
        for module in self._models.modules():
            if isinstance(module, EncodeOnce):
                module.forget()
        return outputs


def _read_texts(cfg: CfgNode, dataset: str) -> dict[str, dict[str, Any]]:
    """Id of an entry -> what the conditioner of a config needs of it."""
    needed = needed_texts(cfg)
    entries = load_dataset(cfg, dataset)
    return {entry_id(entry): {key: entry[key] for key in needed} for entry in entries}


class _Evaluators(DatasetEvaluator):
    """Hands each model's outputs to its own evaluator."""

    def __init__(self, failures: _Failures, dataset: str):
        self._failures = failures
        self._evaluators = {
            c.name: Trainer.build_evaluator(c.cfg, dataset) for c in failures.others
        }

    def reset(self) -> None:
        for evaluator in self._evaluators.values():
            evaluator.reset()

    def process(self, inputs: list[dict], outputs: Mapping[str, tuple[list, list]]) -> None:
        for contestant in self._failures.others:
            with self._failures.of(contestant):
                self._evaluators[contestant.name].process(*outputs[contestant.name])

    def evaluate(self) -> dict[str, Any]:
        results = {}
        for contestant in self._failures.others:
            with self._failures.of(contestant):
                results[contestant.name] = self._evaluators[contestant.name].evaluate() or {}
        return results


def evaluate_together(
    contestants: Sequence[Contestant], batch: int = 1
) -> dict[str, dict[str, Any]]:
    """Evaluates models on the test sets of their configs, with the numbers of `--eval-only`.

    Writes `results.json` and galleries into the `OUTPUT_DIR` of each, after each data set. A model
    that fails leaves the others alone. A latent cache is used where all models would share it by
    themselves: its entries are of one VAE and one normalization.

    Args:
        batch: images that a model gets at once.

    Returns:
        name -> data set -> metric set -> metric -> value.

    Raises:
        UserError: a model failed; the others have their results.
    """
    results: dict[str, dict[str, Any]] = {c.name: OrderedDict() for c in contestants}
    cfg = contestants[0].cfg.clone()
    if len({LatentCache.from_config(contestant.cfg) for contestant in contestants}) > 1:
        cfg.defrost()
        cfg.MODEL.DIFFUSION.LATENT_CACHE.FOLDER = ""
    failures = _Failures(contestants)
    for dataset in cfg.DATASETS.TEST:
        found = inference_on_dataset(
            _Contest(failures, dataset),
            build_test_loader(cfg, dataset, batch),
            _Evaluators(failures, dataset),
        )
        for contestant in failures.others:
            own = results[contestant.name]
            own[dataset] = found[contestant.name]
            with failures.of(contestant):
                write_results(contestant.cfg, contestant.model, own)
    _log_table(failures.others, results)
    if failures.errors:
        told = "; ".join(f"{name}: {reason(error)}" for name, error in failures.errors.items())
        names = ", ".join(contestant.name for contestant in failures.others)
        cause = next(iter(failures.errors.values()))
        raise UserError(f"{told}. The results of {names} are written") from cause
    return results


def _log_table(contestants: Sequence[Contestant], results: Mapping[str, dict[str, Any]]) -> None:
    log_table(
        {
            f"{contestant.name} {dataset}": sets
            for contestant in contestants
            for dataset, sets in results[contestant.name].items()
        },
        [metric_set for c in contestants for metric_set in get_task(c.cfg).measured()],
    )
