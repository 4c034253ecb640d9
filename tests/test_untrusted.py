"""Files from elsewhere: each test makes an attack, shows that it works, and that it does not here.

`tests/faults/malformed.py` has more of them, through the commands.
"""

import json
import pickle
import shutil
import struct
import warnings
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.data.datasets.pascal_voc import CLASS_NAMES
from PIL import Image
from transformers import AutoConfig

from tadp_d2.captioning.blip2 import CAPTIONER, Captioner
from tadp_d2.captioning.store import CaptionStore
from tadp_d2.config.load import load_config
from tadp_d2.data.images import decode, read_rgb, read_size, set_pixel_limit
from tadp_d2.data.readers.pascal_voc import load_voc, read_annotation
from tadp_d2.data.texts import Caption
from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.diffusion.families import find_model
from tadp_d2.diffusion.model_folder import (
    STABLE_DIFFUSION,
    TEACHABLE,
    find_folder,
)
from tadp_d2.diffusion.stable_diffusion import load_unet, load_vae
from tadp_d2.diffusion.tokens import read_tokens
from tadp_d2.engine.checkpoint import check_checkpoint
from tadp_d2.errors import UserError
from tadp_d2.personalization.output import OutputFolder

CONFIG = Path(__file__).parents[1] / "configs" / "voc2watercolor_null.yaml"


class Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.fixture
def marker(tmp_path):
    """What an attack creates."""
    return tmp_path / "executed"


def works(marker, run):
    """Whether an attack creates its file in unsafe hands; removes the file."""
    run()
    created = marker.exists()
    marker.unlink(missing_ok=True)
    return created


def test_configs_execute_nothing(tmp_path, marker):
    text = f"SEED: !!python/object/apply:os.mknod ['{marker}']\n"
    assert works(marker, lambda: yaml.unsafe_load(text))
    (tmp_path / "attack.yaml").write_text(f"_BASE_: {CONFIG}\n{text}")
    (tmp_path / "child.yaml").write_text("_BASE_: attack.yaml\nSEED: 2\n")
    for name in ("attack", "child"):
        with pytest.raises(UserError, match="attack.yaml:2: not a safe YAML file"):
            load_config(str(tmp_path / f"{name}.yaml"))
    with pytest.raises(UserError, match="command line"):
        load_config(str(CONFIG), overrides=["SEED", f"__import__('os').mknod('{marker}')"])
    assert not marker.exists()


def test_checkpoints_tokens_and_optimizer_states_execute_nothing(tmp_path, marker):
    states = {"model": {"a": torch.zeros(2)}, "optimizer": Attack(marker)}
    for zipped in (True, False):
        file = tmp_path / f"attack_{zipped}.bin"
        torch.save(states, file, _use_new_zipfile_serialization=zipped)
        assert works(marker, lambda file=file: torch.load(file, weights_only=False))
        with pytest.raises(UserError, match="cannot be read as a checkpoint"):
            check_checkpoint(str(file))
        with pytest.raises(UserError, match="cannot be read as learned tokens"):
            read_tokens(file)
        output = OutputFolder(tmp_path / "run", "artifact.json")
        output.checkpoint.parent.mkdir(exist_ok=True)
        shutil.copy(file, output.checkpoint)
        with pytest.raises(UserError, match="cannot be read"):
            output.load()
    assert not marker.exists()


@pytest.mark.parametrize(
    "part, file, load",
    [
        ("unet", "diffusion_pytorch_model", lambda folder: load_unet(folder / "unet")),
        ("vae", "diffusion_pytorch_model", load_vae),
        ("text_encoder", "pytorch_model", TextEncoder.from_pretrained),
    ],
)
def test_models_of_older_formats_execute_nothing(model_folder, tmp_path, marker, part, file, load):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    (weights,) = (folder / part).glob("*.safetensors")
    weights.unlink()
    torch.save({"a": Attack(marker)}, folder / part / f"{file}.bin")
    assert works(marker, lambda: torch.load(folder / part / f"{file}.bin", weights_only=False))
    with pytest.raises(UserError, match=f"{part}: cannot be loaded"):
        load(folder)
    assert not marker.exists()


def test_xml_expands_nothing_and_reads_no_other_file(tmp_path):
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 9))
    bomb = f'<!DOCTYPE a [<!ENTITY e0 "ha">{levels}]><annotation>&e{{}};</annotation>'
    assert len(ET.fromstring(bomb.format(3)).text) == 2000  # eight levels: 200 MB
    secret = tmp_path / "secret"
    secret.write_text("42")
    outside = (
        f'<!DOCTYPE a [<!ENTITY e SYSTEM "{secret.as_uri()}">]><annotation><size><width>&e;'
        "</width><height>1</height></size></annotation>"
    )
    for text in (bomb.format(8), outside):
        for encoding in ("utf-8", "utf-16"):
            (tmp_path / "1.xml").write_bytes(text.encode(encoding))
            with pytest.raises(UserError, match="1.xml: .*document type"):
                read_annotation(tmp_path / "1.xml", CLASS_NAMES)


def png(width, height):
    """A picture of any size in 60 bytes."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x\x9c")


@pytest.fixture
def pixel_limit():
    """set_pixel_limit, for one test."""
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        yield set_pixel_limit
    Image.MAX_IMAGE_PIXELS = before


def test_image_bombs_are_refused_at_a_limit_that_can_be_set(tmp_path, pixel_limit, make_config):
    pixel_limit(make_config().INPUT.MAX_PIXELS)
    for side in (9_460, 65_000):  # just above the limit; 4 GB when decoded
        (tmp_path / "bomb.png").write_bytes(png(side, side))
        with pytest.raises(UserError, match="bomb.png: .*too large: .*INPUT.MAX_PIXELS"):
            read_size(tmp_path / "bomb.png")
    Image.new("L", (100, 100)).save(tmp_path / "grey.png")
    for limit, refused in ((9_999, True), (10_000, False)):
        pixel_limit(limit)
        if refused:
            with pytest.raises(UserError, match="too large"):
                decode(tmp_path / "grey.png")
        else:
            decode(tmp_path / "grey.png")


def test_pictures_start_no_program(tmp_path):
    """Pillow decodes PostScript by running Ghostscript."""
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    (tmp_path / "1.jpg").write_text(text)
    with Image.open(tmp_path / "1.jpg") as image:
        assert image.format == "EPS"
    with pytest.raises(UserError, match="1.jpg: cannot be read as an image"):
        read_size(tmp_path / "1.jpg")
    with pytest.raises(UserError, match="1.jpg: cannot be read as an image"):
        read_rgb(tmp_path / "1.jpg")


def test_splits_and_annotations_do_not_leave_the_data_set(tmp_path):
    annotation = "<annotation><folder>/etc</folder><filename>{}</filename><size><width>9</width>"
    annotation += "<height>9</height></size></annotation>"
    root = tmp_path / "set"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    # Both are where the ids lead to.
    for base, name in ((root, "outside"), (root / "Annotations", "1")):
        (base / f"{name}.xml").write_text(annotation.format("../../outside.jpg"))
    for path in (root / "outside.jpg", root / "JPEGImages" / "1.jpg"):
        Image.new("L", (9, 9)).save(path)
    split = root / "ImageSets" / "Main" / "test.txt"
    for image_id in ("../outside", str(root / "outside"), "../Annotations/../outside"):
        split.write_text(f"1\n{image_id}\n")
        with pytest.raises(UserError, match=r"test.txt:2: .*without folder"):
            load_voc(root, "test", "set", CLASS_NAMES)
    split.write_text("1\n")
    (entry,) = load_voc(root, "test", "set", CLASS_NAMES)
    assert entry["file_name"] == str(root / "JPEGImages" / "1.jpg")


def test_image_ids_of_captions_are_never_paths(tmp_path):
    """A caption file is one file, whatever its ids are."""
    path = tmp_path / "captions" / "set.jsonl"
    with CaptionStore(path, "set", {}) as store:
        store.add_captions({"../../outside": Caption("a dog"), "/etc/passwd": Caption("a cat")})
        store.add_cleaned({"../../outside": ("a dog", {})})
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


def test_hub_models_can_be_pinned_and_come_without_pickles(model_folder, tmp_path, monkeypatch):
    models = tmp_path / "models--owner--name"
    for revision in ("a" * 40, "b" * 40):
        shutil.copytree(model_folder, models / "snapshots" / revision)
    (models / "refs").mkdir()
    (models / "refs" / "main").write_text("b" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert find_model("owner/name", "a" * 40)[1].name == "a" * 40
    assert find_model("owner/name")[1].name == "b" * 40

    asked = {}
    monkeypatch.setattr(
        "tadp_d2.diffusion.model_folder.snapshot_download",
        lambda *_, **how: asked.update(how) or "",
    )
    monkeypatch.setattr("tadp_d2.diffusion.model_folder._cached", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for kind in (STABLE_DIFFUSION, TEACHABLE, CAPTIONER):
        with pytest.raises(UserError, match="lacks"):
            find_folder(kind, "owner/name", "c" * 40)
        assert asked["revision"] == "c" * 40
        assert not [name for name in asked["allow_patterns"] if name.endswith((".bin", ".py"))]


def test_code_in_a_model_folder_is_never_run(world, model_folder, tmp_path, marker):
    code = (
        f"open({str(marker)!r}, 'w')\n"
        "from transformers import PretrainedConfig\n"
        "class Config(PretrainedConfig):\n    pass\n"
    )
    for source, name in ((model_folder, "diffusion"), (world / "blip2-tiny", "blip2")):
        shutil.copytree(source, tmp_path / name)
        for config in (tmp_path / name).rglob("config.json"):
            (config.parent / "attack.py").write_text(code)
            content = json.loads(config.read_text())
            classes = ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor")
            content["auto_map"] = {kind: "attack.Config" for kind in classes}
            config.write_text(json.dumps(content))
    unknown = tmp_path / "unknown"
    shutil.copytree(tmp_path / "blip2", unknown)
    content = json.loads((unknown / "config.json").read_text())
    (unknown / "config.json").write_text(json.dumps({**content, "model_type": "of the attacker"}))
    assert works(marker, lambda: AutoConfig.from_pretrained(unknown, trust_remote_code=True))

    for load, folder in (
        (load_unet, tmp_path / "diffusion" / "unet"),
        (load_vae, tmp_path / "diffusion"),
        (TextEncoder.from_pretrained, tmp_path / "diffusion"),
    ):
        with pytest.raises(UserError, match="auto_map is .*not computed here"):
            load(folder)
    Captioner.from_pretrained(str(tmp_path / "blip2"), device="cpu")
    with pytest.raises(UserError, match="unknown: cannot be loaded"):
        Captioner.from_pretrained(str(unknown), device="cpu")
    assert not marker.exists()


def test_an_attack_that_is_no_archive(tmp_path, marker):
    file = tmp_path / "attack.pth"
    file.write_bytes(pickle.dumps(Attack(marker)))
    assert works(marker, lambda: pickle.loads(file.read_bytes()))
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        check_checkpoint(str(file))
    assert not marker.exists()
