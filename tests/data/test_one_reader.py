"""Whoever reads an image file sees the same pixels, or all refuse it, over a grid of encodings."""

from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from tadp_d2.captioning.caption import caption_images
from tadp_d2.captioning.sets import CaptionImage
from tadp_d2.data.datasets.art import register_target
from tadp_d2.data.images import read_size
from tadp_d2.data.mapper import ConditionedMapper
from tadp_d2.data.texts import write_captions
from tadp_d2.diffusion.latent_cache import LatentCache
from tadp_d2.doctor.dataset_check import check_dataset
from tadp_d2.doctor.findings import Kind
from tadp_d2.errors import UserError
from tadp_d2.inference.predictions import PredictionJob, predict_pictures
from tadp_d2.personalization.training_images import read_pictures
from tadp_d2.visualization.gallery import Gallery

from .encodings import HEIGHT, WIDTH, grid

FILES = dict(grid())


class Seen(Exception):
    """Carries the pixels that a reader hands on."""


def show(pixels, *_):
    raise Seen(np.asarray(pixels))


def entry(path):
    return {"file_name": str(path), "image_id": path.name, "annotations": []}


def mapped(cfg, is_train):
    mapper = ConditionedMapper(cfg, is_train=is_train)
    return lambda path: mapper(entry(path))["image"].permute(1, 2, 0).numpy()


def cached(cfg, folder):
    """What an image is read as whose latents are not in the cache yet."""
    mapper = ConditionedMapper(cfg, is_train=False)
    mapper.cache = LatentCache(folder, 1, '{"multiple": 8, "stride": 8, "channels": 4}')

    def read(path):
        width, height = read_size(path)
        mapped = mapper({**entry(path), "width": width, "height": height})
        assert mapped["latents"].value is None
        return mapped["image"].permute(1, 2, 0).numpy()

    return read


class Predictor:
    reads = "caption"
    prompt = staticmethod(str)
    __call__ = staticmethod(show)


def predict(path):
    folder = SimpleNamespace(file=lambda name: path.parent / "out" / f"{name}.json")
    unreadable = predict_pictures([PredictionJob(path, path.name, "")], Predictor(), folder, {})
    raise UserError(f"cannot be read as an image ({unreadable[path]})")


def caption(path):
    source = SimpleNamespace(
        made_by={"tool": "test", "source": "test"},
        needs_pictures=True,
        texts=lambda images, pictures: show(pictures[0]),
    )
    caption_images([CaptionImage(path.name, path)], source, path.parent / "c.jsonl", "set")


def invert(path):
    ((image,), _) = read_pictures([path], size=min(WIDTH, HEIGHT))
    return image.pixels.permute(1, 2, 0).numpy()


class Drawing(Gallery):
    """Of a task that shows what it is to draw on."""

    def __init__(self, path):
        self._task = SimpleNamespace(draw_truth=lambda dataset, pixels, truth: show(pixels))
        self._dataset, self._entries, self._count = "set", {path.name: {}}, 1
        self.reset()


def gallery(path):
    Drawing(path).process([entry(path)], [{}])


@pytest.fixture
def readers(make_config, tmp_path):
    side = min(WIDTH, HEIGHT)
    cfg = make_config(
        *("INPUT.RESIZE", "shortest_edge", "INPUT.RANDOM_FLIP", "none"),
        *("INPUT.MIN_SIZE_TRAIN", (side,), "INPUT.MIN_SIZE_TEST", side),
    )
    return {
        "training": mapped(cfg, is_train=True),
        "evaluation": mapped(cfg, is_train=False),
        "with cached latents": cached(cfg, tmp_path / "cache"),
        "predict": predict,
        "caption": caption,
        "invert": invert,
        "gallery": gallery,
    }


def seen_by(reader, path):
    """The pixels, or None if the file is refused."""
    try:
        return reader(path)
    except Seen as seen:
        return seen.args[0]
    except UserError as error:
        assert "cannot be read as an image" in str(error)
        return None


@pytest.fixture
def voc(tmp_path):
    """A VOC folder with all files, each of the size that was written."""
    root = tmp_path / "set"
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Main/test.txt").write_text("\n".join(FILES))
    register_target("encodings", root, "test")
    write_captions(tmp_path / "encodings.jsonl", "encodings", dict.fromkeys(FILES, "noise"), {})
    yield root
    DatasetCatalog.remove("encodings")
    MetadataCatalog.remove("encodings")


def test_all_see_the_same_and_the_doctor_knows_it(readers, voc, make_config, tmp_path):
    refused, tiffs = set(), 0
    for name, content in FILES.items():
        path = tmp_path / name
        path.write_bytes(content)
        expected = seen_by(readers["training"], path)
        for reader in readers:
            pixels = seen_by(readers[reader], path)
            assert (pixels is None) == (expected is None), (name, reader)
            assert pixels is None or np.array_equal(pixels, expected), (name, reader)
        # Where the data set asks for .jpg, a TIFF is refused.
        tiff = name.endswith(".tif")
        tiffs += tiff
        if expected is None or tiff:
            refused.add(name)
        width, height = (WIDTH, HEIGHT) if expected is None else expected.shape[1::-1]
        (voc / f"JPEGImages/{name}.jpg").write_bytes(content)
        (voc / f"Annotations/{name}.xml").write_text(
            f"<annotation><size><width>{width}</width><height>{height}</height></size></annotation>"
        )
    findings = check_dataset(make_config("TEXT.CAPTION_DIR", str(tmp_path)), "encodings")
    problems = [finding.text for finding in findings if finding.kind is Kind.PROBLEM]
    assert {problem.split(".jpg: ")[0].split("/")[-1] for problem in problems} == refused
    assert all("cannot be read as an image" in problem for problem in problems)
    assert 30 < len(refused) - tiffs < len(FILES) / 2
