"""The sheet of detections."""

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from tadp_d2.visualization.gallery import contact_sheet, draw_detections


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


def test_pictures_of_all_shapes_fit_in_rows_of_four():
    pictures = [Image.new("RGB", size, "red") for size in ((640, 480), (50, 100)) * 3]
    sheet = np.asarray(contact_sheet(pictures))
    assert sheet.shape == (2 * 276 + 6, 4 * 366 + 6, 3)
    assert (sheet[0, 0] == 255).all()
    assert (sheet[6, 6] == (255, 0, 0)).all()
