"""Metrics of depth: the golden file, the evaluator, its errors."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from PIL import Image
from safetensors import safe_open

from tadp_d2.errors import UserError
from tadp_d2.evaluation.depth_metrics import CROPS, DepthEvaluator, compare_depth, valid_pixels
from tadp_d2.modeling.windows import predict_in_windows

FOLDER = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parents[1] / "golden")
# Of the file's names, ours.
NAMES = {"abs_rel": "AbsRel", "sq_rel": "SqRel", "rmse": "RMSE", "rmse_log": "RMSElog"}
NAMES |= {"silog": "SILog"}
LIMITS = {"nyu_80": (0.5, 8.0)}
CROP_OF = {"nyu": "eigen", "nyu_80": "eigen", "nocrop": "none"}


@pytest.fixture(scope="module")
def golden():
    """What VPD's evaluation of depth returned."""
    with safe_open(FOLDER / "depth_evaluation.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, file.metadata()


def cases(tensors):
    return [key.split(".")[1] for key in tensors if key.endswith(".count")]


def score(golden, case, mirrored=False):
    """Our metrics of a case, in the file's order, and the number of pixels."""
    tensors, metadata = golden
    limits = LIMITS.get(case, (float(metadata["min_depth_eval"]), 10.0))
    truth = tensors["metrics.gt_mm"].numpy().astype(np.float32) / 1000
    # What is not finite the released script replaces; here it is an error.
    depth = torch.nan_to_num(tensors["metrics.pred"].float(), limits[0], limits[1], limits[1])
    depth = depth.numpy()
    if mirrored:
        depth, truth = depth[:, ::-1], truth.copy()
        truth[:, 320:] = 0
    valid = valid_pixels(truth, *limits, CROP_OF.get(case, case))
    found = compare_depth(depth[valid], truth[valid])
    order = json.loads(metadata["metric_names"])
    return [found[NAMES.get(name, name)] for name in order], valid.sum()


def test_agrees_with_the_released_evaluation(golden):
    tensors, _ = golden
    assert cases(tensors)
    for case in cases(tensors):
        found, count = score(golden, case)
        assert count == tensors[f"metrics.{case}.count"].item()
        np.testing.assert_allclose(found, tensors[f"metrics.{case}"], rtol=1e-5)


def test_the_mean_is_over_images(golden):
    both = [score(golden, "nyu")[0], score(golden, "nyu", mirrored=True)[0]]
    expected = golden[0]["metrics.mean_of_two"]
    np.testing.assert_allclose(np.mean(both, axis=0), expected, rtol=1e-5)


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_windows_and_mirroring_agree_with_the_released_ones(golden, case):
    tensors, metadata = golden
    options = json.loads(metadata[f"windows_{case}"])
    inputs, outputs = (tensors[f"windows.{case}.model_{way}"] for way in ("in", "out"))
    image = tensors[f"windows.{case}.image"][0]
    side, width = image.shape[1:]

    def predict(crops):
        """What the file has for each window, looked up by its pixels."""
        found = [next(i for i, known in enumerate(inputs) if known.equal(c)) for c in crops]
        return torch.stack([outputs[i, 0] for i in found])

    def mean(windows):
        crops = [crop for _, crop in windows]
        plain = predict(crops)
        if options["flip"]:
            plain = (plain + predict([crop.flip(-1) for crop in crops]).flip(-1)) / 2
        return [{"depth": depth} for depth in plain]

    stride = (width - side) // (options["shift_size"] - 1)
    (found,) = predict_in_windows(mean, [image], side, stride, batch=3)
    torch.testing.assert_close(
        found["depth"], tensors[f"windows.{case}.averaged"], rtol=2e-6, atol=2e-6
    )


def test_crops_of_other_sizes_are_the_same_shares():
    rows, columns = CROPS["eigen"](480, 640)
    assert (rows, columns) == (slice(45, 471), slice(41, 601))
    rows, columns = CROPS["eigen"](240, 320)
    assert (rows, columns) == (slice(22, 235), slice(20, 300))


@pytest.fixture
def evaluator(monkeypatch):
    meta = MetadataCatalog.get("depth_for_tests")
    meta.set(depth_range=(1e-3, 10.0), depth_crop="none")
    yield DepthEvaluator("depth_for_tests")
    MetadataCatalog.remove("depth_for_tests")


def image(folder, name, values):
    path = folder / f"{name}.png"
    Image.fromarray(np.asarray(values, np.uint16)).save(path)
    return {
        "file_name": f"{name}.jpg",
        "image_id": name,
        "depth_file_name": str(path),
        "depth_unit": 0.001,
    }


def output(values):
    return {"depth": torch.tensor(values, dtype=torch.float32)}


def test_images_count_alike_and_once(evaluator, tmp_path, monkeypatch):
    many = image(tmp_path, "many", [[1000, 1000], [1000, 0]])
    few = image(tmp_path, "few", [[0, 0], [0, 4000]])
    holes = image(tmp_path, "holes", [[0, 0], [0, 20000]])
    evaluator.process([many, few], [output([[2.0, 2], [2, 9]]), output([[1.0, 1], [1, 4]])])
    # A sampler that fills the last round repeats an image, here and in another process.
    evaluator.process([many, holes], [output([[2.0, 2], [2, 9]]), output([[1.0, 1], [1, 4]])])
    monkeypatch.setattr(comm, "gather", lambda own: [own, {"many": own["many"]}])
    found = evaluator.evaluate()["depth"]
    assert found["RMSE"] == pytest.approx((1 + 0) / 2)
    assert found["d1"] == 0.5
    assert found["AbsRel"] == pytest.approx(0.5)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 0.0, -1.0])
def test_a_depth_that_is_none_names_the_image(evaluator, tmp_path, wrong):
    inputs = image(tmp_path, "bedroom", [[1000, 0]])
    with pytest.raises(UserError, match=r"bedroom\.jpg.*no positive number in 1 pixels"):
        evaluator.process([inputs], [output([[1.0, wrong]])])


def test_nothing_to_measure_is_an_error(evaluator, tmp_path):
    evaluator.process([image(tmp_path, "far", [[20000]])], [output([[1.0]])])
    with pytest.raises(UserError, match=r"no image has a pixel that counts.*10\.0 m"):
        evaluator.evaluate()
