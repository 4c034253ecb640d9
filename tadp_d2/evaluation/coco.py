"""COCO's detection metrics, on request, by Detectron2's evaluator and pycocotools."""

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from tadp_d2.data.catalog import read_known


class NamedCOCOEvaluator(COCOEvaluator):
    """`COCOEvaluator` without compiled code; "coco" are results of boxes, "coco_masks" of masks.

    COCO's means are over the classes that occur in the ground truth; difficult objects count as
    any other. A model that finds nothing has 0 where COCO has a value.
    """

    def __init__(self, dataset: str, output_dir: str, masks: bool = False):
        converted = not MetadataCatalog.get(dataset).get("json_file")
        # Detectron2 converts the annotations once per folder; those of an earlier run may be stale.
        if comm.is_main_process() and converted:
            Path(output_dir, f"{dataset}_coco_format.json").unlink(missing_ok=True)
        comm.synchronize()
        with contextlib.ExitStack() as stack:
            if converted:
                stack.enter_context(strictly_read(dataset, read_known(dataset)))
            super().__init__(
                dataset,
                tasks=("bbox", "segm") if masks else ("bbox",),
                output_dir=output_dir,
                use_fast_impl=False,
            )

    def reset(self) -> None:
        super().reset()
        self._first: list[dict] = []
        self._found = False

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        super().process(inputs, outputs)
        self._first = self._first or inputs[:1]
        self._found |= any(len(output["instances"]) > 0 for output in outputs)

    def evaluate(self) -> OrderedDict | None:
        # Detectron2 gives NaN where nothing was found; it computes the zeros from a box of no size,
        # which no object matches.
        if not any(comm.all_gather(self._found)):
            super().process(self._first, [{"instances": _miss()} for _ in self._first])
        results = super().evaluate()
        if results is None:
            return None
        names = {"bbox": "coco", "segm": "coco_masks"}
        return OrderedDict((names[task], results.get(task, {})) for task in self._tasks)


@contextlib.contextmanager
def strictly_read(dataset: str, entries: list[dict]) -> Iterator[None]:
    """Detectron2's catalog returns these entries, such as those of `read_known`.

    Detectron2's reader of VOC fails where ours does not: on a split of one image, below "~".
    """
    original = DatasetCatalog[dataset]
    DatasetCatalog[dataset] = lambda: entries
    try:
        yield
    finally:
        DatasetCatalog[dataset] = original


def _miss() -> Instances:
    return Instances(
        (1, 1),
        pred_boxes=Boxes(torch.zeros(1, 4)),
        scores=torch.zeros(1),
        pred_classes=torch.zeros(1, dtype=torch.long),
    )
