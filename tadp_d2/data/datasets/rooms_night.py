"""Rooms by night, a target without labels for training: registers `rooms_night_test`.

`tadp-d2 synth` draws them. No set of this name is published; images of one's own may lie there,
`$DETECTRON2_DATASETS/rooms_night/test/<room>/rgb_*.jpg` beside `sync_depth_*.png`.
"""

from tadp_d2.data.datasets.nyu_depth_v2 import register_rooms
from tadp_d2.data.readers.depth_maps import SceneFolders
from tadp_d2.data.root import datasets_root

register_rooms("rooms_night_test", SceneFolders(datasets_root() / "rooms_night" / "test"))
