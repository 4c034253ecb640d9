import copy
import hashlib
import itertools
import shutil

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from PIL import Image
from pycocotools.mask import encode

from tadp_d2.data import decoded_files
from tadp_d2.data.loader import load_dataset
from tadp_d2.data.mapper import ConditionedMapper, is_cacheable
from tadp_d2.diffusion.latent_cache import LatentCache
from tadp_d2.engine.trainer import Trainer
from tadp_d2.errors import UserError
from tadp_d2.randomness import seeded

FOLDER = "MODEL.DIFFUSION.LATENT_CACHE.FOLDER"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "latents"


@pytest.fixture
def cfg(make_config, folder):
    return make_config(FOLDER, str(folder), "MODEL.DEVICE", "cpu")


@pytest.fixture
def entries(cfg):
    return load_dataset(cfg, "voc_2007_trainval", training=True)[:4]


def map_all(cfg, entries, is_train=True):
    mapper = ConditionedMapper(cfg, is_train)
    inputs = []
    for number, entry in enumerate(entries):
        with seeded("test", number):
            inputs.append(mapper(entry))
    return inputs


def features(model, inputs):
    images = model.preprocess_image(inputs)
    with torch.no_grad(), model._condition_on(inputs):
        return model.backbone(images.tensor)


def files(folder):
    return sorted(folder.rglob("*.fp16"))


def test_the_second_look_gives_the_same_bits_and_decodes_no_image(
    cfg, entries, folder, monkeypatch
):
    model = Trainer.build_model(cfg)
    cold = map_all(cfg, entries)
    assert all(inputs["latents"].value is None for inputs in cold)
    first = features(model, cold)
    monkeypatch.setattr(decoded_files, "decode", lambda _: pytest.fail("an image was decoded"))
    monkeypatch.setattr(
        model.backbone.bottom_up.latent_encoder.module.vae,
        "encode",
        lambda *_: pytest.fail("the VAE ran"),
    )
    warm = map_all(cfg, entries)
    second = features(model, warm)
    # Also in other company.
    alone = features(model, warm[2:3])
    for name in first:
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(alone[name], second[name][2:3], rtol=1e-4, atol=1e-5)
    assert len(files(folder)) == len(entries)


POLYGONS = [[3.0, 4.0, 60.5, 7.0, 40.0, 52.0], [70.0, 60.0, 90.0, 60.0, 90.0, 80.5]]
# Of a left eye, a right eye and a nose that is not there.
KEYPOINTS = [20.0, 30.0, 2.0, 50.0, 10.5, 1.0, 0.0, 0.0, 0.0]


def run_lengths(entry):
    mask = np.zeros((entry["height"], entry["width"]), np.uint8, order="F")
    mask[5:41, 7:73] = 1
    return encode(mask)


@pytest.mark.parametrize(
    "masks, mask_format",
    [(False, "polygon"), (True, "polygon"), (True, "bitmask"), (run_lengths, "bitmask")],
)
def test_objects_are_those_of_the_stock_mapper(cfg, entries, masks, mask_format):
    """Boxes, masks, and keypoints, whose sides mirroring swaps; of known images and others."""
    entries = copy.deepcopy(entries)
    for entry in entries:
        for obj in entry["annotations"]:
            obj["segmentation"] = masks(entry) if callable(masks) else POLYGONS
            obj["keypoints"] = KEYPOINTS
        entry["annotations"].append({**obj, "iscrowd": 1})
    mapper = ConditionedMapper(cfg, is_train=True)
    mapper.use_instance_mask, mapper.instance_mask_format = bool(masks), mask_format
    mapper.use_keypoint, mapper.keypoint_hflip_indices = True, [1, 0, 2]
    stock = copy.copy(mapper)
    stock.cache = None
    shape = mapper.cache._shape((128, 128))
    flips = 0
    for number, (entry, known) in enumerate(itertools.product(entries, (False, True))):
        with seeded("test", number // 2):
            inputs = mapper(entry)
        with seeded("test", number // 2):
            plain = DatasetMapper.__call__(stock, entry)
        assert (inputs["latents"].value is not None) == known
        inputs["latents"].keep(torch.zeros(shape, dtype=torch.float16))
        assert plain["image"].shape == inputs["image"].shape
        assert plain.keys() | {"latents"} == inputs.keys()
        expected, found = plain["instances"].get_fields(), inputs["instances"].get_fields()
        assert expected.keys() == found.keys() >= {"gt_boxes", "gt_classes", "gt_keypoints"}
        assert ("gt_masks" in expected) == bool(masks)
        for name in expected:
            assert values(expected[name]) == values(found[name])
        original = utils.read_image(entry["file_name"], format="RGB")
        resized = np.asarray(Image.fromarray(original).resize((128, 128), Image.BILINEAR))
        flips += not np.array_equal(plain["image"].permute(1, 2, 0), resized)
    assert 0 < flips < 2 * len(entries)


def values(field):
    """The numbers of a field of instances, as lists."""
    numbers = getattr(field, "polygons", getattr(field, "tensor", field))
    if isinstance(numbers, list):
        return [[part.tolist() for part in polygons] for polygons in numbers]
    return numbers.tolist()


def test_half_precision_costs_at_most_half_a_unit_in_the_last_place(cfg, entries, folder):
    model = Trainer.build_model(cfg)
    inputs = map_all(cfg, entries)
    features(model, inputs)
    exact = model.backbone.bottom_up.latent_encoder(model.preprocess_image(inputs).tensor)
    kept = torch.stack([map_all(cfg, entries)[i]["latents"].value for i in range(len(entries))])
    error = (kept.float() - exact).abs()
    assert (error <= exact.abs() * 2**-11 + 1e-5).all()
    assert error.max() > 0


def test_damaged_latents_are_made_anew(cfg, entries, folder):
    model = Trainer.build_model(cfg)
    before = features(model, map_all(cfg, entries))
    healthy = [file.read_bytes() for file in files(folder)]
    files(folder)[0].write_bytes(healthy[0][:100])
    files(folder)[1].write_bytes(healthy[1][:-1] + bytes([healthy[1][-1] ^ 1]))
    # As after a crash before the numbers reached the disk.
    files(folder)[2].write_bytes(healthy[2][:32] + bytes(len(healthy[2]) - 32))
    files(folder)[3].write_bytes(b"")
    after = features(model, map_all(cfg, entries))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [file.read_bytes() for file in files(folder)] == healthy


def test_a_full_cache_takes_no_more_and_is_still_read(make_config, folder):
    each = 4 * 16 * 16 * 2 + 32
    limit = 256 * each / 2**30  # one file in each of 256 folders
    cfg = make_config(
        FOLDER, str(folder), "MODEL.DIFFUSION.LATENT_CACHE.LIMIT", limit, "MODEL.DEVICE", "cpu"
    )
    model = Trainer.build_model(cfg)
    entries = load_dataset(cfg, "voc_2007_trainval", training=True)

    def of_four_folders():
        found = {own["latents"].file.parent: own for own in map_all(cfg, entries)}
        return list(found.values())[:4]

    inputs = of_four_folders()
    # Three of the four folders are full before.
    for own in inputs[:3]:
        file = own["latents"].file
        file.parent.mkdir(parents=True)
        (file.parent / "other.fp16").write_bytes(b"x")
    before = features(model, inputs)
    kept = [file for file in files(folder) if file.name != "other.fp16"]
    assert kept == [inputs[3]["latents"].file]
    again = of_four_folders()
    assert [own["latents"].value is None for own in again] == [True, True, True, False]
    after = features(model, again)
    assert all(torch.equal(before[level], after[level]) for level in before)


def test_a_limit_without_room_for_an_image_is_refused(make_config, entries, folder):
    cfg = make_config(FOLDER, str(folder), "MODEL.DIFFUSION.LATENT_CACHE.LIMIT", 0.0001)
    with pytest.raises(UserError, match="LIMIT is 0.0001 GiB: expected 0.0005.* or more"):
        ConditionedMapper(cfg, is_train=True)


def test_latents_are_used_and_kept_for_their_own_image_only(cfg, entries, folder):
    model = Trainer.build_model(cfg)
    entry = map_all(cfg, entries[:1])[0]
    mirrored = {**entry, "image": entry["image"].flip(2)}
    uncached = {key: value for key, value in mirrored.items() if key != "latents"}
    # A miss: nothing may be kept under the name of the image as it was.
    found, expected = features(model, [mirrored]), features(model, [uncached])
    assert all(torch.equal(found[level], expected[level]) for level in found)
    assert files(folder) == []
    features(model, [entry])
    # A hit: what stands in for the image says nothing of the image in the mirror.
    known = map_all(cfg, entries[:1])[0]
    assert known["latents"].value is not None
    with pytest.raises(UserError, match="was changed after its latents were taken from the cache"):
        features(model, [{**known, "image": known["image"].flip(2)}])


def test_latents_of_another_shape_are_made_anew(cfg, entries, folder):
    model = Trainer.build_model(cfg)
    before = features(model, map_all(cfg, entries[:1]))
    (file,) = files(folder)
    numbers = bytes(4 * 8 * 16 * 2)
    file.write_bytes(hashlib.sha256(numbers).digest() + numbers)
    after = features(model, map_all(cfg, entries[:1]))
    assert all(torch.equal(before[level], after[level]) for level in before)


def test_whatever_decides_on_latents_is_in_their_name(make_config, folder):
    def name(*overrides, picture=b"picture", size=(128, 128), mirrored=False):
        cfg = make_config(FOLDER, str(folder), *overrides)
        return LatentCache.from_config(cfg).look_up(picture, size, mirrored).file

    names = [
        name(),
        name(picture=b"other"),
        name(size=(128, 64)),
        name(size=(64, 128)),
        name(mirrored=True),
        name("INPUT.FORMAT", "BGR"),
        name("MODEL.PIXEL_MEAN", [0.0, 0.0, 0.0]),
        name("MODEL.PIXEL_STD", [1.0, 1.0, 1.0]),
        name("MODEL.DIFFUSION.LATENT_SCALING", False),
    ]
    assert len(set(names)) == len(names)
    assert name() == names[0]
    assert name("SEED", 7, "MODEL.DIFFUSION.TIMESTEP", 1, "TEXT.MODIFIER", "null") == names[0]


def test_another_vae_has_other_latents(make_config, folder, model_folder, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(model_folder, copy)
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    one = make_config(FOLDER, str(folder), "MODEL.DIFFUSION.WEIGHTS", str(copy))
    before = LatentCache.from_config(one).look_up(b"picture", (64, 64), False).file
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert LatentCache.from_config(one).look_up(b"picture", (64, 64), False).file != before


def test_random_transforms_are_not_cached(make_config, make_segmentation_config):
    assert is_cacheable(make_config(), True) and is_cacheable(make_config(), False)
    assert not is_cacheable(make_config("INPUT.COLOR_AUG_SSD", True), True)
    assert not is_cacheable(make_config("INPUT.COLOR_AUG_DEPTH", True), True)
    assert not is_cacheable(make_config("INPUT.CROP.ENABLED", True), True)
    assert not is_cacheable(make_config("INPUT.RANDOM_FLIP", "vertical"), True)
    assert not is_cacheable(make_config("INPUT.RESIZE", "shortest_edge"), False)
    assert not is_cacheable(make_segmentation_config(), True)
    # Windows are cut out of the picture.
    assert not is_cacheable(make_segmentation_config(), False)
    assert is_cacheable(make_segmentation_config("TEST.WINDOW_SIZE", 0), False)
    assert not is_cacheable(make_config("TEST.AUG.ENABLED", True), False)


def test_a_cache_that_no_image_could_use_is_refused(make_segmentation_config, folder):
    with pytest.raises(UserError, match="LATENT_CACHE.FOLDER is set, and no latents"):
        make_segmentation_config(FOLDER, str(folder))


def test_a_folder_that_cannot_be_made_is_named(make_config, entries, tmp_path):
    (tmp_path / "file").touch()
    cfg = make_config(FOLDER, str(tmp_path / "file" / "latents"), "MODEL.DEVICE", "cpu")
    with pytest.raises(UserError, match="file/latents.*cannot be written"):
        features(Trainer.build_model(cfg), map_all(cfg, entries[:1]))


def test_a_segmentor_tests_from_the_cache(make_segmentation_config, folder):
    cfg = make_segmentation_config(
        FOLDER, str(folder), "TEST.WINDOW_SIZE", 0, "MODEL.DEVICE", "cpu"
    )
    entries = load_dataset(cfg, "cityscapes_val")
    model = Trainer.build_model(cfg).eval()
    with torch.no_grad():
        first = model(map_all(cfg, entries, is_train=False))
        warm = map_all(cfg, entries, is_train=False)
        assert all(inputs["latents"].value is not None for inputs in warm)
        second = model(warm)
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one["sem_seg"], two["sem_seg"])


def test_a_segmentor_trains_from_the_cache(make_segmentation_config, folder):
    options = ("INPUT.CROP.ENABLED", False, "INPUT.COLOR_AUG_SSD", False, "MODEL.DEVICE", "cpu")
    plain = make_segmentation_config(*options)
    cfg = make_segmentation_config(*options, FOLDER, str(folder))
    entries = load_dataset(cfg, "cityscapes_train", training=True)[:2]
    model = Trainer.build_model(cfg).train()
    model(map_all(cfg, entries))
    for one, two in zip(map_all(cfg, entries), map_all(plain, entries), strict=True):
        assert one["latents"].value is not None and "latents" not in two
        assert torch.equal(one["sem_seg"], two["sem_seg"])


def test_at_the_size_of_the_input_with_a_cache_too(make_segmentation_config, folder):
    options = ("TEST.AT_INPUT_SIZE", True, "TEST.WINDOW_SIZE", 0)
    for cache in ("", str(folder)):
        cfg = make_segmentation_config(*options, FOLDER, cache)
        (inputs,) = map_all(cfg, load_dataset(cfg, "cityscapes_val")[:1], is_train=False)
        assert (inputs["height"], inputs["width"]) == tuple(inputs["image"].shape[1:])
