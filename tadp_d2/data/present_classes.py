"""Which classes an image shows by its annotation, and an oracle that names them, with errors."""

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tadp_d2.data.images import count_labels
from tadp_d2.errors import UserError

# Of the rest of an image: neither an oracle's error nor a thing to tag.
BACKGROUND = "background"


@dataclass(frozen=True)
class PresentClasses:
    """The classes that an image shows: of its whole annotation, never of a crop.

    Attributes:
        vocabulary: the names of all classes of its data set, in class order.
        categories: class indices that are present; None where they stand in `label_map`.
        label_map: the file with the class of every pixel, if it has one.
        ignore_label: the value of a label map that stands for no class.
    """

    vocabulary: tuple[str, ...] = ()
    categories: frozenset[int] | None = None
    label_map: str | Path | None = None
    ignore_label: int = 255

    @classmethod
    def of_entry(
        cls, entry: Mapping[str, Any], vocabulary: tuple[str, ...], ignore_label: int
    ) -> "PresentClasses":
        """Those of a Detectron2 dict, by its boxes, its segments, or its label map, which is not
        read now."""
        label_map = entry.get("sem_seg_file_name")
        described = entry.get("annotations", entry.get("segments_info"))
        categories = (
            None if described is None else frozenset(row["category_id"] for row in described)
        )
        return cls(vocabulary, categories, label_map or None, ignore_label)

    def read(self) -> "PresentClasses":
        """The same with its categories.

        Raises:
            UserError: there is no annotation, or a label map is damaged.
        """
        if self.categories is not None:
            return self
        return replace(self, categories=frozenset(self._classes_of_pixels()), label_map=None)

    def names(self) -> list[str]:
        """The names of the classes, in class order.

        Raises:
            UserError: as `read`.
        """
        present = self.read().categories
        return [name for index, name in enumerate(self.vocabulary) if index in present]

    def _classes_of_pixels(self) -> set[int]:
        if self.label_map is None:
            raise UserError("has no annotation, so its classes are not known")
        present = {*count_labels(self.label_map).nonzero()[0].tolist()} - {self.ignore_label}
        unknown = sorted(value for value in present if value >= len(self.vocabulary))
        if unknown:
            raise UserError(
                f"{self.label_map}: has the value {unknown[0]}; expected class indices below "
                f"{len(self.vocabulary)}, or {self.ignore_label}"
            )
        return present


def name_classes(
    present: Collection[str],
    vocabulary: Sequence[str],
    image_id: str,
    precision: float = 1.0,
    recall: float = 1.0,
    seed: int = 0,
) -> list[str]:
    """The oracle: names of the classes that an image shows, in class order (TADP, equation 5).

    With `precision` and `recall` below 1 it errs (TADP, table S2): every name is left out with
    probability 1 - recall, and to k names that are left, names of absent classes are added, in
    the mean k (1 - precision) / precision of them. Both then hold in expectation over images,
    precision in every image that keeps a name, unless there are fewer absent classes than that.
    The paper adds and removes classes at random and specifies no more. "background" is never left
    out and never added, as in the released code.

    An image's names depend on its id and the seed alone, and of two recalls the lower keeps a
    part of what the higher keeps.

    Args:
        present: names of classes of `vocabulary`.
        precision, recall: above 0, at most 1.
    """
    # A random.Random that is given a text, and its random(), stay the same in all Pythons.
    rng = random.Random(f"{seed} {image_id}")
    chance = {name: rng.random() for name in vocabulary}
    kept = {name for name in present if chance[name] < recall and name != BACKGROUND}
    absent = set(vocabulary) - set(present) - {BACKGROUND}
    mean = len(kept) * (1 - precision) / precision
    number = math.floor(mean + rng.random())
    added = sorted(absent, key=lambda name: chance[name])[:number]
    told = {*kept, *added, *({BACKGROUND} & set(present))}
    return [name for name in vocabulary if name in told]
