"""COCO's detection metrics, on request, by Detectron2's evaluator and pycocotools."""

from collections import OrderedDict
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm


class NamedCOCOEvaluator(COCOEvaluator):
    """`COCOEvaluator` for boxes, without compiled code, whose results are named "coco".

    COCO's means are over the classes that occur in the ground truth; difficult objects count as
    any other.
    """

    def __init__(self, dataset: str, output_dir: str):
        # Detectron2 converts the annotations once per folder; those of an earlier run may be stale.
        if comm.is_main_process() and not MetadataCatalog.get(dataset).get("json_file"):
            Path(output_dir, f"{dataset}_coco_format.json").unlink(missing_ok=True)
        comm.synchronize()
        super().__init__(dataset, tasks=("bbox",), output_dir=output_dir, use_fast_impl=False)

    def evaluate(self) -> OrderedDict | None:
        results = super().evaluate()
        return None if results is None else OrderedDict(coco=results.get("bbox", {}))
