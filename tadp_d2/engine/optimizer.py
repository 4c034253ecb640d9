"""AdamW with one rate for the UNet and one for the rest, and the paper's learning-rate schedule."""

from detectron2.config import CfgNode
from detectron2.solver import (
    LRMultiplier,
    WarmupParamScheduler,
    build_lr_scheduler,
    get_default_optimizer_params,
)
from detectron2.solver.build import maybe_add_gradient_clipping
from fvcore.common.param_scheduler import ParamScheduler, PolynomialDecayParamScheduler
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tadp_d2.adam_8bit import adam_8bit
from tadp_d2.conditioning.conditioner import Conditioner
from tadp_d2.engine.sharded_optimizer import sharded
from tadp_d2.errors import UserError, reason
from tadp_d2.modeling.backbone import DiffusionBackbone
from tadp_d2.modeling.image_networks import ImageNetwork
from tadp_d2.pyramid import Pyramid


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """AdamW over the trainable parameters, with Detectron2's gradient clipping if configured.

    The learning rate of the UNet, or of a pre-trained image encoder in its place, is
    `SOLVER.BASE_LR * SOLVER.UNET_LR_FACTOR` (TADP, section C), that of the conditioner
    `SOLVER.BASE_LR * SOLVER.CONDITIONER_LR_FACTOR`; norm layers decay by
    `SOLVER.WEIGHT_DECAY_NORM`. Each group has its "part": "unet", "conditioner" or "head".

    Raises:
        UserError: `SOLVER.ADAM_8BIT` asks for what is not installed, or not for this device.
    """
    parts = {
        id(parameter): part
        for module in model.modules()
        for part, of_part in (
            ("unet", isinstance(module, DiffusionBackbone | ImageNetwork)),
            # Inside of the others: it is new.
            ("head", isinstance(module, Pyramid)),
            ("conditioner", isinstance(module, Conditioner)),
        )
        if of_part
        for parameter in module.parameters()
    }
    factors = {
        "unet": cfg.SOLVER.UNET_LR_FACTOR,
        "conditioner": cfg.SOLVER.CONDITIONER_LR_FACTOR,
        "head": 1.0,
    }
    groups: dict[tuple, dict] = {}
    for group in get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    ):
        for parameter in group["params"]:
            part = parts.get(id(parameter), "head")
            settings = {
                "part": part,
                "lr": group["lr"] * factors[part],
                "weight_decay": group["weight_decay"],
            }
            groups.setdefault(tuple(settings.values()), {"params": [], **settings})
            groups[tuple(settings.values())]["params"].append(parameter)
    kind, options = AdamW, {"fused": True}
    if cfg.SOLVER.ADAM_8BIT:
        kind, options = adam_8bit(next(model.parameters()).device, "SOLVER.ADAM_8BIT"), {}
    if cfg.SOLVER.SHARD_OPTIMIZER:
        kind = sharded(kind)
    # Last, so that it clips alike in all processes; Detectron2's class can have no subclass.
    optimizer_class = maybe_add_gradient_clipping(cfg, kind)
    return optimizer_class(list(groups.values()), lr=cfg.SOLVER.BASE_LR, **options)


def build_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
    """`SOLVER.LR_SCHEDULER_NAME`, per iteration: "PolyLR", "RiseAndFall" or one of Detectron2's.

    "PolyLR" multiplies every rate by `(1 - iteration / MAX_ITER) ^ POLY_POWER`, after a
    warm-up over `WARMUP_ITERS` from `WARMUP_FACTOR` of the first learning rate, as `WARMUP_METHOD`
    sets. In a run that is cut short, for a trial, the warm-up is at most half of it. "RiseAndFall"
    has no warm-up.

    Raises:
        UserError: Detectron2 knows no schedule of that name, or something in it is wrong.
    """
    name = cfg.SOLVER.LR_SCHEDULER_NAME
    if name not in ("PolyLR", "RiseAndFall"):
        try:
            return build_lr_scheduler(cfg, optimizer)
        except ValueError as error:
            raise UserError(f"SOLVER.LR_SCHEDULER_NAME is {name!r}: {reason(error)}") from None
    iterations = max(cfg.SOLVER.MAX_ITER, 1)
    if name == "RiseAndFall":
        rise_and_fall = RiseAndFall(cfg.SOLVER.LOWEST_LR_FACTOR, cfg.SOLVER.POLY_POWER)
        return LRMultiplier(optimizer, multiplier=rise_and_fall, max_iter=iterations)
    schedule = PolynomialDecayParamScheduler(base_value=1.0, power=cfg.SOLVER.POLY_POWER)
    if cfg.SOLVER.WARMUP_ITERS > 0:
        # It rises to where the schedule then is: at the end of the run that would be 0.
        warmup = min(cfg.SOLVER.WARMUP_ITERS / iterations, 0.5)
        schedule = WarmupParamScheduler(
            schedule, cfg.SOLVER.WARMUP_FACTOR, warmup, cfg.SOLVER.WARMUP_METHOD
        )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=iterations)


class RiseAndFall(ParamScheduler):
    """From `lowest` to 1 in the first half of the training, and back in the second (VPD, depth).

    Both ways follow a power of the way's share that is done.
    """

    def __init__(self, lowest: float, power: float):
        """
        Args:
            lowest: at the beginning and the end, 0 to 1.
            power: VPD's is 0.9.
        """
        self._lowest, self._power = lowest, power

    def __call__(self, where: float) -> float:
        """
        Args:
            where: the share of the training that is done, 0 to 1.
        """
        way = 2 * where
        share = way**self._power if way < 1 else 1 - (way - 1) ** self._power
        return self._lowest + (1 - self._lowest) * share
