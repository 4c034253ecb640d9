"""What happens to a picture happens to its labels; colours change in the picture only."""

import colorsys

import numpy as np
import pytest
from detectron2.data import transforms as T

from tadp_d2.data.augmentation import RandomHue, build_augmentations, photometric_distortion


@pytest.fixture
def aligned():
    """A picture whose red is the class of each pixel, times 10, and the label map of classes."""
    rng = np.random.default_rng(0)
    classes = np.kron(rng.integers(0, 19, (9, 16)), np.ones((40, 40))).astype(np.uint8)
    picture = np.stack([classes * 10, np.full_like(classes, 50), np.full_like(classes, 90)], axis=2)
    return picture, classes


def augment(cfg, picture, classes, is_train=True):
    inputs = T.AugInput(picture, sem_seg=classes)
    T.AugmentationList(build_augmentations(cfg, is_train))(inputs)
    return inputs.image, inputs.sem_seg


def agree(image, label):
    return (np.abs(image[..., 0].astype(int) - label * 10.0) <= 2).mean()


@pytest.fixture
def night(make_segmentation_config):
    """night("KEY", value, ...): mirrored only, but for what is asked for."""

    def make(*overrides):
        settings = (
            *("INPUT.FIXED_SIZE_TRAIN", (320, 180), "INPUT.FIXED_SIZE_TEST", (256, 128)),
            *("INPUT.COLOR_AUG_SSD", False, "INPUT.CROP.ENABLED", False),
            *("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 1.0),
        )
        return make_segmentation_config(*settings, *overrides)

    return make


CROP = ("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [128, 128])


def test_each_step_keeps_picture_and_label_aligned(night, aligned):
    np.random.seed(0)
    flipped = set()
    for _ in range(20):
        image, label = augment(night(*CROP), *aligned)
        assert image.shape == (128, 128, 3) and label.shape == (128, 128)
        # Bilinear in the picture, nearest in the label: they agree away from the edges, and
        # better than with the label two pixels off.
        agreement = agree(image, label)
        assert agreement > 0.8
        for step in (-2, 2):
            for axis in (0, 1):
                assert agreement > agree(image, np.roll(label, step, axis)) + 0.01
        assert set(np.unique(label)) <= set(range(19))
        flipped.add((augment(night(), *aligned)[1] == augment(night(), *aligned)[1]).all())
    assert flipped == {True, False}


def test_resize_comes_before_crop(night, aligned):
    """A crop of the resized picture's size is the whole of it."""
    whole = (*CROP[:4], "INPUT.CROP.SIZE", [180, 320], "INPUT.RANDOM_FLIP", "none")
    expected = T.ResizeTransform(360, 640, 180, 320).apply_image(aligned[0])
    np.testing.assert_array_equal(augment(night(*whole), *aligned)[0], expected)


def test_a_test_picture_is_resized_only(night, aligned):
    cfg = night(*CROP, "INPUT.COLOR_AUG_SSD", True)
    image, label = augment(cfg, *aligned, is_train=False)
    assert image.shape == (128, 256, 3) and label.shape == (128, 256)
    np.testing.assert_array_equal(image, augment(cfg, *aligned, is_train=False)[0])


def test_no_class_covers_more_than_its_share_of_a_crop(night):
    classes = np.zeros((180, 320), np.uint8)
    classes[:, 280:] = 3  # a random crop of 128 x 128 holds it rarely
    limit = ("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 0.95, "INPUT.RANDOM_FLIP", "none")

    def shares(cfg):
        np.random.seed(3)
        crops = [augment(cfg, np.zeros((180, 320, 3), np.uint8), classes)[1] for _ in range(40)]
        return np.array([(crop == 0).mean() for crop in crops])

    limited, free = shares(night(*CROP, *limit)), shares(night(*CROP, *limit[2:]))
    # Ten attempts per crop fail seldom.
    assert (limited <= 0.95).mean() > 0.6 > 0.3 > (free <= 0.95).mean()


def test_distortion_changes_colours_only(aligned):
    picture, classes = aligned
    np.random.seed(1)
    outputs = []
    for _ in range(32):
        inputs = T.AugInput(picture, sem_seg=classes)
        T.AugmentationList(photometric_distortion())(inputs)
        np.testing.assert_array_equal(inputs.sem_seg, classes)
        assert inputs.image.dtype == np.uint8 and inputs.image.shape == picture.shape
        outputs.append(inputs.image)
    unchanged = sum(np.array_equal(output, picture) for output in outputs)
    # Each of four changes is left out for half of the pictures: 1 of 16 stays as it is.
    assert 1 <= unchanged <= 6
    # Pixels of one colour stay of one colour: nothing moves.
    for output in outputs:
        for index in np.unique(classes):
            pixels = output[classes == index]
            assert (pixels == pixels[0]).all()


def test_hue_turns_as_colorsys_does():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.random.seed(2)
    transform = RandomHue(0.1).get_transform(picture)
    np.random.seed(2)
    turn = np.random.uniform(-0.1, 0.1)
    assert abs(turn) > 0.01
    expected = np.empty(picture.shape)
    for index in np.ndindex(5, 7):
        h, s, v = colorsys.rgb_to_hsv(*(picture[index] / 255))
        expected[index] = np.multiply(colorsys.hsv_to_rgb((h + turn) % 1, s, v), 255)
    np.testing.assert_allclose(transform.apply_image(picture), expected, atol=1.5)
