"""COCO 2017 and Cityscapes' panoptic sets, which Detectron2 registers: where their annotations are.

Importing this module makes them known here; `catalog` reads them.
"""

from pathlib import Path

from detectron2.data import MetadataCatalog

for _split in ("train", "val"):
    for _name, _file in (
        (f"coco_2017_{_split}", "json_file"),
        (f"coco_2017_{_split}_panoptic", "panoptic_json"),
        (f"coco_2017_{_split}_panoptic_separated", "panoptic_json"),
        (f"cityscapes_fine_panoptic_{_split}", "panoptic_json"),
    ):
        _metadata = MetadataCatalog.get(_name)
        _metadata.set(location=Path(_metadata.get(_file)))
