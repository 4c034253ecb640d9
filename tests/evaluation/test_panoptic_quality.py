"""Panoptic quality: numbers of the golden file, rules by hand, several processes, wrong input."""

import json
import math
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from safetensors import safe_open
from torch import distributed

from tadp_d2.data.readers.coco_panoptic import Segment, read_panoptic
from tadp_d2.errors import UserError
from tadp_d2.evaluation.panoptic_quality import Counts, PanopticQualityEvaluator, count_image

FOLDER = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parents[1] / "golden")
NAME = "own_panoptic"


class Example:
    """The golden file's data set, and its predictions as a model returns them."""

    def __init__(self, folder: Path):
        with safe_open(FOLDER / "panoptic.safetensors", "pt") as file:
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        self.folder, self.file = folder, folder / "truth.json"
        self.truth = json.loads(metadata["gt_json"])
        ids = self.tensors["category_ids"].tolist()
        is_thing = self.tensors["category_isthing"].tolist()
        self.things = [i for i, thing in zip(ids, is_thing, strict=True) if thing]
        self.stuff = [i for i, thing in zip(ids, is_thing, strict=True) if not thing]
        self.names = {c["id"]: c["name"] for c in self.truth["categories"]}
        self.write()
        for number, row in enumerate(self.truth["annotations"]):
            Image.fromarray(self.tensors[f"gt.{number}"].numpy()).save(folder / row["file_name"])
        self.inputs, self.outputs = [], []
        for number, row in enumerate(json.loads(metadata["pred_json"])["annotations"]):
            segments = self.tensors[f"pred.{number}"].long() @ torch.tensor([1, 256, 65536])
            described = [self._described(s["id"], s["category_id"]) for s in row["segments_info"]]
            self.inputs.append({"image_id": row["image_id"]})
            self.outputs.append({"panoptic_seg": (segments, described)})

    def _described(self, id_, category):
        ids = self.things if category in self.things else self.stuff
        return {"id": id_, "isthing": ids is self.things, "category_id": ids.index(category)}

    def write(self):
        self.file.write_text(json.dumps(self.truth))

    def classes(self):
        return [[self.names[i] for i in ids] for ids in (self.things, self.stuff)]

    def evaluator(self):
        return PanopticQualityEvaluator(NAME, *self.classes())

    def evaluate(self):
        evaluator = self.evaluator()
        evaluator.process(self.inputs, self.outputs)
        return evaluator.evaluate()["panoptic_seg"]

    def first(self):
        """Scores the first image."""
        self.evaluator().process(self.inputs[:1], self.outputs[:1])


@pytest.fixture
def example(tmp_path):
    example = Example(tmp_path)
    things, stuff = example.classes()
    DatasetCatalog.register(NAME, list)
    MetadataCatalog.get(NAME).set(
        panoptic_json=str(example.file),
        panoptic_root=str(tmp_path),
        thing_classes=things,
        stuff_classes=stuff,
        thing_dataset_id_to_contiguous_id={c: i for i, c in enumerate(example.things)},
        stuff_dataset_id_to_contiguous_id={c: i for i, c in enumerate(example.stuff)},
    )
    yield example
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_means_and_classes_are_those_of_coco(example):
    found, golden = example.evaluate(), example.tensors
    for suffix, key in (("", "all"), ("_th", "things"), ("_st", "stuff")):
        for name, expected in zip(("PQ", "SQ", "RQ"), golden[key].tolist(), strict=False):
            assert found[f"{name}{suffix}"] / 100 == pytest.approx(expected, rel=0, abs=1e-9)
    counted = golden["per_class.tp_fp_fn"].sum(dim=1).tolist()
    rows = golden["per_class.pq_sq_rq"].tolist()
    for category, occurs, row in zip(golden["category_ids"].tolist(), counted, rows, strict=True):
        for name, expected in zip(("PQ", "SQ", "RQ"), row, strict=True):
            value = found[f"{name}-{example.names[category]}"]
            if occurs:
                assert value / 100 == pytest.approx(expected, rel=0, abs=1e-9)
            else:
                assert math.isnan(value)


def test_counts_are_those_of_coco(example):
    total = {category: Counts() for category in example.names}
    _, truth = read_panoptic(example.file, example.folder)
    for entry, output in zip(example.inputs, example.outputs, strict=True):
        segments, described = output["panoptic_seg"]
        categories = {
            s["id"]: (example.things if s["isthing"] else example.stuff)[s["category_id"]]
            for s in described
        }
        image = truth[str(entry["image_id"])]
        found = count_image(image.read_ids(), image.segments, segments.numpy(), categories)
        for category, counts in found.items():
            total[category].add(counts)
    ids = example.tensors["category_ids"].tolist()
    found = [(total[i].matched, total[i].invented, total[i].missed) for i in ids]
    assert found == [tuple(row) for row in example.tensors["per_class.tp_fp_fn"].tolist()]
    ious = torch.tensor([total[i].iou for i in ids], dtype=torch.float64)
    torch.testing.assert_close(ious, example.tensors["per_class.iou_sum"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("overlap", "matched"), [(5, 0), (6, 1)])
def test_an_iou_of_one_half_is_no_match(overlap, matched):
    # The prediction is a part of the truth.
    truth = np.full((1, 10), 7)
    predicted = np.zeros((1, 10), int)
    predicted[0, :overlap] = 300
    counts = count_image(truth, {7: Segment(1, 10, False)}, predicted, {300: 1})[1]
    assert counts.matched == matched
    assert counts.invented == counts.missed == 1 - matched
    assert counts.iou == matched * overlap / 10


@pytest.mark.parametrize(("ignored", "invented"), [(5, 1), (6, 0)])
@pytest.mark.parametrize("crowd", [False, True])
def test_more_than_half_on_void_or_crowd_is_not_counted(ignored, invented, crowd):
    truth = np.full((1, 10), 2)
    truth[0, :ignored] = 9 if crowd else 0
    segments = {2: Segment(1, 10 - ignored, False)}
    if crowd:
        segments[9] = Segment(4, ignored, True)
    counts = count_image(truth, segments, np.full((1, 10), 1), {1: 4})
    assert counts.get(4, Counts()).invented == invented
    assert counts[1].missed == 1


def test_the_truth_itself_scores_100_with_more_than_255_segments():
    ids = np.arange(1, 401).reshape(20, 20) * 41
    segments = {int(i): Segment(int(i) % 3, 1, False) for i in ids.flat}
    counts = count_image(ids, segments, ids, {i: s.category for i, s in segments.items()})
    assert sum(count.matched for count in counts.values()) == 400
    assert all(count.quality == (1, 1, 1) for count in counts.values())


def test_an_image_without_segments_counts_nothing():
    assert count_image(np.zeros((3, 4), int), {}, np.ones((3, 4), int), {1: 5}) == {}


def test_no_class_of_a_kind_gives_no_number(example):
    for row in example.truth["categories"]:
        row["isthing"] = 1
    example.write()
    found = example.evaluate()
    assert math.isnan(found["PQ_st"]) and found["PQ_th"] == found["PQ"] > 0


def _process(rank, example, share, meeting, results):
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    evaluator = example.evaluator()
    for index in share:
        evaluator.process([example.inputs[index]], [example.outputs[index]])
    results.put((rank, evaluator.evaluate()))
    distributed.destroy_process_group()


def test_two_processes_return_what_one_does_and_count_no_image_twice(example):
    alone = example.evaluate()
    context = multiprocessing.get_context("fork")
    results, count = context.Queue(), len(example.inputs)
    # The first image is in both shares.
    shares = ([0, *range(1, count, 2)], [*range(0, count, 2)][::-1])
    meeting = f"file://{example.folder}/meeting"
    processes = [
        context.Process(target=_process, args=(rank, example, share, meeting, results))
        for rank, share in enumerate(shares)
    ]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    assert found[1] is None
    np.testing.assert_equal(dict(found[0]["panoptic_seg"]), alone)


def test_every_image_of_the_file_needs_a_prediction(example):
    evaluator = example.evaluator()
    evaluator.process(example.inputs[1:], example.outputs[1:])
    with pytest.raises(UserError, match=f"1 images of .*image {example.inputs[0]['image_id']}"):
        evaluator.evaluate()


def test_other_classes_than_the_data_sets_are_an_error(example):
    things, stuff = example.classes()
    with pytest.raises(UserError, match="scored on the thing classes .* trained on cat"):
        PanopticQualityEvaluator(NAME, ["cat"], stuff)
    with pytest.raises(UserError, match="scored on the stuff classes .* trained on sky"):
        PanopticQualityEvaluator(NAME, things, ["sky"])


def _segments(example):
    return example.truth["annotations"][0]["segments_info"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: _segments(e).pop(), "has the segment id .*does not describe"),
        (lambda e: _segments(e).append(_segments(e)[0] | {"id": 5}), "no pixel of .* id 5,"),
        (lambda e: _segments(e).append(_segments(e)[0]), "two segments have the id"),
        (lambda e: _segments(e)[0].update(category_id=5000), "category 5000, which is unknown"),
        (lambda e: _segments(e)[0].update(id=0), "segment id 0 is not within 1..16777215"),
        (lambda e: _segments(e)[0].update(id=2.5), "not an annotation file .*float"),
        (lambda e: e.truth["annotations"][0].update(segments_info=None), "not described .*null"),
        (lambda e: _segments(e)[0].pop("area"), "not an annotation file .*'area'"),
        (lambda e: e.truth["annotations"].append(e.truth["annotations"][0]), "two annotations"),
        (lambda e: e.truth["categories"].append(e.truth["categories"][0]), "two categories"),
        (lambda e: e.truth["annotations"].pop(0), "no annotation for image"),
        (lambda e: e.truth.pop("categories"), "not an annotation file .*'categories'"),
    ],
)
def test_a_file_that_contradicts_itself_or_its_images_is_an_error(example, change, message):
    change(example)
    example.write()
    with pytest.raises(UserError, match=message):
        example.first()


def test_damaged_files_are_errors(example):
    png = example.folder / example.truth["annotations"][0]["file_name"]
    Image.new("L", Image.open(png).size).save(png)
    with pytest.raises(UserError, match=r"\.png: .* has mode L.*mode RGB"):
        example.first()
    Image.new("RGB", (3, 2)).save(png)
    _segments(example).clear()
    example.write()
    with pytest.raises(UserError, match=r"\.png: 3 x 2 pixels, but the prediction"):
        example.first()
    png.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"\.png: cannot be read"):
        example.first()
    png.unlink()
    with pytest.raises(UserError, match=r"\.png: cannot be read"):
        example.first()
    example.file.write_text("{")
    with pytest.raises(UserError, match=r"truth\.json: not an annotation file"):
        example.first()
    example.file.unlink()
    with pytest.raises(UserError, match=r"truth\.json: not an annotation file"):
        example.first()


def test_a_prediction_without_a_description_is_an_error(example):
    example.outputs[0] = {"panoptic_seg": (example.outputs[0]["panoptic_seg"][0], None)}
    with pytest.raises(UserError, match="segments_info is None"):
        example.first()


def test_more_than_255_segments_are_told_apart():
    ids = np.arange(400).reshape(20, 20) + 1
    truth = {id_: Segment(category=id_ % 3, area=1, is_crowd=False) for id_ in range(1, 401)}
    counts = count_image(ids, truth, ids, {id_: id_ % 3 for id_ in truth})
    assert sum(count.matched for count in counts.values()) == 400
    assert all(count.invented == count.missed == 0 for count in counts.values())
    # The same as 8 bits hold, and their ids.
    short = ids % 256
    counts = count_image(ids, truth, short, {int(id_): 0 for id_ in np.unique(short) if id_})
    assert sum(count.matched for count in counts.values()) < 400


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda described: described.pop(), "either in the map or in its description"),
        (lambda described: described.append(described[0] | {"id": 1}), "segment id 1 either"),
        (lambda described: described.append(described[0]), "twice"),
        (lambda described: described[0].update(category_id=99), "class 99, which"),
    ],
)
def test_a_prediction_that_contradicts_itself_is_an_error(example, change, message):
    change(example.outputs[0]["panoptic_seg"][1])
    with pytest.raises(UserError, match=message):
        example.first()
