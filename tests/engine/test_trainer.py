"""What the trainer asks of the model before it begins."""

import pytest

from tadp_d2.engine.trainer import Trainer
from tadp_d2.errors import UserError


def test_a_model_that_draws_no_training_images_is_not_asked_to(
    make_config, make_segmentation_config
):
    Trainer(make_config("VIS_PERIOD", 5))
    with pytest.raises(UserError, match="VIS_PERIOD is 5, .* CaptionedSegmentor does not draw"):
        Trainer(make_segmentation_config("VIS_PERIOD", 5))
