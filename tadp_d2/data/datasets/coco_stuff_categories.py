"""The 171 classes of COCO-Stuff164k, and the values of its label maps as they are published.

A published map has 0 to 181, the category of COCO less 1, and 255 where there is none. Eleven
categories do not occur, such as that of street signs. A mapped one counts the others in their
order.
"""

# Categories 1 to 91, of COCO.
_THINGS = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "street sign", "stop sign", "parking meter", "bench"),
    *("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
    *("hat", "backpack", "umbrella", "shoe", "eye glasses", "handbag", "tie", "suitcase"),
    *("frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove"),
    *("skateboard", "surfboard", "tennis racket", "bottle", "plate", "wine glass", "cup", "fork"),
    *("knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot"),
    *("hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "mirror"),
    *("dining table", "window", "desk", "toilet", "door", "tv", "laptop", "mouse", "remote"),
    *("keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator"),
    *("blender", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
    "hair brush",
)
# Categories 92 to 182. COCO's panoptic format joins some of them.
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
# Those that no pixel has.
_ABSENT = (
    *("street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "window", "desk", "door"),
    *("blender", "hair brush"),
)
_BY_VALUE = {value: name for value, name in enumerate((*_THINGS, *_STUFF)) if name not in _ABSENT}
# Pixels of this value are neither trained nor scored, in published and mapped maps.
IGNORE_LABEL = 255
CLASSES = tuple(_BY_VALUE.values())
# Published value -> index of the class.
INDICES = {value: index for index, value in enumerate(_BY_VALUE)}
