"""Mask2Former as a Detectron2 meta-architecture: panoptic, instance and semantic segmentation."""

from collections.abc import Set
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from tadp_d2.errors import UserError
from tadp_d2.modeling.heads.mask2former_head import Mask2FormerHead, Targets


@META_ARCH_REGISTRY.register()
class Mask2Former(nn.Module):
    """Image -> backbone -> `Mask2FormerHead` -> segments, instances and classes of pixels.

    Things and stuff share one range of class indices.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: Mask2FormerHead,
        things: Set[int],
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        object_score: float = 0.8,
        overlap: float = 0.8,
        instances: int = 100,
    ):
        """
        Args:
            things: class indices of things; the others are stuff.
            pixel_mean, pixel_std: of each channel.
            object_score, overlap: as `panoptic_segments`.
            instances: the most that are returned of an image.
        """
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.things = frozenset(things)
        self.object_score = object_score
        self.overlap = overlap
        self.instances = instances
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        dataset = cfg.DATASETS.TRAIN[0]
        ids = MetadataCatalog.get(dataset).get("thing_dataset_id_to_contiguous_id")
        if ids is None:
            raise UserError(
                f"data set {dataset!r} does not tell which of its classes are things; its "
                "annotations are absent, or it is no panoptic data set"
            )
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "head": Mask2FormerHead(cfg, backbone.output_shape()),
            "things": frozenset(ids.values()),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "object_score": cfg.MODEL.MASK_FORMER.OBJECT_SCORE,
            "overlap": cfg.MODEL.MASK_FORMER.OVERLAP,
            "instances": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: dicts with "image", C x H x W; in training "segments", an `Instances`
                with gt_classes and gt_masks (`BitMasks`) of things and stuff; in testing "height"
                and "width" of the output, if they differ from the image's.

        Returns:
            In training the losses. In testing a dict for each image, at the size of the output:
            "panoptic_seg", the map of segment ids and what each is; "instances", with pred_classes,
            pred_masks, pred_boxes and scores, best first; "sem_seg", K x H x W, scores of the
            classes.
        """
        images = [inputs["image"].to(self.device) for inputs in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        batch = ImageList.from_tensors(images, self.backbone.size_divisibility)
        queries = self.head(self.backbone(batch.tensor))
        padded = tuple(batch.tensor.shape[-2:])
        if self.training:
            segments = [inputs["segments"].to(self.device) for inputs in batched_inputs]
            return self.head.losses(queries, [_padded(own, padded) for own in segments])
        last = queries[-1]
        return [
            self._find(*own, padded, size, inputs)
            for *own, size, inputs in zip(
                last.classes, last.masks, batch.image_sizes, batched_inputs, strict=True
            )
        ]

    def _find(
        self,
        classes: Tensor,
        masks: Tensor,
        padded: tuple[int, int],
        size: tuple[int, int],
        inputs: dict[str, Any],
    ) -> dict[str, Any]:
        """
        Args:
            classes: Q x (K + 1), logits.
            masks: Q x h x w, logits for the padded image.
            padded, size: height and width of the image with and without its padding.
        """
        height, width = inputs.get("height", size[0]), inputs.get("width", size[1])
        large = F.interpolate(masks[None], padded, mode="bilinear", align_corners=False)[0]
        masks = sem_seg_postprocess(large, size, height, width)
        return {
            "panoptic_seg": panoptic_segments(
                classes, masks, self.things, self.object_score, self.overlap
            ),
            "instances": best_instances(classes, masks, self.things, self.instances),
            "sem_seg": class_scores(classes, masks),
        }


def _padded(segments: Instances, size: tuple[int, int]) -> Targets:
    masks = segments.gt_masks.tensor
    height, width = masks.shape[-2:]
    return Targets(segments.gt_classes, F.pad(masks, (0, size[1] - width, 0, size[0] - height)))


def class_scores(classes: Tensor, masks: Tensor) -> Tensor:
    """The sum over the queries of a class' probability times that of the mask (section 3.4).

    Args:
        classes: Q x (K + 1), logits.
        masks: Q x H x W, logits.

    Returns:
        K x H x W.
    """
    probabilities = classes.softmax(dim=-1)[:, :-1]
    return torch.einsum("qk,qhw->khw", probabilities, masks.sigmoid())


def panoptic_segments(
    classes: Tensor, masks: Tensor, things: Set[int], object_score: float, overlap: float
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Each pixel goes to the query that is surest of it, if enough of its mask does.

    As Mask2Former's released code. Segments of a class of stuff are one.

    Args:
        classes: Q x (K + 1), logits.
        masks: Q x H x W, logits.
        things: class indices of things.
        object_score: least probability of a query's class.
        overlap: least share of the pixels within a mask that go to its query.

    Returns:
        H x W int32, segment ids, 0 for none; and for each id "id", "isthing", "category_id", which
        is the class index, and "score", for stuff that of its first query.
    """
    scores, labels = classes.softmax(dim=-1).max(dim=-1)
    kept = (labels != classes.shape[-1] - 1) & (scores > object_score)
    scores, labels, probabilities = scores[kept], labels[kept], masks[kept].sigmoid()
    ids = torch.zeros(masks.shape[-2:], dtype=torch.int32, device=masks.device)
    described: list[dict[str, Any]] = []
    if not len(scores):
        return ids, described
    surest = (scores[:, None, None] * probabilities).argmax(dim=0)
    of_stuff: dict[int, int] = {}
    for query, (label, score) in enumerate(zip(labels.tolist(), scores.tolist(), strict=True)):
        within = probabilities[query] >= 0.5
        own = within & (surest == query)
        if not own.any() or (surest == query).sum() < overlap * within.sum():
            continue
        is_thing = label in things
        if label in of_stuff:
            ids[own] = of_stuff[label]
            continue
        id_ = len(described) + 1
        ids[own] = id_
        if not is_thing:
            of_stuff[label] = id_
        described.append({"id": id_, "isthing": is_thing, "category_id": label, "score": score})
    return ids, described


def best_instances(classes: Tensor, masks: Tensor, things: Set[int], most: int) -> Instances:
    """Pairs of a query and a thing's class, by the class' probability times how sure the mask is.

    As Mask2Former's released code: a query can stand for several classes. An empty mask is none.

    Args:
        classes: Q x (K + 1), logits.
        masks: Q x H x W, logits.
        things: class indices of things.
        most: pairs of which things are taken.
    """
    number = classes.shape[-1] - 1
    probabilities = classes.softmax(dim=-1)[:, :-1].flatten()
    scores, places = probabilities.topk(min(most, len(probabilities)))
    labels = places % number
    is_thing = torch.tensor([label in things for label in labels.tolist()], device=masks.device)
    scores, labels, queries = (part[is_thing] for part in (scores, labels, places // number))
    logits = masks[queries]
    inside = logits > 0
    areas = inside.flatten(1).sum(dim=1)
    sure = (logits.sigmoid() * inside).flatten(1).sum(dim=1) / areas.clamp(min=1)
    found = Instances(tuple(masks.shape[-2:]))
    found.pred_masks = inside
    found.pred_boxes = Boxes(BitMasks(inside).get_bounding_boxes().tensor.to(masks.device))
    found.pred_classes = labels
    found.scores = scores * sure
    found = found[areas > 0]
    return found[found.scores.argsort(descending=True)]
