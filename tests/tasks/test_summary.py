"""What a task says of an output in words, against numbers counted by hand."""

from types import SimpleNamespace

import torch
from detectron2.structures import Boxes, Instances

from tadp_d2.tasks.panoptic import Panoptic
from tadp_d2.tasks.task import get_task


def test_a_detector_names_the_scores_of_the_drawn_boxes(make_config):
    task = get_task(make_config())
    found = Instances(
        (10, 10),
        pred_boxes=Boxes(torch.zeros(4, 4)),
        pred_classes=torch.tensor([11, 7, 11, 3]),
        scores=torch.tensor([0.91, 0.8, 0.5, 0.49]),
    )
    assert task.summary({"instances": found}) == {
        task.classes()[11]: "91%, 50%",
        task.classes()[7]: "80%",
    }


def test_a_segmentor_names_the_area_of_each_class(make_segmentation_config):
    logits = torch.zeros(19, 10, 10)
    logits[0, :2], logits[10, 2:] = 1, 1
    assert get_task(make_segmentation_config()).summary({"sem_seg": logits}) == {
        "road": "20.0% of the area",
        "sky": "80.0% of the area",
    }


def test_depth_is_named_in_meters(make_depth_config):
    depth = torch.tensor([[1.0, 2.0], [2.5, 7.125]])
    assert get_task(make_depth_config()).summary({"depth": depth}) == {
        "nearest": "1.00 m",
        "median": "2.25 m",
        "farthest": "7.12 m",
    }


def test_the_object_of_an_expression_is_named_by_its_area(make_referring_config):
    logits = torch.zeros(2, 10, 10)
    logits[0] = 0.5
    logits[1, :1] = 1
    assert get_task(make_referring_config()).summary({"sem_seg": logits}) == {
        "object": "10.0% of the area"
    }


def test_segments_are_named_by_class(monkeypatch):
    names = ["person", "dog"], ["things", "sky"]
    monkeypatch.setattr(Panoptic, "_things_and_stuff", names)
    ids = torch.tensor([[1, 1, 2, 3]])
    described = [
        {"id": 1, "isthing": True, "category_id": 1},
        {"id": 2, "isthing": True, "category_id": 1},
        {"id": 3, "isthing": False, "category_id": 1},
    ]
    task = Panoptic(SimpleNamespace())
    assert task.summary({"panoptic_seg": (ids, described)}) == {
        "dog": "50.0%, 25.0% of the area",
        "sky": "25.0% of the area",
    }
