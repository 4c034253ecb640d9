"""NYU Depth V2: rooms with depth, in the layout in which depth estimators use it.

Importing this module registers, below `$DETECTRON2_DATASETS/nyu_depth_v2`:

* `nyu_depth_v2_train`: `sync/`, of it what `train_list.txt` lists; 24 231 images.
* `nyu_depth_v2_test`: `official_splits/test/`; 654 images.
* `nyu_depth_v2_labeled_train`: `official_splits/train/`; 795 images.
"""

from detectron2.data import DatasetCatalog, MetadataCatalog

from tadp_d2.data.datasets.nyu_categories import UNIT
from tadp_d2.data.readers.depth_maps import SceneFolders, load_scenes
from tadp_d2.data.root import datasets_root

_ROOT = datasets_root() / "nyu_depth_v2"
_LIST = "it comes with the depth part of VPD's code"


def register_rooms(name: str, scenes: SceneFolders) -> None:
    """Registers a split that is scored as NYUv2's test is: Eigen's crop, 1 mm to 10 m."""
    DatasetCatalog.register(name, lambda: load_scenes(scenes, name, UNIT))
    MetadataCatalog.get(name).set(
        evaluator_type="depth",
        scenes=scenes,
        location=scenes.listing or scenes.root,
        depth_unit=UNIT,
        depth_range=(1e-3, 10.0),
        depth_crop="eigen",
    )


register_rooms("nyu_depth_v2_train", SceneFolders(_ROOT / "sync", _ROOT / "train_list.txt", _LIST))
register_rooms("nyu_depth_v2_test", SceneFolders(_ROOT / "official_splits" / "test"))
register_rooms("nyu_depth_v2_labeled_train", SceneFolders(_ROOT / "official_splits" / "train"))
