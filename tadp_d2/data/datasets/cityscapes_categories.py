"""The 19 classes of Cityscapes that are trained and scored, as its own scripts define them."""

from cityscapesscripts.helpers.labels import labels

_EVALUATED = [label for label in labels if not label.ignoreInEval]
_EVALUATED.sort(key=lambda label: label.trainId)
# In the order of their train ids, and their colors (RGB).
CLASSES = tuple(label.name for label in _EVALUATED)
COLORS = tuple(label.color for label in _EVALUATED)
IDS = {name: number for number, name in enumerate(CLASSES)}
# Pixels of this value are neither trained nor scored.
IGNORE_LABEL = 255
