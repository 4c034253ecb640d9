"""Data must have the classes and the annotations that the model trains on."""

import shutil

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from tadp_d2.data.texts import write_captions
from tadp_d2.engine.checks import check_inputs
from tadp_d2.errors import UserError


@pytest.fixture
def entry():
    box = {"bbox": [0, 0, 8, 8], "bbox_mode": 0, "category_id": 0}
    return {"file_name": "0.jpg", "image_id": 0, "height": 9, "width": 9, "annotations": [box]}


@pytest.fixture
def register(world, tmp_path, entry):
    """register(classes) registers "own", of one picture, and returns its folder of captions."""
    folder = tmp_path / "captions"
    shutil.copytree(world / "captions", folder)
    write_captions(folder / "own.jsonl", "own", {"0": "a thing"}, {})

    def register_own(classes):
        DatasetCatalog.register("own", lambda: [entry])
        MetadataCatalog.get("own").set(thing_classes=classes)
        return str(folder)

    yield register_own
    DatasetCatalog.remove("own")
    MetadataCatalog.remove("own")


@pytest.mark.parametrize(
    "key, datasets", [("TEST", ("own",)), ("TRAIN", ("voc_2007_trainval", "own"))]
)
def test_other_classes_than_the_models_are_refused(make_config, register, key, datasets):
    folder = register(["tree"])
    cfg = make_config(f"DATASETS.{key}", datasets, "TEXT.CAPTION_DIR", folder)
    with pytest.raises(UserError, match="'own' has the classes tree, and the model those of"):
        check_inputs(cfg, evaluation=key == "TEST", resume=False)


def test_equal_classes_pass(make_config, register):
    folder = register(MetadataCatalog.get("voc_2007_trainval").thing_classes)
    cfg = make_config(
        *("DATASETS.TRAIN", ("voc_2007_trainval", "own"), "DATASETS.TEST", ("own",)),
        *("TEXT.CAPTION_DIR", folder),
    )
    check_inputs(cfg, evaluation=False, resume=False)


@pytest.mark.parametrize(
    "key, annotation", [("MASK_ON", "segmentation"), ("KEYPOINT_ON", "keypoints")]
)
def test_heads_without_annotations_to_train_on_are_refused(make_config, world, key, annotation):
    cfg = make_config(f"MODEL.{key}", True)
    message = f"MODEL.{key} is True, but data set 'voc_2007_trainval' has an object .*{annotation}"
    with pytest.raises(UserError, match=message):
        check_inputs(cfg, evaluation=False, resume=False)


def test_run_lengths_are_no_polygons(make_config, register, entry):
    folder = register(MetadataCatalog.get("voc_2007_trainval").thing_classes)
    obj = entry["annotations"][0]
    obj["segmentation"] = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]
    crowd = {**obj, "segmentation": {"size": [8, 8], "counts": "0"}, "iscrowd": 1}
    entry["annotations"].append(crowd)
    cfg = make_config(
        *("DATASETS.TRAIN", ("own",), "DATASETS.TEST", ("own",), "TEXT.CAPTION_DIR", folder),
        *("MODEL.MASK_ON", True),
    )
    check_inputs(cfg, evaluation=False, resume=False)
    entry["annotations"].append({**crowd, "iscrowd": 0})
    with pytest.raises(UserError, match="run-length .*set INPUT.MASK_FORMAT bitmask"):
        check_inputs(cfg, evaluation=False, resume=False)
    cfg.defrost()
    cfg.INPUT.MASK_FORMAT = "bitmask"
    check_inputs(cfg, evaluation=False, resume=False)


def test_keypoints_without_names_are_refused(make_config, register, entry):
    folder = register(MetadataCatalog.get("voc_2007_trainval").thing_classes)
    entry["annotations"][0]["keypoints"] = [1, 1, 2]
    cfg = make_config(
        *("DATASETS.TRAIN", ("own",), "DATASETS.TEST", ("own",), "TEXT.CAPTION_DIR", folder),
        *("MODEL.KEYPOINT_ON", True),
    )
    with pytest.raises(UserError, match="the metadata of data set 'own' does not name keypoint_na"):
        check_inputs(cfg, evaluation=False, resume=False)
    MetadataCatalog.get("own").set(keypoint_names=["nose"], keypoint_flip_map=[])
    check_inputs(cfg, evaluation=False, resume=False)
