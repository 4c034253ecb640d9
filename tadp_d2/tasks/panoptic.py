"""Panoptic segmentation: things with masks, and stuff.

Predictions are scored by panoptic quality, as instances and as class maps.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.transforms import TransformList
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BitMasks, Instances
from PIL import Image

from tadp_d2.config.keys import KEYS
from tadp_d2.data.images import read_size
from tadp_d2.data.readers.coco_panoptic import PanopticImage, read_panoptic
from tadp_d2.data.readers.panoptic_sets import read_segments
from tadp_d2.errors import UserError
from tadp_d2.evaluation.coco import NamedCOCOEvaluator
from tadp_d2.evaluation.panoptic_parts import ClassMapEvaluator, ThingEvaluator
from tadp_d2.evaluation.panoptic_quality import PanopticQualityEvaluator
from tadp_d2.evaluation.sem_seg import NamedSemSegEvaluator
from tadp_d2.files import replacing
from tadp_d2.tasks.metrics import COCO, COCO_MASKS, PANOPTIC, SEM_SEG
from tadp_d2.tasks.task import TASK_REGISTRY, Task, class_names
from tadp_d2.visualization.segments import draw_panoptic

# Those whose things and stuff share one range of class indices.
_ONE_RANGE = frozenset({"Mask2Former"})


@TASK_REGISTRY.register()
class Panoptic(Task):
    """Images -> "panoptic_seg", a map of segment ids with what each is, "instances", "sem_seg"."""

    name = "panoptic"
    architectures: ClassVar[frozenset[str]] = frozenset({"PanopticFPN", *_ONE_RANGE})
    needs = "panoptic"
    metric_sets = (PANOPTIC, COCO_MASKS, COCO, SEM_SEG)
    own_keys: ClassVar[frozenset[str]] = frozenset(
        key for key in KEYS if key.startswith("MODEL.MASK_FORMER.")
    )

    @property
    def _has_one_range(self) -> bool:
        return self.cfg.MODEL.META_ARCHITECTURE.removeprefix("Conditioned") in _ONE_RANGE

    @property
    def _things_and_stuff(self) -> tuple[list[str], list[str]]:
        """Names of the model's classes; with one range both are all of them."""
        source = self.cfg.DATASETS.TRAIN[0]
        return class_names(source, "thing"), class_names(source, "stuff")

    def classes(self) -> list[str]:
        """One range; or things, then stuff, whose class 0 stands for all things (Detectron2)."""
        things, stuff = self._things_and_stuff
        return things if self._has_one_range else [*things, *stuff[1:]]

    def check_config(self) -> None:
        for key in ("SUBMISSION", "COCO_METRICS"):
            if self.cfg.TEST[key]:
                raise UserError(f"TEST.{key} is True: expected False for panoptic segmentation")
        if self._has_one_range:
            return
        for key in sorted(self.own_keys):
            value = self.cfg.MODEL.MASK_FORMER[key.rpartition(".")[2]]
            if value != KEYS[key].default:
                raise UserError(
                    f"{key} is {value}: it is for Mask2Former, not for "
                    f"{self.cfg.MODEL.META_ARCHITECTURE}"
                )

    def check_dataset(self, dataset: str, training: bool) -> None:
        super().check_dataset(dataset, training)
        things, stuff = (class_names(dataset, kind) for kind in ("thing", "stuff"))
        if (things == stuff) != self._has_one_range:
            advice = "does not end" if self._has_one_range else "ends"
            raise UserError(
                f"data set {dataset!r} has its things and stuff in "
                f"{'one range' if things == stuff else 'two ranges'} of classes, and "
                f"{self.cfg.MODEL.META_ARCHITECTURE} needs the other kind: use the data set whose "
                f"name {advice} in _separated"
            )
        heads = (
            {"MASK_FORMER": things}
            if things == stuff
            else {"ROI_HEADS": things, "SEM_SEG_HEAD": stuff}
        )
        for head, names in heads.items():
            built = self.cfg.MODEL[head].NUM_CLASSES
            if built != len(names):
                raise UserError(
                    f"MODEL.{head}.NUM_CLASSES is {built}, but {dataset!r} has {len(names)} "
                    "such classes"
                )

    def add_truth(
        self, entry: Mapping[str, Any], transforms: TransformList, image_size: tuple[int, int]
    ) -> dict[str, Any]:
        """For one range of classes "segments", those that are no crowds, with masks and classes."""
        if not self._has_one_range:
            return {}
        ids, described = read_segments(entry)
        width, height = read_size(entry["file_name"])
        if ids.shape != (height, width):
            raise UserError(
                f"{entry['pan_seg_file_name']}: {ids.shape[1]} x {ids.shape[0]} pixels, but "
                f"{entry['file_name']} has {width} x {height}; take both from the same archive"
            )
        kept = [row for row in described if not row.get("iscrowd", 0)]
        numbers = np.zeros(ids.shape, np.int64)
        for number, row in enumerate(kept, start=1):
            numbers[ids == row["id"]] = number
        # Detectron2 resizes 8-bit values only. The third separates the image from its padding.
        packed = np.stack([numbers % 256, numbers // 256, np.full_like(numbers, 1)], axis=-1)
        moved = transforms.apply_segmentation(packed.astype(np.uint8)).astype(np.int64)
        numbers = np.where(moved[..., 2] == 1, moved[..., 0] + 256 * moved[..., 1], 0)
        seen = np.unique(numbers[numbers > 0])
        segments = Instances(image_size)
        segments.gt_classes = torch.tensor(
            [kept[number - 1]["category_id"] for number in seen], dtype=torch.int64
        )
        segments.gt_masks = BitMasks(torch.from_numpy(numbers[None] == seen[:, None, None]))
        return {"segments": segments}

    def select_for_training(
        self, dataset: str, entries: Sequence[dict[str, Any]]
    ) -> Sequence[dict[str, Any]]:
        if self._has_one_range:
            return entries
        found = [e for e in entries if "sem_seg_file_name" in e and "annotations" in e]
        if len(found) < len(entries):
            raise UserError(
                f"data set {dataset!r}: {len(entries) - len(found)} images have no label map or no "
                "masks of things; use the data set whose name ends in _separated"
            )
        return found

    def evaluators(self, dataset: str) -> list[DatasetEvaluator]:
        things, stuff = self._things_and_stuff
        quality = PanopticQualityEvaluator(dataset, things, stuff)
        if self._has_one_range:
            return [
                quality,
                ThingEvaluator(dataset, self.cfg.OUTPUT_DIR),
                ClassMapEvaluator(dataset, stuff),
            ]
        return [
            quality,
            NamedCOCOEvaluator(dataset, self.cfg.OUTPUT_DIR, masks=True),
            NamedSemSegEvaluator(dataset, stuff),
        ]

    def draw_truth(
        self, dataset: str, pixels: np.ndarray, entry: Mapping[str, Any]
    ) -> Image.Image | None:
        truth = _read_truth(dataset).get(str(entry["image_id"]))
        if truth is None:
            return None
        meta = MetadataCatalog.get(dataset)
        things = meta.thing_dataset_id_to_contiguous_id
        described = [
            {
                "id": id_,
                "isthing": segment.category in things,
                "category_id": (
                    things if segment.category in things else meta.stuff_dataset_id_to_contiguous_id
                )[segment.category],
            }
            for id_, segment in truth.segments.items()
        ]
        return draw_panoptic(pixels, torch.from_numpy(truth.read_ids()), described, meta)

    def draw_prediction(
        self, dataset: str, pixels: np.ndarray, output: Mapping[str, Any]
    ) -> Image.Image:
        segments, described = output["panoptic_seg"]
        metadata = MetadataCatalog.get(self.cfg.DATASETS.TRAIN[0])
        return draw_panoptic(pixels, segments.cpu(), described, metadata)

    def write(self, output: Mapping[str, Any], file: Path) -> dict[str, Any]:
        """`<name>.png` holds the segment's id of every pixel: R + 256 G + 65536 B (COCO)."""
        segments, described = output["panoptic_seg"]
        things, stuff = self._things_and_stuff
        ids = segments.cpu().numpy().astype(np.uint32)
        png = file.with_suffix(".png")
        with replacing(png) as temporary:
            colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1)
            Image.fromarray(colors.astype(np.uint8)).save(temporary, format="PNG")
        meta = MetadataCatalog.get(self.cfg.DATASETS.TRAIN[0])
        category_ids = {
            is_thing: {place: id_ for id_, place in ids_of_kind.items()}
            for is_thing, ids_of_kind in (
                (True, meta.thing_dataset_id_to_contiguous_id),
                (False, meta.stuff_dataset_id_to_contiguous_id),
            )
        }
        found = [
            {
                "id": segment["id"],
                "category_id": category_ids[bool(segment["isthing"])][segment["category_id"]],
                "class": (things if segment["isthing"] else stuff)[segment["category_id"]],
                "thing": bool(segment["isthing"]),
                "area": int((ids == segment["id"]).sum()),
                **({"score": float(segment["score"])} if "score" in segment else {}),
            }
            for segment in described
        ]
        return {"segments": png.name, "segments_info": found}

    def summary(self, output: Mapping[str, Any]) -> dict[str, str]:
        """The areas of each class's segments."""
        segments, described = output["panoptic_seg"]
        things, stuff = self._things_and_stuff
        found: dict[str, list[str]] = {}
        for segment in described:
            name = (things if segment["isthing"] else stuff)[segment["category_id"]]
            share = (segments == segment["id"]).float().mean().item()
            found.setdefault(name, []).append(f"{100 * share:.1f}%")
        return {name: f"{', '.join(shares)} of the area" for name, shares in found.items()}


@functools.lru_cache(maxsize=4)
def _read_truth(dataset: str) -> dict[str, PanopticImage]:
    """Of a registered data set, by image id."""
    meta = MetadataCatalog.get(dataset)
    return read_panoptic(Path(meta.panoptic_json), Path(meta.panoptic_root))[1]
