"""A trained model as a function of one image and its text."""

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.modeling import build_model
from PIL import Image
from torch import Tensor, nn

from tadp_d2.data.augmentation import build_augmentations
from tadp_d2.data.loader import needed_texts
from tadp_d2.data.views import make_views
from tadp_d2.engine.checkpoint import RunCheckpointer, check_is_there
from tadp_d2.errors import UserError
from tadp_d2.records.provenance import Provenance
from tadp_d2.tasks.task import get_task


class Predictor:
    """Image and text -> what the model finds, as Detectron2's `DefaultPredictor`.

    Attributes:
        task: of the model.
        classes: the names of the model's class indices.
        reads: what the text is: "expression" or "room" for a model that needs one, else "caption".
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: that of the training, with the checkpoint in MODEL.WEIGHTS.

        Raises:
            UserError: as `load_model`.
        """
        self.model = load_model(cfg)
        self.task = get_task(cfg)
        self.classes = self.task.classes()
        needed = needed_texts(cfg)
        self.reads = next((text for text in ("expression", "room") if text in needed), "caption")
        self._cfg = cfg

    def prompt(self, text: str) -> str:
        """What the model reads for a text: with the modifier, cut where it is too long."""
        return self.model.conditioner.prompt({self.reads: text})

    def __call__(self, pixels: np.ndarray, text: str) -> dict[str, Any]:
        """
        Args:
            pixels: H x W x 3, uint8 RGB.
            text: caption or expression, before the modifier, or the name of a room.

        Returns:
            The model's output for one image, such as "instances" in its pixels, or "sem_seg",
            K x H x W.
        """
        height, width = pixels.shape[:2]
        image = prepare(pixels, self._cfg)
        inputs = {"image": image, "height": height, "width": width, self.reads: text}
        if self._cfg.TEST.VIEWS.SCALES:
            ordered = convert_PIL_to_numpy(Image.fromarray(pixels), self._cfg.INPUT.FORMAT)
            inputs["views"] = make_views(ordered, self._cfg)
        with torch.no_grad():
            return self.model([inputs])[0]


def load_model(cfg: CfgNode) -> nn.Module:
    """The model of a config with the weights of its checkpoint, in eval mode.

    Raises:
        UserError: there is no checkpoint, it does not fit the config or was trained on another
            base model, or a part of the base model is missing.
    """
    if not cfg.MODEL.WEIGHTS:
        raise UserError("MODEL.WEIGHTS is empty: it must name the checkpoint of a trained model")
    check_is_there(cfg.MODEL.WEIGHTS)
    model = build_model(cfg).eval()
    RunCheckpointer(model, "", Provenance(cfg, model)).load(cfg.MODEL.WEIGHTS)
    return model


def prepare(pixels: np.ndarray, cfg: CfgNode) -> Tensor:
    """An image as an evaluation hands it to the model.

    Args:
        pixels: H x W x 3, uint8 RGB.

    Returns:
        3 x H' x W', uint8, resized and in the channel order of the config.
    """
    image = convert_PIL_to_numpy(Image.fromarray(pixels), cfg.INPUT.FORMAT)
    inputs = T.AugInput(image)
    T.AugmentationList(build_augmentations(cfg, is_train=False))(inputs)
    return torch.as_tensor(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
