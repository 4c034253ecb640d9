"""Several models on the same test data in one pass: what they have in common is computed once."""

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from torch import Tensor, nn

from tadp_d2.conditioning.conditioner import build_conditioner
from tadp_d2.data.loader import build_test_loader, load_dataset, needed_texts
from tadp_d2.diffusion.latent_cache import LatentCache
from tadp_d2.engine.trainer import Trainer
from tadp_d2.errors import UserError
from tadp_d2.frozen import Frozen, fingerprint
from tadp_d2.inference.predictor import load_model
from tadp_d2.modeling.backbone import find_diffusion_backbone
from tadp_d2.records.results import write_results

# What must be equal for several models to look at the same inputs.
_SHARED_KEYS = {
    "DATASETS": ("TEST",),
    "INPUT": ("FORMAT", "RESIZE", "FIXED_SIZE_TEST", "MIN_SIZE_TEST", "MAX_SIZE_TEST"),
    "TEST": ("WINDOW_SIZE",),
}


@dataclass(frozen=True)
class Contestant:
    """A trained model with its config."""

    name: str
    cfg: CfgNode
    model: nn.Module


class EncodeOnce(Frozen):
    """A VAE that several models ask: it encodes equal pictures once until `forget` is called."""

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
        UserError: the models do not look at the same inputs, or a checkpoint does not fit.
    """
    first_name, first = next(iter(cfgs.items()))
    for name, cfg in cfgs.items():
        _check_same_inputs(name, cfg, first_name, first)
    built: dict[tuple[str, str], nn.Module] = {}
    encoders: dict[tuple, EncodeOnce] = {}
    contestants = []
    for name, cfg in cfgs.items():
        # MODEL holds the path of the weights too; of TEST, too, a model keeps keys for itself.
        key = (cfg.MODEL.dump(), cfg.TEST.dump())
        if key in built:
            model = _with_other_prompts(built[key], cfg)
        else:
            model = built[key] = load_model(cfg)
            _share_encoder(model, encoders)
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


def _share_encoder(model: nn.Module, encoders: dict[tuple, EncodeOnce]) -> None:
    backbone = find_diffusion_backbone(model)
    encoder = backbone.latent_encoder.module
    key = (fingerprint(encoder), encoder.factor, backbone.test_precision)
    backbone.latent_encoder = encoders.setdefault(key, EncodeOnce(encoder))


class _Contest(nn.Module):
    """All models as one: name -> what the model was given and what it says."""

    def __init__(self, contestants: Sequence[Contestant], dataset: str):
        super().__init__()
        self._contestants = contestants
        self._models = nn.ModuleList(contestant.model for contestant in contestants)
        self._texts = {c.name: _read_texts(c.cfg, dataset) for c in contestants}

    def forward(self, inputs: list[dict[str, Any]]) -> dict[str, tuple[list[dict], list[dict]]]:
        outputs = {}
        for contestant in self._contestants:
            texts = self._texts[contestant.name]
            own = [{**i, **texts[str(i["image_id"])]} for i in inputs]
            outputs[contestant.name] = own, contestant.model(own)
        for module in self._models.modules():
            if isinstance(module, EncodeOnce):
                module.forget()
        return outputs


def _read_texts(cfg: CfgNode, dataset: str) -> dict[str, dict[str, Any]]:
    """Image id -> what the conditioner of a config needs of the image."""
    needed = needed_texts(cfg)
    entries = load_dataset(cfg, dataset)
    return {str(entry["image_id"]): {key: entry[key] for key in needed} for entry in entries}


class _Evaluators(DatasetEvaluator):
    """Hands each model's outputs to its own evaluator."""

    def __init__(self, evaluators: Mapping[str, DatasetEvaluator]):
        self._evaluators = evaluators

    def reset(self) -> None:
        for evaluator in self._evaluators.values():
            evaluator.reset()

    def process(self, inputs: list[dict], outputs: Mapping[str, tuple[list, list]]) -> None:
        for name, evaluator in self._evaluators.items():
            evaluator.process(*outputs[name])

    def evaluate(self) -> dict[str, Any]:
        return {name: evaluator.evaluate() for name, evaluator in self._evaluators.items()}


def evaluate_together(contestants: Sequence[Contestant]) -> dict[str, dict[str, Any]]:
    """Evaluates models on the test sets of their configs, with the numbers of `--eval-only`.

    Writes `results.json` and galleries into the `OUTPUT_DIR` of each. A latent cache is used where
    all models would share it by themselves: its entries are of one VAE and one normalisation.

    Returns:
        name -> data set -> metric set -> metric -> value.
    """
    results: dict[str, dict[str, Any]] = {c.name: OrderedDict() for c in contestants}
    cfg = contestants[0].cfg.clone()
    if len({LatentCache.from_config(contestant.cfg) for contestant in contestants}) > 1:
        cfg.defrost()
        cfg.MODEL.DIFFUSION.LATENT_CACHE.FOLDER = ""
    for dataset in cfg.DATASETS.TEST:
        evaluators = {c.name: Trainer.build_evaluator(c.cfg, dataset) for c in contestants}
        found = inference_on_dataset(
            _Contest(contestants, dataset),
            build_test_loader(cfg, dataset),
            _Evaluators(evaluators),
        )
        for name in results:
            results[name][dataset] = found[name] or {}
    for contestant in contestants:
        write_results(contestant.cfg, contestant.model, results[contestant.name])
    return results
