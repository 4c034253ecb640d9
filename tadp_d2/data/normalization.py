"""How a network of transformers wants its pixels, by the config of its image processor."""

import json
import math
from pathlib import Path

from tadp_d2.errors import UserError, reason

PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")


def read_normalization(folder: Path) -> tuple[list[float], list[float]]:
    """Mean and deviation of red, green and blue of pixels from 0 to 255, by the image processor.

    Raises:
        UserError: its config does not tell.
    """
    path = next(folder / name for name in PREPROCESSORS if (folder / name).is_file())
    try:
        config = json.loads(path.read_text("utf-8"))
        config = config.get("image_processor", config)
        if not (config.get("do_normalize", True) and config.get("do_rescale", True)):
            raise ValueError("do_normalize and do_rescale must be true")
        factor = float(config.get("rescale_factor", 1 / 255))
        values = [[float(v) / factor for v in config[key]] for key in ("image_mean", "image_std")]
        if not all(len(own) == 3 and all(map(math.isfinite, own)) for own in values):
            raise ValueError("image_mean and image_std must be three numbers each")
        if min(values[1]) <= 0:
            raise ValueError("image_std must be above 0")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise UserError(
            f"{path}: does not tell by image_mean, image_std and rescale_factor how images are "
            f"normalized ({reason(error)}); take the file that comes with the weights"
        ) from None
    return values[0], values[1]
