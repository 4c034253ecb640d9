"""Rooms by night and as watercolors, targets without labels for training.

Registers `rooms_night_test` and `rooms_watercolor_test`. `tadp-d2 synth` draws them; no sets of
these names are published. Images of one's own may lie there, `$DETECTRON2_DATASETS/rooms_night/
test/<room>/rgb_*.jpg` beside `sync_depth_*.png`.
"""

from tadp_d2.data.datasets.nyu_depth_v2 import register_rooms
from tadp_d2.data.readers.depth_maps import SceneFolders
from tadp_d2.data.root import datasets_root

for _name in ("rooms_night", "rooms_watercolor"):
    register_rooms(f"{_name}_test", SceneFolders(datasets_root() / _name / "test"))
