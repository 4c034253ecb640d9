"""What can be drawn of the synthetic data sets: parts, numbers of images, seeds."""

from dataclasses import asdict, dataclass

from tadp_d2.errors import UserError

MAX_SIZE = 5000
# What can be drawn without the others: the data sets of a task.
PARTS = ("detection", "streets", "rooms", "expressions")


@dataclass(frozen=True)
class Sizes:
    """Numbers of images; each field of a subclass is one.

    Raises:
        UserError: a size is not within 2 to 5000.
    """

    def __post_init__(self) -> None:
        for name, size in asdict(self).items():
            if not 2 <= size <= MAX_SIZE:
                raise UserError(f"{name}: expected 2 to {MAX_SIZE} images, got {size}")

    def images(self) -> int:
        """How many images there are in all."""
        return sum(asdict(self).values())


def check_seed(seed: int) -> None:
    """
    Raises:
        UserError: the seed is negative.
    """
    if seed < 0:
        raise UserError(f"seed: expected 0 or more, got {seed}")
