"""Testing at several scales, mirrored and in windows: the golden file, and a model's views."""

import json
import os
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import sem_seg_postprocess
from PIL import Image
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

from tadp_d2.data.loader import build_test_loader
from tadp_d2.data.views import make_views
from tadp_d2.errors import UserError
from tadp_d2.evaluation.sem_seg import NamedSemSegEvaluator
from tadp_d2.modeling.scales import InViews
from tadp_d2.modeling.windows import InWindows

FOLDER = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parents[1] / "golden")
GOLDEN = FOLDER / "segmentation_multiscale.safetensors"


@pytest.fixture(scope="module")
def golden():
    with safe_open(GOLDEN, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


class Network(nn.Module):
    """The file's stand-in for a network, with the interface of Detectron2's segmentor."""

    def __init__(self, tensors):
        super().__init__()
        self.weight, self.bias = tensors["model.weight"], tensors["model.bias"]

    def forward(self, batched_inputs):
        outputs = []
        for inputs in batched_inputs:
            image = inputs["image"].float() / 127.5 - 1
            logits = F.conv2d(image[None], self.weight, self.bias, stride=4, padding=2)
            size = tuple(image.shape[1:])
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)[0]
            wanted = inputs.get("height", size[0]), inputs.get("width", size[1])
            outputs.append({"sem_seg": sem_seg_postprocess(logits, size, *wanted)})
        return outputs


class Segmentor(InViews, InWindows, Network):
    pass


@pytest.fixture
def cfg(golden, make_segmentation_config):
    """A config of the file's sizes."""
    metadata = golden[1]
    long, short = json.loads(metadata["img_scale"])
    return make_segmentation_config(
        *("INPUT.RESIZE", "shortest_edge", "INPUT.MIN_SIZE_TEST", short),
        *("INPUT.MAX_SIZE_TEST", long),
        *("TEST.VIEWS.SCALES", tuple(json.loads(metadata["ratios"]))),
    )


def test_views_are_those_of_mmsegmentation(golden, cfg):
    tensors, metadata = golden
    pixels = np.ascontiguousarray(tensors["image"].permute(1, 2, 0).numpy())
    views = make_views(pixels, cfg)
    assert [list(view.shape[1:]) for view in views] == json.loads(metadata["view_sizes"])
    for index, view in enumerate(views):
        assert torch.equal(view, tensors[f"view.{index}"])


@pytest.mark.parametrize("mode", ["slide", "whole"])
@torch.no_grad()
def test_probabilities_of_windows_scales_and_flips(golden, mode):
    tensors, metadata = golden
    size, stride = int(metadata["crop_size"]), int(metadata["stride"])
    windows = {"window_size": size, "window_stride": stride, "window_batch": 4}
    views = [tensors[f"view.{i}"] for i in range(len(json.loads(metadata["ratios"])))]
    height, width = tensors["image"].shape[1:]

    def predict(views, mirrored):
        options = windows if mode == "slide" else {}
        model = Segmentor(tensors, mirrored_views=mirrored, **options).eval()
        inputs = {"image": views[0], "views": views, "height": height, "width": width}
        return model([inputs])[0]["sem_seg"]

    found = {"multi": predict(views, True), "single": predict(views[:1], False)}
    for name, probabilities in found.items():
        expected = tensors[f"{mode}.{name}.probabilities"]
        torch.testing.assert_close(probabilities, expected, rtol=0, atol=1e-5)
        # Where two classes are as probable as the tolerance, either is right.
        labels, truth = probabilities.argmax(0), tensors[f"{mode}.{name}.labels"]
        best = expected.topk(2, dim=0).values
        assert torch.equal(labels[best[0] - best[1] > 2e-5], truth[best[0] - best[1] > 2e-5].long())
    if mode == "slide":
        mirrored = 2 * predict(views[:1], True) - found["single"]
        expected = tensors["slide.view0_and_1.probabilities"]
        torch.testing.assert_close(found["single"], expected[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(mirrored, expected[1], rtol=0, atol=1e-5)


def test_the_mean_iou_is_that_of_mmsegmentation(golden, tmp_path):
    tensors, metadata = golden
    names = [f"class{i}" for i in range(int(metadata["num_classes"]))]
    entries = []
    for index, truth in enumerate(tensors["miou.truth"].numpy()):
        # ADE20K's: 0 is no class, and the others are one more than their index.
        shifted = np.where(truth == 255, 255, truth - 1).astype(np.uint8)
        file = tmp_path / f"{index}.png"
        Image.fromarray(shifted).save(file)
        entries.append({"file_name": f"{index}.jpg", "sem_seg_file_name": str(file)})
    DatasetCatalog.register("golden_miou", lambda: entries)
    MetadataCatalog.get("golden_miou").set(stuff_classes=names, ignore_label=255)
    try:
        evaluator = NamedSemSegEvaluator("golden_miou", names)
        evaluator.reset()
        for entry, labels in zip(entries, tensors["miou.prediction"].long(), strict=True):
            scores = F.one_hot(labels, len(names)).permute(2, 0, 1).float()
            evaluator.process([entry], [{"sem_seg": scores}])
        metrics = evaluator.evaluate()["sem_seg"]
    finally:
        DatasetCatalog.remove("golden_miou")
        MetadataCatalog.remove("golden_miou")
    assert metrics["mIoU"] == pytest.approx(100 * tensors["miou.mean"].item(), rel=1e-9)
    found = [metrics[f"IoU-{name}"] for name in names]
    assert found == pytest.approx((100 * tensors["miou.iou"]).tolist(), rel=1e-9, nan_ok=True)
    assert metrics["pACC"] == pytest.approx(100 * tensors["miou.all_accuracy"].item(), rel=1e-9)


def test_a_model_tests_on_the_views_of_the_loader(make_segmentation_config):
    views = ("TEST.VIEWS.SCALES", (1.0, 1.5), "TEST.VIEWS.FLIP", True)
    cfg = make_segmentation_config(*views)
    model = build_model(cfg).eval()
    inputs = next(iter(build_test_loader(cfg, "dark_zurich_val")))
    (own,) = inputs
    assert [tuple(view.shape) for view in own["views"]] == [(3, 64, 128), (3, 96, 192)]
    with torch.no_grad():
        (output,) = model(inputs)
        expected = 0
        for view in own["views"]:
            for mirrored in (False, True):
                plain = {key: value for key, value in own.items() if key != "views"}
                plain["image"] = view.flip(-1) if mirrored else view
                probabilities = model([plain])[0]["sem_seg"].softmax(0)
                expected = expected + (probabilities.flip(-1) if mirrored else probabilities) / 4
    assert output["sem_seg"].shape[1:] == (own["height"], own["width"])
    torch.testing.assert_close(output["sem_seg"], expected, rtol=1e-4, atol=1e-5)


def test_a_detector_is_not_tested_on_views(make_config):
    with pytest.raises(UserError, match="TEST.VIEWS.SCALES is .*cannot test on several views"):
        make_config("TEST.VIEWS.SCALES", (1.0,))
    with pytest.raises(UserError, match="TEST.VIEWS.FLIP mirrors the views"):
        make_config("TEST.VIEWS.FLIP", True)


def test_while_a_view_is_computed_no_other_is_kept():
    kept, lived = [], []

    class Plain(nn.Module):
        def forward(self, batched_inputs):
            lived.append(sum(reference() is not None for reference in kept))
            outputs = []
            for inputs in batched_inputs:
                logits = F.interpolate(inputs["image"].float()[None], size=(8, 8))[0]
                kept.append(weakref.ref(logits))
                outputs.append({"sem_seg": logits})
            return outputs

    class InAll(InViews, Plain):
        pass

    model = InAll(mirrored_views=True).eval()
    views = [torch.rand(3, side, side) for side in (8, 12, 16, 20)]
    with torch.no_grad():
        (found,) = model([{"image": views[0], "views": views}])
    # A batch for each scale.
    assert lived == [0] * 4 and len(kept) == 8
    torch.testing.assert_close(found["sem_seg"].sum(dim=0), torch.ones(8, 8))
