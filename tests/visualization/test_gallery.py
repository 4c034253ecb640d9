"""The sheets of detections and segmentations."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from tadp_d2.tasks.task import get_task
from tadp_d2.visualization.gallery import Gallery
from tadp_d2.visualization.objects import draw_detections, draw_objects
from tadp_d2.visualization.segments import draw_named_segments, draw_segments
from tadp_d2.visualization.sheet import contact_sheet


def test_detections_above_the_threshold_are_drawn_where_they_are():
    pixels = np.full((100, 150, 3), 255, np.uint8)
    instances = Instances((100, 150))
    instances.pred_boxes = Boxes(torch.tensor([[20.0, 30.0, 70.0, 90.0], [90, 30, 140, 90]]))
    instances.pred_classes = torch.tensor([0, 1])
    instances.scores = torch.tensor([0.9, 0.1])
    drawn = np.asarray(draw_detections(pixels, instances, ["dog", "cat"]).convert("L"))
    assert drawn.shape == (200, 300)
    assert (drawn[80:170, 38:44] < 250).any(axis=1).all()
    assert (drawn[:, 170:] == 255).all()


def test_the_truth_is_drawn_as_a_detection_of_its_box():
    pixels = np.full((100, 150, 3), 255, np.uint8)
    truth = {"bbox": [20, 30, 50, 60], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    instances = Instances((100, 150))
    instances.pred_boxes = Boxes(torch.tensor([[20.0, 30.0, 70.0, 90.0]]))
    instances.pred_classes, instances.scores = torch.tensor([0]), torch.tensor([1.0])
    drawn = np.asarray(draw_objects(pixels, [truth], ["dog"]))
    detection = np.asarray(draw_detections(pixels, instances, ["dog"]))
    # Beside the labels, which differ by the score.
    assert np.array_equal(drawn[80:160], detection[80:160])
    assert (drawn[80:160, 38:44] < 250).any()
    assert (np.asarray(draw_objects(pixels, [], ["dog"])) == 255).all()


def test_pictures_of_all_shapes_fit_in_rows_of_four():
    pictures = [Image.new("RGB", size, "red") for size in ((640, 480), (50, 100)) * 3]
    sheet = np.asarray(contact_sheet(pictures))
    assert sheet.shape == (2 * 276 + 6, 4 * 366 + 6, 3)
    assert (sheet[0, 0] == 255).all()
    assert (sheet[6, 6] == (255, 0, 0)).all()


def test_a_picture_of_any_shape_has_a_place_on_a_sheet():
    for size in ((2000, 2), (2, 2000), (1, 1)):
        sheet = np.asarray(contact_sheet([Image.new("RGB", size, "red")]))
        assert (sheet == (255, 0, 0)).all(axis=2).any()


def test_each_class_has_its_colour_and_no_class_is_black():
    pixels = np.full((2, 3, 3), 100, np.uint8)
    classes = np.array([[0, 1, 255], [1, 1, 0]])
    colors = np.array([(200, 0, 0), (0, 100, 40)], np.uint8)
    drawn = np.asarray(draw_segments(pixels, classes, colors, opacity=0.5))
    red, green, black = (150, 50, 50), (50, 100, 70), (0, 0, 0)
    assert np.array_equal(drawn, [[red, green, black], [green, green, red]])


def test_titles_and_legend_do_not_cover_a_picture():
    pictures = [Image.new("RGB", (512, 256), "red") for _ in range(6)]
    legend = tuple((f"class {index}", (0, 0, index)) for index in range(19))
    plain = np.asarray(contact_sheet(pictures, columns=3))
    titles, labels = ("image", "truth", "prediction"), ("step 0", "step 100000")
    sheet = np.asarray(contact_sheet(pictures, 3, titles, legend, labels))
    red = (plain == (255, 0, 0)).all(axis=2).sum()
    assert (sheet == (255, 0, 0)).all(axis=2).sum() == red == 6 * 360 * 180
    for _, color in legend:
        assert (sheet == color).all(axis=2).sum() >= 24 * 18


@pytest.mark.parametrize("width", [1, 2, 200])
def test_segments_are_named_and_painted_at_twice_the_size(width):
    classes = np.zeros((100, width), np.uint8)
    classes[50:] = 1
    meta = SimpleNamespace(stuff_classes=["sky", "road"], stuff_colors=[(200, 0, 0), (0, 100, 40)])
    drawn = draw_named_segments(np.full((100, width, 3), 100, np.uint8), classes, meta)
    assert drawn.height == 200
    if width == 200:
        painted = np.asarray(drawn, float)
        # A corner of each half, far from the names and the outlines.
        assert painted[20, 20] == pytest.approx((160, 40, 40), abs=2)
        assert painted[180, 380] == pytest.approx((40, 100, 64), abs=2)
        assert (painted.max(axis=2) < 40).any()  # the ground of the names


def test_a_gallery_that_cannot_be_written_does_not_undo_an_evaluation(
    world, make_config, tmp_path, caplog
):
    (tmp_path / "file").write_text("")
    cfg = make_config("OUTPUT_DIR", str(tmp_path / "file"))
    gallery = Gallery(get_task(cfg), "watercolor_test")
    gallery._drawn = {
        "1": {"image": Image.new("RGB", (9, 9)), "prediction": Image.new("L", (9, 9))}
    }
    gallery.evaluate()
    assert "gallery of watercolor_test is not complete: " in caplog.text
    assert "cannot be written" in caplog.text
