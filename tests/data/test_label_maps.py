"""Pictures and label maps in nested folders: paired by name, checked strictly."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from tadp_d2.data.datasets.cityscapes import CLASSES, COLORS
from tadp_d2.data.images import read_label_map
from tadp_d2.data.mapper import ConditionedMapper
from tadp_d2.data.present_classes import PresentClasses
from tadp_d2.data.readers.label_maps import Folders, check_values, read_pairs
from tadp_d2.errors import UserError
from tadp_d2.evaluation.sem_seg import NamedSemSegEvaluator
from tadp_d2.tasks.semantic import Semantic

from .encodings import noise, palette, png


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


@pytest.fixture
def tree(tmp_path):
    """Two sequences in Dark Zurich's layout, whose sorted names pair up wrongly by position."""
    for name in ("b/z_1", "a/y_2", "a/y_10"):
        save(tmp_path / f"rgb/night/{name}_rgb.png", np.zeros((4, 6, 3)))
        save(tmp_path / f"gt/night/{name}_gt_labelTrainIds.png", np.zeros((4, 6)))
        # What the published archives hold beside the labels is not taken for one.
        save(tmp_path / f"gt/night/{name}_gt_labelColor.png", np.zeros((4, 6, 3)))
    return tmp_path


def folders(tree, **changes):
    settings = {
        "images": tree / "rgb",
        "nesting": "night/*",
        "image_suffix": "_rgb.png",
        "labels": tree / "gt",
        "label_suffix": "_gt_labelTrainIds.png",
        "if_no_labels": "do this",
    }
    return Folders(**settings | changes)


def test_pairs_by_name(tree):
    pairs = read_pairs(folders(tree), "set")
    assert [pair.image_id for pair in pairs] == [
        "night/a/y_10_rgb.png",
        "night/a/y_2_rgb.png",
        "night/b/z_1_rgb.png",
    ]
    assert pairs[1].image == str(tree / "rgb/night/a/y_2_rgb.png")
    assert pairs[1].label == str(tree / "gt/night/a/y_2_gt_labelTrainIds.png")
    assert (pairs[1].width, pairs[1].height) == (6, 4)


def test_a_split_without_labels(tree):
    assert {pair.label for pair in read_pairs(folders(tree, labels=None), "set")} == {None}


def fails(tree, match, **changes):
    with pytest.raises(UserError, match=match):
        read_pairs(folders(tree, **changes), "set")


def test_an_absent_split(tree):
    fails(tree, "data set 'set' not found: there is no .*absent.*synth", images=tree / "absent")


def test_an_empty_folder(tree):
    (tree / "empty").mkdir()
    fails(tree, r"empty: holds no image for data set 'set'.*night/\*/\*_rgb", images=tree / "empty")


def test_missing_sequence_folders(tree):
    save(tree / "flat/night/y_2_rgb.png", np.zeros((4, 6, 3)))
    fails(tree, "1 elsewhere, such as .*flat/night/y_2_rgb.png; keep the n", images=tree / "flat")


def test_images_of_which_some_lie_elsewhere(tree):
    save(tree / "rgb/night/a/deeper/y_3_rgb.png", np.zeros((4, 6, 3)))
    save(tree / "rgb/day/y_4_rgb.png", np.zeros((4, 6, 3)))
    fails(tree, r"deeper/y_3_rgb.png: is not at .*\(1 such, and 3 that are\); keep the nested")


def test_folders_behind_links_and_companions_of_macos(tree, tmp_path_factory):
    expected = read_pairs(folders(tree), "set")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("rgb/night/a", "gt/night"):
        (tree / name).rename(elsewhere / name.replace("/", "_"))
        (tree / name).symlink_to(elsewhere / name.replace("/", "_"))
    for path in list(tree.glob("*/night/*/*.png")):
        (path.parent / f"._{path.name}").write_bytes(b"Mac OS X")
    assert read_pairs(folders(tree), "set") == expected
    with_suffix_of_pattern = folders(tree, nesting="**", image_suffix="[rgb].png", labels=None)
    save(tree / "rgb/x_[rgb].png", np.zeros((4, 6, 3)))
    (pair,) = read_pairs(with_suffix_of_pattern, "set")
    assert pair.image_id == "x_[rgb].png"


def test_a_picture_without_label(tree):
    (tree / "gt/night/a/y_2_gt_labelTrainIds.png").unlink()
    fails(tree, r"rgb/night/a/y_2_rgb.png: has no label map, expected .*\(1 such of 3\); do this")


def test_a_label_without_picture(tree):
    (tree / "rgb/night/a/y_2_rgb.png").unlink()
    fails(tree, "y_2_gt_labelTrainIds.png: a label map without its image")


def test_a_label_of_another_size(tree):
    save(tree / "gt/night/a/y_2_gt_labelTrainIds.png", np.zeros((4, 5)))
    fails(tree, "y_2_gt_labelTrainIds.png: 5 x 4 pixels, but its image .* has 6 x 4")


def test_a_label_in_colour(tree):
    save(tree / "gt/night/a/y_2_gt_labelTrainIds.png", np.zeros((4, 6, 3)))
    fails(tree, "y_2_gt_labelTrainIds.png: cannot be read as a map of values .it has mode RGB")


def test_a_damaged_picture(tree):
    (tree / "rgb/night/a/y_2_rgb.png").write_bytes(b"no picture")
    fails(tree, "y_2_rgb.png: cannot be read as an image")


def test_values(tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    save(good, [[0, 18], [255, 7]])
    save(bad, [[0, 18], [255, 33]])
    check_values([good] * 3, {*range(19), 255})
    with pytest.raises(UserError, match=r"bad.png: has the value 33 in 1 pixels"):
        check_values([good, bad], {*range(19), 255})
    good.write_bytes(good.read_bytes()[:45])
    with pytest.raises(UserError, match=r"good.png: cannot be read as a map of values"):
        check_values([good], range(256))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("color", [0, 3])
def test_everybody_reads_the_stored_values(make_segmentation_config, tmp_path, bits, color):
    """The check, oracle captions, training, the evaluator and the gallery."""
    if bits == 16 and color == 3:
        pytest.skip("a palette has at most 8 bits")
    values = np.random.default_rng(bits).integers(0, min(2**bits, 19), (64, 128), np.uint8)
    image, label = tmp_path / "a.png", tmp_path / "label.png"
    save(image, np.zeros((64, 128, 3)))
    label.write_bytes(png(values, bits, color, front=palette(noise(2**bits, 3)) * (color == 3)))
    entry = {"file_name": str(image), "sem_seg_file_name": str(label)}
    entry |= {"image_id": "a", "height": 64, "width": 128, "caption": ""}

    assert np.array_equal(read_label_map(label), values)
    check_values([label], range(19))
    present = PresentClasses(CLASSES, label_map=label)
    assert present.names() == [CLASSES[value] for value in np.unique(values)]
    cfg = make_segmentation_config("INPUT.RANDOM_FLIP", "none", "INPUT.CROP.ENABLED", False)
    mapped = ConditionedMapper(cfg, is_train=True)(entry)
    assert np.array_equal(mapped["sem_seg"], values)
    assert mapped["file_name"] == str(image)
    DatasetCatalog.register("stored", lambda: [entry])
    meta = MetadataCatalog.get("stored")
    meta.set(stuff_classes=list(CLASSES), stuff_colors=list(COLORS), ignore_label=255)
    try:
        evaluator = NamedSemSegEvaluator("stored", CLASSES)
        evaluator.reset()
        scores = torch.nn.functional.one_hot(torch.from_numpy(values).long(), 19).permute(2, 0, 1)
        evaluator.process([entry], [{"sem_seg": scores}])
        assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100
        task, black = Semantic(cfg), np.zeros((64, 128, 3), np.uint8)
        truth = task.draw_truth("stored", black, entry)
        drawn = task.draw_prediction("stored", black, {"sem_seg": scores})
        assert np.array_equal(np.asarray(truth), np.asarray(drawn))
    finally:
        DatasetCatalog.remove("stored")
        MetadataCatalog.remove("stored")


def test_values_of_more_than_8_bits_are_no_classes(tmp_path):
    (tmp_path / "a.png").write_bytes(png(np.full((2, 3), 256), 16))
    with pytest.raises(UserError, match="a.png: has the value 256; class indices are at most 255"):
        read_label_map(tmp_path / "a.png")
