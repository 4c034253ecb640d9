"""The 171 classes of COCO-Stuff164k, and the values of its label maps as they are published.

A published map has 0 to 181, the category of COCO less 1, and 255 where there is none. Eleven
categories do not occur, such as that of street signs. A mapped one counts the others in their
order.
"""

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

# Categories 92 to 182. Detectron2 has COCO's panoptic stuff only, which joins some of them.
_STUFF = (
    *("banner", "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage"),
    *("cardboard", "carpet", "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds"),
    *("counter", "cupboard", "curtain", "desk-stuff", "dirt", "door-stuff", "fence"),
    *("floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood", "flower", "fog"),
    *("food-other", "fruit", "furniture-other", "grass", "gravel", "ground-other", "hill"),
    *("house", "leaves", "light", "mat", "metal", "mirror-stuff", "moss", "mountain", "mud"),
    *("napkin", "net", "paper", "pavement", "pillow", "plant-other", "plastic", "platform"),
    *("playingfield", "railing", "railroad", "river", "road", "rock", "roof", "rug", "salad"),
    *("sand", "sea", "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs"),
    *("stone", "straw", "structural-other", "table", "tent", "textile-other", "towel", "tree"),
    *("vegetable", "wall-brick", "wall-concrete", "wall-other", "wall-panel", "wall-stone"),
    *("wall-tile", "wall-wood", "water-other", "waterdrops", "window-blind", "window-other"),
    "wood",
)
_THINGS = {row["id"]: row["name"] for row in COCO_CATEGORIES if row["isthing"]}
_BY_CATEGORY = _THINGS | dict(enumerate(_STUFF, start=92))
# Pixels of this value are neither trained nor scored, in published and mapped maps.
IGNORE_LABEL = 255
CLASSES = tuple(_BY_CATEGORY.values())
# Published value -> index of the class.
INDICES = {category - 1: index for index, category in enumerate(_BY_CATEGORY)}
