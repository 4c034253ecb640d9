"""Whether the heads of a config ask for levels that its backbone has."""

from collections.abc import Iterable

from detectron2.config import CfgNode
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    GeneralizedRCNN,
    PanopticFPN,
    RetinaNet,
    SemanticSegmentor,
)

from tadp_d2.errors import UserError
from tadp_d2.modeling.depth_estimator import DepthEstimator
from tadp_d2.modeling.mask2former import Mask2Former

# Architecture -> sections of MODEL whose IN_FEATURES it reads, it and what derives from it.
_READ = {
    GeneralizedRCNN: ("RPN", "ROI_HEADS"),
    PanopticFPN: ("SEM_SEG_HEAD",),
    RetinaNet: ("RETINANET",),
    SemanticSegmentor: ("SEM_SEG_HEAD",),
    DepthEstimator: ("DEPTH_HEAD",),
    Mask2Former: ("MASK_FORMER",),
}


def check_levels(cfg: CfgNode, builder: str, levels: Iterable[str]) -> None:
    """
    Args:
        builder: name of the backbone that has the levels. The heads may read another one, such as
            one around it: then nothing is checked.
        levels: names of its maps.

    Raises:
        UserError: a head reads another one, or its anchors are for another number of levels.
    """
    if cfg.MODEL.BACKBONE.NAME != builder:
        return
    levels = list(levels)
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    for known, sections in _READ.items():
        for section in sections if issubclass(architecture, known) else ():
            read = cfg.MODEL[section].IN_FEATURES
            absent = [level for level in read if level not in levels]
            if absent:
                raise UserError(
                    f"MODEL.{section}.IN_FEATURES is {', '.join(read)}, and the backbone has no "
                    f"{', '.join(absent)}: expected some of {', '.join(levels)}"
                )
            if section in ("RPN", "RETINANET"):
                _check_anchors(cfg, section, len(read))


def _check_anchors(cfg: CfgNode, section: str, number: int) -> None:
    for name in ("SIZES", "ASPECT_RATIOS"):
        rows = cfg.MODEL.ANCHOR_GENERATOR[name]
        if rows and isinstance(rows[0], list | tuple) and len(rows) not in (1, number):
            raise UserError(
                f"MODEL.ANCHOR_GENERATOR.{name} has {len(rows)} lists: expected one for each of "
                f"the {number} levels of MODEL.{section}.IN_FEATURES, or one for all"
            )
