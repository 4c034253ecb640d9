"""Adds the keys to Detectron2's config; importing this registers all parts of the project.

A program that has the keys has the parts.
"""

import contextlib
import copy

from detectron2.config import CfgNode

import tadp_d2.conditioning.caption_nouns
import tadp_d2.conditioning.caption_prompt
import tadp_d2.conditioning.class_embeddings
import tadp_d2.conditioning.class_names
import tadp_d2.conditioning.class_words
import tadp_d2.conditioning.empty_text
import tadp_d2.conditioning.expression
import tadp_d2.conditioning.implicit_captioner
import tadp_d2.conditioning.no_text
import tadp_d2.conditioning.oracle
import tadp_d2.conditioning.scene_embedding
import tadp_d2.conditioning.tagging
import tadp_d2.conditioning.text_adapter
import tadp_d2.data.datasets.ade20k
import tadp_d2.data.datasets.art
import tadp_d2.data.datasets.cityscapes
import tadp_d2.data.datasets.coco_2017
import tadp_d2.data.datasets.coco_stuff
import tadp_d2.data.datasets.dark_zurich
import tadp_d2.data.datasets.nighttime_driving
import tadp_d2.data.datasets.nyu_depth_v2
import tadp_d2.data.datasets.pascal_segmentation
import tadp_d2.data.datasets.refcoco
import tadp_d2.data.datasets.room_styles
import tadp_d2.data.datasets.voc_segmentation
import tadp_d2.modeling.heads.refer_head
import tadp_d2.modeling.heads.semantic_fpn_head
import tadp_d2.modeling.heads.upernet_head
import tadp_d2.modeling.mask2former
import tadp_d2.modeling.pretrained_backbone
import tadp_d2.modeling.referring_segmentor
import tadp_d2.tasks.depth
import tadp_d2.tasks.detection
import tadp_d2.tasks.panoptic
import tadp_d2.tasks.referring
import tadp_d2.tasks.semantic  # noqa: F401
from tadp_d2.config.keys import DETECTRON2, KEYS
from tadp_d2.modeling.conditioned import register_conditioned

# A project of Detectron2's that comes with it; its head is registered on import.
with contextlib.suppress(ImportError):
    import detectron2.projects.deeplab  # noqa: F401


def add_tadp_config(cfg: CfgNode) -> None:
    """Adds the keys of this project to Detectron2's config, and its defaults, in place."""
    # Also for architectures that the program has registered since this module was imported.
    register_conditioned()
    for key in KEYS.values():
        if key.default is not DETECTRON2:
            *sections, name = key.name.split(".")
            node = cfg
            for section in sections:
                node = node.setdefault(section, CfgNode())
            node[name] = copy.deepcopy(key.default)
