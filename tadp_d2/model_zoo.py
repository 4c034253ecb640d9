"""The configs of the package in Python, by name, as Detectron2's `model_zoo` has its own.

    from tadp_d2 import model_zoo

    cfg = model_zoo.get_config("voc2watercolor_simple", overrides=["SOLVER.MAX_ITER", 20])
    model = model_zoo.get("voc2watercolor_simple", weights="output/run/model_final.pth")

No trained weights are published: those of a run of one's own are named.
"""

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from tadp_d2.config.load import load_config
from tadp_d2.config.shipped import find_config
from tadp_d2.inference.predictor import load_model


def get_config_file(name: str) -> str:
    """The path of a config, such as for `_BASE_` of one's own.

    Args:
        name: one that `tadp-d2 configs` lists, such as "ade20k/vpd"; or a path, which stays.

    Raises:
        UserError: there is none of that name.
    """
    return find_config(name)


def get_config(
    name: str, preset: str | Sequence[str] = (), overrides: Sequence[object] = ()
) -> CfgNode:
    """A config by its name, frozen.

    Args:
        preset: name of one, or of several that are merged in their order.
        overrides: keys and their values in turn.

    Raises:
        UserError: as `load_config`.
    """
    return load_config(find_config(name), preset, overrides)


def get(
    name: str,
    weights: str = "",
    preset: str | Sequence[str] = (),
    overrides: Sequence[object] = (),
) -> nn.Module:
    """The model of a config, in eval mode.

    Args:
        weights: a checkpoint of a run of this config; empty for the heads' initial weights on the
            base model.
        preset, overrides: as `get_config`.

    Raises:
        UserError: as `load_config`; or the base model is not there, or the checkpoint does not fit.
    """
    cfg = get_config(name, preset, [*overrides, "MODEL.WEIGHTS", weights] if weights else overrides)
    return load_model(cfg) if cfg.MODEL.WEIGHTS else build_model(cfg).eval()
