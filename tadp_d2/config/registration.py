"""Adds the keys to Detectron2's config; importing this registers all parts of the project.

A program that has the keys has the parts.
"""

import copy

from detectron2.config import CfgNode

import tadp_d2.data.datasets.cross_domain_voc
import tadp_d2.data.datasets.street_scenes
import tadp_d2.modeling.conditioned  # noqa: F401
from tadp_d2.config.keys import DETECTRON2, KEYS


def add_tadp_config(cfg: CfgNode) -> None:
    """Adds the keys of this project to Detectron2's config, and its defaults, in place."""
    for key in KEYS.values():
        if key.default is not DETECTRON2:
            *sections, name = key.name.split(".")
            node = cfg
            for section in sections:
                node = node.setdefault(section, CfgNode())
            node[name] = copy.deepcopy(key.default)
