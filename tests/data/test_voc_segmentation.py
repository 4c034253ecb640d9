"""The masks of VOC as Detectron2 data sets: classes, masks and ids through Detectron2's readers."""

import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.datasets.pascal_voc import CLASS_NAMES
from detectron2.evaluation import COCOEvaluator, SemSegEvaluator
from detectron2.structures import Instances
from PIL import Image

import tadp_d2.config.registration  # noqa: F401 (registers the data sets)
from tadp_d2.data.catalog import read_entries
from tadp_d2.data.datasets.voc_categories import KINDS, STUFF, THINGS
from tadp_d2.data.datasets.voc_segmentation import register_voc_segmentation
from tadp_d2.data.mapper import ConditionedMapper
from tadp_d2.data.readers.pascal_voc import load_voc_segmentation
from tadp_d2.data.texts import read_captions
from tadp_d2.errors import UserError

SPLITS = (
    *("voc_2007_trainval", "voc_2007_test", "voc_2012_trainval"),
    *("watercolor_test", "comic_test"),
)


def xml_objects(entry: dict) -> list[tuple[str, list[int]]]:
    """Class and box (x0, y0, x1, y1, from 0) of every object of an image."""
    image = Path(entry["file_name"])
    root = ElementTree.parse(image.parents[1] / "Annotations" / f"{image.stem}.xml")
    found = []
    for element in root.iterfind("object"):
        left, top, right, bottom = (int(side.text) for side in element.find("bndbox"))
        found.append((element.findtext("name"), [left - 1, top - 1, right, bottom]))
    return found


def object_map(entry: dict) -> np.ndarray:
    image = Path(entry["file_name"])
    return np.asarray(Image.open(image.parents[1] / "SegmentationObject" / f"{image.stem}.png"))


def mapped(entry: dict) -> dict:
    """As Detectron2's own mapper gives it to a model."""
    return DatasetMapper(
        is_train=True,
        augmentations=[],
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format="bitmask",
    )(entry)


def test_the_things_are_detectron2s_classes_of_voc():
    assert THINGS == CLASS_NAMES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", SPLITS)
def test_every_set_has_the_images_and_captions_of_its_split(world, split, kind):
    entries = read_entries(f"{split}_{kind}")
    base = {entry["file_name"]: entry for entry in read_entries(split)}
    assert [entry["file_name"] for entry in entries] == list(base)
    own = read_captions(world / "captions" / f"{split}_{kind}.jsonl").captions
    captions = read_captions(world / "captions" / f"{split}.jsonl").captions
    assert [own[str(entry["image_id"])] for entry in entries] == [
        captions[base[entry["file_name"]]["image_id"]] for entry in entries
    ]
    assert len(own) == len(entries)


@pytest.mark.parametrize("kind", ["instances", "panoptic_separated"])
def test_instances_have_the_classes_boxes_and_masks_of_the_xml(world, kind):
    name = f"voc_2007_trainval_{kind}"
    for entry in DatasetCatalog.get(name):
        instances = mapped(entry)["instances"]
        names = [MetadataCatalog.get(name).thing_classes[c] for c in instances.gt_classes]
        boxes = instances.gt_boxes.tensor.int().tolist()
        assert list(zip(names, boxes, strict=True)) == xml_objects(entry)
        objects = torch.from_numpy(object_map(entry).copy())
        for number, mask in enumerate(instances.gt_masks.tensor, start=1):
            assert torch.equal(mask, objects == number)


def test_the_classes_of_all_kinds_are_the_same_in_every_pixel(world):
    semantic, standard, separated = (
        f"voc_2007_trainval_{kind}" for kind in ("semantic", "panoptic", "panoptic_separated")
    )
    both, apart = MetadataCatalog.get(standard), MetadataCatalog.get(separated)
    assert both.stuff_classes == both.thing_classes == [*THINGS, *STUFF]
    assert apart.stuff_classes == ["things", *STUFF]
    entries = map(DatasetCatalog.get, (semantic, standard, separated))
    for one, other, third in zip(*entries, strict=True):
        classes = np.asarray(Image.open(one["sem_seg_file_name"]))
        rgb = np.asarray(Image.open(other["pan_seg_file_name"])).astype(int)
        segments = rgb @ (1, 256, 65536)
        stuff = mapped(third)["sem_seg"].numpy()
        for info in other["segments_info"]:
            pixels = segments == info["id"]
            name = both.stuff_classes[info["category_id"]]
            assert info["isthing"] == (name in THINGS)
            (label,), (behind,) = np.unique(classes[pixels]), np.unique(stuff[pixels])
            known = MetadataCatalog.get(semantic).stuff_classes[label]
            assert known == (name if info["isthing"] else "background")
            assert apart.stuff_classes[behind] == ("things" if info["isthing"] else name)


def test_detectron2s_evaluator_gives_the_true_masks_all_points(world, tmp_path):
    name = "voc_2007_test_instances"
    options = {"use_fast_impl": False, "output_dir": str(tmp_path), "tasks": ("bbox", "segm")}
    evaluator = COCOEvaluator(name, distributed=False, **options)
    evaluator.reset()
    for entry in DatasetCatalog.get(name):
        truth = mapped(entry)["instances"]
        found = Instances(truth.image_size)
        found.pred_boxes, found.pred_classes = truth.gt_boxes, truth.gt_classes
        found.pred_masks, found.scores = truth.gt_masks.tensor, torch.ones(len(truth))
        evaluator.process([entry], [{"instances": found}])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == pytest.approx(100) == results["segm"]["AP"]


def test_detectron2s_evaluator_gives_the_true_classes_all_points(world):
    name = "voc_2007_test_semantic"
    evaluator = SemSegEvaluator(name, distributed=False)
    evaluator.reset()
    for entry in DatasetCatalog.get(name):
        classes = torch.from_numpy(np.array(Image.open(entry["sem_seg_file_name"])))
        scores = torch.nn.functional.one_hot(classes.long(), 21).permute(2, 0, 1)
        evaluator.process([entry], [{"sem_seg": scores}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == pytest.approx(100)


def test_a_model_is_trained_on_the_classes_and_not_on_the_colors(world, make_segmentation_config):
    name = "voc_2007_trainval_semantic"
    cfg = make_segmentation_config("DATASETS.TRAIN", (name,))
    mapper = ConditionedMapper(cfg, is_train=True)
    # Nothing but a shift: a window into the image.
    mapper.augmentations.augs = [T.RandomCrop("absolute", (100, 120))]
    for seed, entry in enumerate(read_entries(name)):
        classes = np.asarray(Image.open(entry["sem_seg_file_name"]))
        np.random.seed(seed)
        mapped = mapper(entry)
        windows = np.lib.stride_tricks.sliding_window_view(classes, (100, 120))
        assert mapped["sem_seg"].shape == mapped["image"].shape[1:] == (100, 120)
        assert (windows == mapped["sem_seg"].numpy()).all(axis=(2, 3)).any(), f"seed {seed}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_that_is_not_there_is_named_with_what_is_expected(tmp_path, kind):
    name = f"absent_{tmp_path.name}"
    register_voc_segmentation(name, tmp_path, "val")
    with pytest.raises(UserError) as caught:
        read_entries(f"{name}_{kind}")
    file = {
        "instances": "coco/annotations/instances_val.json",
        "semantic": "ImageSets/Segmentation/val.txt",
    }.get(kind, "coco/annotations/panoptic_val.json")
    assert str(tmp_path / file) in str(caught.value)
    assert f"{name}_{kind}" in str(caught.value)
    for registered in KINDS:
        DatasetCatalog.remove(f"{name}_{registered}")
        MetadataCatalog.pop(f"{name}_{registered}")


@pytest.fixture
def voc(world, tmp_path) -> Path:
    """A copy of VOC 2007's segmentation to spoil."""
    for part in ("JPEGImages", "SegmentationClass", "ImageSets"):
        shutil.copytree(world / "VOC2007" / part, tmp_path / part)
    return tmp_path


def spoil_mode(path: Path) -> None:
    Image.open(path).convert("RGB").save(path)


def spoil_size(path: Path) -> None:
    image = Image.open(path)
    image.resize((image.width, image.height + 1)).save(path)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (spoil_mode, "has mode RGB"),
        (spoil_size, "pixels, but its image"),
        (Path.unlink, "000002"),
        (lambda path: path.write_bytes(b"GIF89a"), "cannot be read"),
    ],
)
def test_a_label_map_that_is_none_is_named_and_the_others_are_read(voc, spoil, expected):
    spoil(voc / "SegmentationClass" / "000002.png")
    with pytest.raises(UserError, match=expected) as caught:
        load_voc_segmentation(voc, "trainval", "mine")
    assert "000002" in str(caught.value)
    errors = []
    entries = load_voc_segmentation(voc, "trainval", "mine", errors.append)
    assert len(errors) == 1
    assert [entry["image_id"] for entry in entries] == [f"{n:06d}" for n in (1, *range(3, 9))]
