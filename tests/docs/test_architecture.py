"""The examples of docs/architecture.md, as a program of a user's runs them.

That of a new task is `tests/tasks/test_own_task.py`.
"""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from diffusers import AutoencoderTiny
from PIL import Image

from tadp_d2.conditioning.conditioner import CONDITIONER_REGISTRY
from tadp_d2.data.loader import load_dataset
from tadp_d2.data.root import datasets_root
from tadp_d2.diffusion import families
from tadp_d2.engine.optimizer import build_optimizer
from tadp_d2.modeling.backbone import find_diffusion_backbone
from tadp_d2.records.provenance import Provenance

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


def example(title: str) -> dict:
    """What the code below a title defines."""
    section = PAGE.read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S)
    defined = {"__name__": __name__}
    exec(code, defined)
    return defined


@pytest.fixture
def inputs():
    pixels = torch.full((3, 128, 128), 100, dtype=torch.uint8)
    return [{"image": pixels, "height": 128, "width": 128, "caption": "a dog", "image_id": "1"}]


def test_the_conditioner_is_trained_with_a_group_of_its_own(make_config, inputs):
    example("A new conditioner")
    try:
        cfg = make_config("MODEL.CONDITIONER.NAME", "LearnedPrompt")
        model = build_model(cfg)
        backbone = find_diffusion_backbone(model)
        plain = build_model(make_config())
        maps = {"s4": 16 - 77, "s5": 16 - 77}
        for level, shape in find_diffusion_backbone(plain).output_shape().items():
            channels = backbone.output_shape()[level].channels
            assert channels == shape.channels + maps.get(level, 0)
        groups = build_optimizer(cfg, model).param_groups
        (own,) = [g for g in groups if any(p is model.conditioner.tokens for p in g["params"])]
        assert own["lr"] == cfg.SOLVER.BASE_LR * cfg.SOLVER.CONDITIONER_LR_FACTOR
        with backbone.conditioned(lambda *images: model.conditioner(inputs, *images)):
            sum(m.mean() for m in backbone(torch.zeros(1, 3, 128, 128)).values()).backward()
        assert model.conditioner.tokens.grad.abs().sum() > 0
        assert "instances" in model.eval()(inputs)[0]
    finally:
        CONDITIONER_REGISTRY._obj_map.pop("LearnedPrompt")


def test_the_diffusion_model_is_opened_by_its_folder(
    make_config, model_folder, tmp_path, inputs, monkeypatch
):
    monkeypatch.setattr(families, "FAMILIES", list(families.FAMILIES))
    defined = example("A new diffusion model")
    folder = tmp_path / "small"
    shutil.copytree(model_folder, folder)
    shutil.rmtree(folder / "vae")
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("AutoencoderKL", "AutoencoderTiny"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        widths = {f"{half}_block_out_channels": (8, 8, 8, 8) for half in ("encoder", "decoder")}
        AutoencoderTiny(**widths).save_pretrained(folder / "vae")
    cfg = make_config("MODEL.DIFFUSION.WEIGHTS", str(folder))
    model = build_model(cfg).eval()
    encoder = find_diffusion_backbone(model).latent_encoder.module
    assert isinstance(encoder, defined["SmallLatentEncoder"])
    assert encoder(torch.zeros(1, 3, 128, 64)).shape == (1, 4, 16, 8)
    assert "instances" in model(inputs)[0]
    assert Provenance(cfg, model).record["vae_options"] == {"latent_channels": 4}
    # Other folders are opened as before.
    others = build_model(make_config()).eval()
    assert not isinstance(
        find_diffusion_backbone(others).latent_encoder.module, defined["SmallLatentEncoder"]
    )


def test_the_data_set_is_read_strictly_by_its_name(make_segmentation_config, world):
    root = datasets_root() / "fields"
    example("A new data set")
    try:
        for folder in ("images/north", "labels/north"):
            (root / folder).mkdir(parents=True)
        pixels = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)
        Image.fromarray(pixels).save(root / "images" / "north" / "1.jpg")
        Image.fromarray(pixels % 3).save(root / "labels" / "north" / "1.png")
        cfg = make_segmentation_config("MODEL.CONDITIONER.NAME", "EmptyText")
        (entry,) = load_dataset(cfg, "fields_val")
        assert entry["image_id"] == "north/1.jpg"
        assert entry["sem_seg_file_name"] == str(root / "labels" / "north" / "1.png")
        assert (entry["height"], entry["width"]) == (20, 30)
    finally:
        shutil.rmtree(root)
        DatasetCatalog.remove("fields_val")
        MetadataCatalog.remove("fields_val")
