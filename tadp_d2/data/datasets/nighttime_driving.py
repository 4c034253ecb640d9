"""Nighttime Driving, with the classes of Cityscapes: registers `nighttime_driving_test`."""

from tadp_d2.data.datasets.cityscapes import register_street_scenes
from tadp_d2.data.readers.label_maps import Folders
from tadp_d2.data.root import datasets_root

_ROOT = datasets_root() / "NighttimeDrivingTest"

register_street_scenes(
    "nighttime_driving_test",
    Folders(
        images=_ROOT / "leftImg8bit" / "test",
        nesting="night",
        image_suffix="_leftImg8bit.png",
        labels=_ROOT / "gtCoarse_daytime_trainvaltest" / "test",
        label_suffix="_gtCoarse_labelTrainIds.png",
    ),
)
