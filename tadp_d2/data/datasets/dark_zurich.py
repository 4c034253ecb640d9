"""Dark Zurich by night, with the classes of Cityscapes.

Importing this module registers `dark_zurich_train`, `dark_zurich_val` and `dark_zurich_test`. Train
and test have no labels here; those of its test are behind a server.
"""

from tadp_d2.data.datasets.cityscapes import register_street_scenes
from tadp_d2.data.readers.label_maps import Folders
from tadp_d2.data.root import datasets_root

_ROOT = datasets_root() / "dark_zurich"

for _split in ("train", "val", "test"):
    register_street_scenes(
        f"dark_zurich_{_split}",
        Folders(
            images=_ROOT / "rgb_anon" / _split,
            nesting="night/*",
            image_suffix="_rgb_anon.png",
            labels=_ROOT / "gt" / _split if _split == "val" else None,
            label_suffix="_gt_labelTrainIds.png",
        ),
    )
