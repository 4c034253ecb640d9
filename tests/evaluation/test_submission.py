"""What Dark Zurich's benchmark server takes."""

import numpy as np
import pytest
import torch
from PIL import Image

from tadp_d2.errors import UserError
from tadp_d2.evaluation.submission import SubmissionWriter


def test_three_folders_of_maps_named_as_the_image(tmp_path):
    probabilities = torch.tensor([[[0.7, 0.2]], [[0.2, 0.5]], [[0.1, 0.3]]])
    file = "/x/night/GOPR0356/GOPR0356_frame_000375_rgb_anon.png"
    writer = SubmissionWriter(tmp_path / "out", [file])
    writer.reset()
    inputs = [{"file_name": file}]
    writer.process(inputs, [{"sem_seg": probabilities.log() + 3}])
    assert writer.evaluate() is None
    maps = {
        folder: Image.open(tmp_path / "out" / folder / "GOPR0356_frame_000375_rgb_anon.png")
        for folder in ("labelTrainIds", "labelTrainIds_invalid", "confidence")
    }
    assert len(list((tmp_path / "out").rglob("*.png"))) == 3
    for folder in ("labelTrainIds", "labelTrainIds_invalid"):
        assert maps[folder].mode == "L"
        assert np.array_equal(maps[folder], [[0, 1]])
    assert maps["confidence"].mode.startswith("I;16")
    np.testing.assert_allclose(maps["confidence"], [[0.7 * 65535, 0.5 * 65535]], atol=1)


def test_images_of_one_name_would_overwrite_each_other(tmp_path):
    with pytest.raises(UserError, match="b/one.png and a/one.jpg: the benchmark server takes one"):
        SubmissionWriter(tmp_path, ["a/one.jpg", "b/two.png", "b/one.png"])
